"""Studies that train: on small data of their own, against autograd, and with what goes wrong."""

import copy
import dataclasses
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import jacobians as jac
from benchmarks.records import csv_file
from benchmarks.run.environment import ROOT
from plots import figures
from plots.chart import study_charts
from plots.charts import probabilities as probabilities_chart
from studies import (
    STUDIES,
    Options,
    data,
    find_study,
    from_scratch,
    image_ascent,
    initialisation,
    layers,
    probabilities,
    published,
    read,
    regression,
    run,
    saturation,
    training,
)

SETS = {"classes": ("digits", "mnist", "fashion-mnist"), "numbers": ("diabetes", "california-housing")}


def classes(count, width=16, names=3, seed=0):
    """Classes that can be told apart."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % names
    centres = torch.rand(names, width, generator=generator)
    x = (centres[target] + 0.05 * torch.randn(count, width, generator=generator)).clamp(0, 1)
    return data.DataSet(x, target, tuple("abcdefghij"[:names]))


def numbers(count, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator)
    return data.DataSet(x, 3 * x[:, :1] + 50, tuple("abcd"[:width]))


@pytest.fixture
def give(monkeypatch):
    """Put a data set in the place of every set."""

    def put(one):
        for name in data.SETS:
            monkeypatch.setitem(data.SETS, name, lambda directory: one)

    put(classes(60))
    monkeypatch.setattr(initialisation, "HIDDEN", (6,) * 8)
    monkeypatch.setattr(initialisation, "EPOCHS", 2)
    monkeypatch.setattr(initialisation, "UPDATES", 6)
    monkeypatch.setattr(regression, "EPOCHS", 3)
    monkeypatch.setattr(regression, "SEEDS", 2)
    monkeypatch.setattr(layers, "TRAINED_WIDTH", 5)
    monkeypatch.setattr(layers, "EPOCHS", 2)
    monkeypatch.setattr(image_ascent, "HIDDEN", (6, 5))
    monkeypatch.setattr(image_ascent, "EPOCHS", 2)
    monkeypatch.setattr(image_ascent, "STEPS", 10)
    small = tuple(dataclasses.replace(recipe, hidden=(5, 4), epochs=2, updates=50) for recipe in from_scratch.RECIPES)
    monkeypatch.setattr(from_scratch, "RECIPES", small)
    return put


def studied(name, tmp_path, **options):
    """Run a study and draw what it found."""
    study = find_study(name)
    tables = run(study, tmp_path, Options(**options))
    assert study.conclude(tables)
    for chart in study_charts(name, tables):
        assert figures.render(chart, "svg").startswith(b"<?xml")
    return tables


NAMES = ("initialisation", "layers", "image-ascent", "from-scratch", "regression", "saturation")


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_same_tables_twice_but_for_times(name, tmp_path, give):
    if name == "regression":
        give(numbers(60))
    epochs = 3 if name == "saturation" else None
    once = studied(name, tmp_path, epochs=epochs)
    studied(name, tmp_path / "again", epochs=epochs)
    for table in once:
        if not table.endswith("-times"):
            assert (tmp_path / f"{table}.csv").read_bytes() == (tmp_path / "again" / f"{table}.csv").read_bytes(), table
    if name not in {"saturation", "regression"}:
        other = run(find_study(name), tmp_path / "other", Options(seed=1))
        first = list(once)[-1] if name == "layers" else next(iter(once))
        assert other[first] != once[first]


class TestTraining:
    def sgd(self, rate, seed=0):
        mlp = jac.MLP.random(widths=[16, 5, 3], bias=True, seed=seed)
        return mlp, jac.SGD(mlp, lr=rate)

    def test_an_epoch_is_torchs(self):
        part = classes(30)
        order = list(training.batches(30, 7, torch.Generator().manual_seed(0)))
        assert [len(batch) for batch in order] == [7, 7, 7, 7, 2]
        assert sorted(torch.cat(order).tolist()) == list(range(30))
        mlp, sgd = self.sgd(0.1)
        other = from_scratch.Torch(mlp, 0.1)
        torch.testing.assert_close(training.epoch(sgd, part, "cross_entropy", order), other.epoch(part, order))
        single = list(torch.randperm(30).unbind())
        torch.testing.assert_close(training.epoch(sgd, part, "cross_entropy", single), other.epoch(part, single), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            training.evaluate(mlp, part), training.evaluate(lambda x: other.net(x).detach(), part), rtol=1e-4, atol=1e-5
        )

    def test_a_loss_that_is_not_finite_is_told_with_step_and_layer(self):
        part = classes(30)
        part.x[17] = math.inf
        order = list(torch.arange(30).unbind())
        mlp, sgd = self.sgd(0.1)
        with pytest.raises(ArithmeticError, match="the loss at step 117 is nan: its input is not finite; take a smaller rate"):
            training.epoch(sgd, part, "cross_entropy", order, 100)
        assert all(bool(torch.isfinite(p).all()) for p in mlp.parameters()), "the parameters are those before that step"

    def test_weights_that_grow_beyond_the_numbers(self):
        _, sgd = self.sgd(1e30)
        with pytest.raises(ArithmeticError, match="the loss at step 1 is inf: every layer is finite, so it is the loss itself"):
            training.epoch(sgd, classes(30)._replace(target=torch.randn(30, 3)), "mse", [torch.arange(30)] * 9)

    def test_where_a_network_leaves_the_numbers(self):
        mlp = jac.MLP([torch.eye(2), torch.eye(2)], activation="exp")
        assert training.first_layer_not_finite(mlp, torch.tensor([1.0, 2.0])) == "every layer is finite, so it is the loss itself"
        assert training.first_layer_not_finite(mlp, torch.tensor([1.0, 200.0])) == "the values of layer 1 are not finite"
        mlp.weights[1][0, 0] = math.nan
        assert training.first_layer_not_finite(mlp, torch.tensor([1.0, 2.0])) == "the weights of layer 2 are not finite"


@pytest.mark.long
@pytest.mark.parametrize("name", ["initialisation", "layers", "image-ascent", "from-scratch"])
@pytest.mark.parametrize(
    "one",
    [classes(60, names=1), classes(2, names=1), data.DataSet(torch.full((40, 16), 0.5), torch.arange(40) % 2, ("a", "b"))],
    ids=["one class", "two samples", "constant features"],
)
def test_poor_data_give_clear_results(name, one, tmp_path, give):
    give(one)
    tables = studied(name, tmp_path, epochs=1)
    assert all(tables.values())


@pytest.mark.parametrize("name", ["initialisation", "layers", "image-ascent", "from-scratch"])
def test_one_sample_is_one_line(name, tmp_path, give):
    give(classes(1))
    with pytest.raises(ValueError, match="needs samples for training and for tests, got 1 in all"):
        run(find_study(name), tmp_path, Options())


def test_layers_of_a_network():
    mlp = initialisation.network("Xavier uniform", (16, 6, 5, 3), seed=2)
    part = classes(20)
    rows = list(initialisation.layers_of(mlp, part.x, part.target))
    parameters = [W.clone().requires_grad_() for W in mlp.weights]
    h, hidden = part.x, []
    for W in parameters[:-1]:
        h = torch.tanh(h @ W.mT)
        hidden.append(h)
    grads = torch.autograd.grad(nn.functional.cross_entropy(h @ parameters[-1].mT, part.target), parameters)
    for row, grad in zip(rows, grads, strict=True):
        assert row["gradient_norm"] == pytest.approx(float(grad.norm()), rel=1e-4)
    assert math.isnan(rows[-1]["saturated"])
    assert rows[0]["saturated"] == float((hidden[0].abs() > 0.99).double().mean())
    J = torch.stack([torch.autograd.functional.jacobian(lambda x: torch.tanh(x @ mlp.weights[0].mT), x) for x in part.x[:16]])
    assert rows[0]["largest_singular_value"] == pytest.approx(float(torch.linalg.svdvals(J)[:, 0].mean()), rel=1e-4)
    for init, bound in (("U(±0.01)", 0.01), ("U(±2)", 2.0), ("Xavier uniform", math.sqrt(6 / 22))):
        W = initialisation.network(init, (16, 6), seed=0).weights[0]
        assert 0.8 * bound < float(W.abs().max()) <= bound


class TestInitialisation:
    def test_an_epoch_is_that_of_autograd_and_counts_before_each_update(self):
        part, mlp = classes(30), initialisation.network("Xavier uniform", (16, 6, 3), seed=0)
        net, losses, right = mlp.to_torch(), [], []
        optimizer = torch.optim.SGD(net.parameters(), lr=initialisation.RATE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(initialisation, "BATCH", 8)
            patch.setattr(initialisation, "UPDATES", 5)
            assert len(initialisation.whole_batches(part).x) == 24
            rows = list(initialisation.train(mlp, initialisation.whole_batches(part), 2))
        for step in range(10):
            at = slice(8 * (step % 3), 8 * (step % 3) + 8)  # in the order of the samples, without the smaller last batch
            optimizer.zero_grad()
            y = net(part.x[at])
            loss = nn.functional.cross_entropy(y, part.target[at])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            right.append((y.argmax(1) == part.target[at]).double().mean().item())
        assert [row["updates"] for row in rows] == [5, 10]
        for row, steps in zip(rows, (slice(5), slice(5, 10)), strict=True):
            assert row["train_loss"] == pytest.approx(sum(losses[steps]) / 5, rel=1e-5)
            assert row["train_accuracy"] == pytest.approx(sum(right[steps]) / 5)


class TestRegression:
    def test_data_without_spread(self, tmp_path, give):
        one = numbers(60)
        give(data.DataSet(torch.ones(60, 4), torch.full((60, 1), 7.0), one.names))
        rows = studied("regression", tmp_path, data="california-housing", epochs=1)["regression"]
        assert {row["test_mse_of_the_mean"] for row in rows} == {0}

    def test_it_learns_and_the_first_layer_stays(self, tmp_path, give):
        give(numbers(200)._replace(target=numbers(200).x[:, :1].tanh()))
        tables = studied("regression", tmp_path, data="california-housing")
        for layer in regression.LAYERS:
            assert regression.spread(tables["regression"], layer)[2] < 0.7 * tables["regression"][0]["test_mse_of_the_mean"]
        assert len(tables["regression-curves"]) == 2 * 2 * 3
        assert max(row["difference_norm"] for row in tables["regression-gradient"] if row["dtype"] == "float32") < 1e-6
        assert max(row["difference_norm"] for row in tables["regression-gradient"] if row["dtype"] == "float64") < 1e-14
        start = regression.network((4, regression.HIDDEN, 1), 0)
        for layer, stays in (("fixed", True), ("trained", False)):
            ((mlp, _),) = regression.train(layer, numbers(40), 1, 0, [numbers(40)] * 2)
            assert torch.equal(mlp.weights[0], start.weights[0]) == stays
            assert not torch.equal(mlp.weights[1], start.weights[1])

    @pytest.mark.parametrize("layer", regression.LAYERS)
    def test_training_is_torchs(self, layer, monkeypatch):
        monkeypatch.setattr(regression, "UPDATES", 7)
        part = numbers(100)
        rows = [row for _, row in regression.train(layer, part, 2, 3, [part] * 2)]
        net = regression.network((4, regression.HIDDEN, 1), 3).to_torch()
        parameters = list(net.parameters())
        adam = torch.optim.Adam(parameters[layer == "fixed" :], lr=1e-3)
        generator, losses = torch.Generator().manual_seed(3), []
        order = [at for _ in range(7) for at in training.batches(100, 64, generator)]
        for at in order:
            adam.zero_grad()
            loss = nn.functional.mse_loss(net(part.x[at]), part.target[at])
            loss.backward()
            adam.step()
            losses.append(loss.item())
        assert rows[0]["train_mse"] == pytest.approx(sum(losses[:7]) / 7, rel=1e-5)
        assert rows[1]["train_mse"] == pytest.approx(sum(losses[7:14]) / 7, rel=1e-5)
        with torch.no_grad():
            whole = (net(part.x) - part.target).square()
        assert rows[1]["validation_mse"] == pytest.approx(float((whole[:64].mean() + whole[64:].mean()) / 2), rel=1e-4)

    def test_halves_are_those_of_scikit_learn(self):
        from sklearn.model_selection import train_test_split

        for count in (60, 61):
            train, test = train_test_split(range(count), test_size=0.5, random_state=42)
            assert [half.tolist() for half in regression.halves(count)] == [train, test]

    def test_a_wrong_gradient_would_be_seen(self, monkeypatch):
        assert all(norm < 1e-14 for _, norm in regression.differences("l1", torch.float64, 0))
        right = jac.gradient
        monkeypatch.setattr(jac, "gradient", lambda *arguments: right(*arguments[:3], jac.Loss(arguments[3], scale=1.001)))
        assert all(norm > 1e-6 for name, norm in regression.differences("l1", torch.float64, 0) if name != "b2")

    def test_a_loss_that_is_not_finite_is_told(self):
        part = numbers(20)
        part.x[3] = math.inf
        with pytest.raises(ArithmeticError, match="the loss at step 1 is nan: its input is not finite"):
            list(regression.train("trained", part, 1, 0, [part]))


def assert_probabilities_of_the_first_and_the_last_epoch(tables):
    rows, samples = tables["from-scratch-probabilities"], tables["from-scratch-samples"]
    for recipe in from_scratch.RECIPES:
        own = [row for row in rows if row["network"] == recipe.name]
        assert {row["epoch"] for row in own} == {0, 2}
        for sample in {row["sample"] for row in own}:
            for epoch in (0, 2):
                assert sum(row["probability"] for row in own if (row["sample"], row["epoch"]) == (sample, epoch)) == pytest.approx(1)
    assert {len(row["pixels"]) for row in samples} == {2 * 16}
    chart = probabilities_chart.chart_of(tables, from_scratch.RECIPES[-1].name, "s")
    assert all(sum(sample.after) == pytest.approx(1) for sample in chart.samples)
    assert {sample.published for sample in chart.samples} == {()}, "another set than the published one"


class TestFromScratch:
    def test_both_ways_are_the_same(self, tmp_path, give):
        tables = studied("from-scratch", tmp_path)
        for row in tables["from-scratch-agreement"]:
            assert row["worst_difference"] < 1e-12
            assert row["worst_of_an_epoch"] < 1e-3
        ways = {(row["network"], row["written"], row["epoch"]) for row in tables["from-scratch-times"]}
        assert ("one sample", "torch", 1) in ways
        assert ("one sample", "torch", 2) not in ways, "torch trains one epoch beside ours"
        assert ("batches of 64", "torch", 2) in ways
        assert {(row["network"], row["data"]) for row in tables["from-scratch"]} == {
            ("one sample", "mnist"),
            ("one sample, clothes", "fashion-mnist"),
            ("batches of 64", "fashion-mnist"),
        }
        assert {row["updates"] for row in tables["from-scratch"]} == {0, 50, 100}
        assert_probabilities_of_the_first_and_the_last_epoch(tables)

    def test_a_named_set_is_that_of_every_network_and_a_directory_that_of_mnist(self, tmp_path, monkeypatch):
        def there(name):
            return lambda directory: classes(30)._replace(names=(name, str(directory)))

        for name in data.SETS:
            monkeypatch.setitem(data.SETS, name, there(name))
        found = [(recipe.name, one.names) for recipe, _, one in from_scratch.sets_of(Options(data="digits", data_dir=tmp_path))]
        assert found == [("one sample", ("digits", str(tmp_path))), ("batches of 64", ("digits", str(tmp_path)))]
        found = [one.names for _, _, one in from_scratch.sets_of(Options(data_dir=tmp_path))]
        assert found == [("mnist", str(tmp_path)), ("fashion-mnist", "None"), ("fashion-mnist", "None")]

        def missing(directory):
            raise FileNotFoundError("no clothes")

        monkeypatch.setitem(data.SETS, "fashion-mnist", missing)
        assert [(recipe.name, name) for recipe, name, _ in from_scratch.sets_of(Options())] == [
            ("one sample", "mnist"),
            ("batches of 64", "mnist"),
        ]

    def test_the_first_weights_are_the_printed_ones(self):
        mlp = from_scratch.by_numpy((784, 32, 32, 10), 0)
        rows = published.table("numpy_network_initial_weights")
        assert len(rows) == 392
        for row in rows:
            W = mlp.weights[int(row["layer"]) - 1]
            assert float(W[int(row["output"]), int(row["input"])]) == pytest.approx(float(row["weight"]), abs=5.01e-9)

    @pytest.mark.parametrize(("right", "loss", "passed"), [(0.088, 2.3712, True), (0.0881, 2.3712, False), (0.088, 2.3788, False)])
    def test_the_start_on_the_whole_of_mnist_is_the_printed_one(self, right, loss, passed):
        row = {"network": "one sample", "data": "mnist", "test_accuracy": right, "test_loss": loss}
        checks = find_study("from-scratch").checks
        tables = {"from-scratch": [row], "from-scratch-agreement": [{"network": "one sample", "training_samples": 60_000.0}]}
        assert [one for _, one in checks(tables)] == [passed]
        assert checks({**tables, "from-scratch-agreement": [{"network": "one sample", "training_samples": 4000.0}]}) == []

    def test_pixels_are_whole_numbers(self):
        bytes_ = torch.arange(256.0)[None]
        part = from_scratch.ONE_SAMPLE.prepared(data.DataSet(bytes_ / 255, torch.zeros(1, dtype=torch.int64), ()), torch.float64)
        assert torch.equal(part.x, bytes_.double())

    def test_single_samples_are_those_of_plain_numpy(self):
        """Forward, backward and update as the formulas stand, sample by sample in their order."""
        part = classes(20)
        recipe = from_scratch.ONE_SAMPLE
        mlp = recipe.network((16, 5, 4, 3), 0)
        W, b = [w.numpy().copy() for w in mlp.weights], [c.numpy().copy() for c in mlp.biases]
        part = part._replace(x=part.x.double())
        order = list(itertools.islice(recipe.order(20, 0), 30))
        losses = training.epoch(jac.SGD(mlp, recipe.rate), part, "cross_entropy", order)
        for step, loss in enumerate(losses.tolist()):
            h = [part.x[step % 20].numpy()]
            for w, c in zip(W[:-1], b[:-1], strict=True):
                h.append(1 / (1 + np.exp(-(w @ h[-1] + c))))
            z = W[-1] @ h[-1] + b[-1]
            p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            target = int(part.target[step % 20])
            assert loss == pytest.approx(-math.log(p[target]), rel=1e-10)
            delta = p - np.eye(3)[target]
            for layer in (2, 1, 0):
                below = (W[layer].T @ delta) * h[layer] * (1 - h[layer])
                W[layer] -= recipe.rate * np.outer(delta, h[layer])
                b[layer] -= recipe.rate * delta
                delta = below

    def test_a_wrong_step_would_be_seen(self, give):
        recipe = from_scratch.BATCHED
        right, part = from_scratch.Torch.epoch, classes(60)
        steps, difference = from_scratch.agreement(recipe, part, (16, 5, 4, 3), 0)
        assert (steps, difference < 1e-12) == (from_scratch.COMPARED, True)
        more = part._replace(x=part.x.repeat(3, 1), target=part.target.repeat(3))

        def wrong(self, part, order):
            self.optimizer.param_groups[0]["lr"] *= 1.01
            return right(self, part, order)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(from_scratch.Torch, "epoch", wrong)
            assert from_scratch.agreement(recipe, more, (16, 5, 4, 3), 0)[1] > 1e-6

    def test_times_are_the_least_of_the_epochs_that_both_have(self):
        rows = [
            {"network": "a", "written": way, "epoch": epoch, "seconds": seconds}
            for way, each in (("jac", (2.0, 4.0, 1.0)), ("torch", (8.0, 6.0)))
            for epoch, seconds in enumerate(each)
        ]
        assert from_scratch.times(rows, "a") == (1.0, 3.0)


class TestProbabilities:
    def test_answers_and_pictures(self):
        part, mlp = classes(50), jac.MLP.random(widths=[16, 5, 3], seed=3)
        (found,) = {tuple(row["probability"] for _, row in probabilities.answers("n", "s", 1, mlp, part) if row["sample"] == 25)}
        assert found == pytest.approx(torch.softmax(mlp(part.x[25]), 0).tolist(), rel=1e-5)
        (row,) = [row for _, row in probabilities.pictures("n", "s", part) if row["sample"] == 25]
        assert row["class"] == part.names[int(part.target[25])]
        torch.testing.assert_close(torch.tensor(list(bytes.fromhex(row["pixels"]))) / 255, part.x[25], rtol=0, atol=0.5 / 255 + 1e-6)

    def test_published_probabilities_stand_beside_the_same_samples_of_the_same_set(self):
        assert probabilities_chart._published("fashion-mnist", 3638)[4] == 0.89233
        assert probabilities_chart._published("fashion-mnist", 9269) == ()
        assert probabilities_chart._published("mnist", 3638) == ()


class TestLayers:
    def test_every_value_is_torchs(self, tmp_path, give):
        tables = studied("layers", tmp_path)
        rows, parts = tables["layers"], {row["component"]: row for row in tables["layers-components"]}
        assert max(map(layers.difference, rows)) < 1e-12
        assert {(row["hidden"], row["batch_norm"]) for row in rows} == {(0, "without")} | {(h, m) for h in (1, 4) for m in layers.MODES}
        assert set(parts) == {
            *("Linear", "BatchNorm1d", "Sigmoid", "Tanh", "ReLU", "MSELoss", "CrossEntropyLoss", "SGD", "SGD with momentum"),
            *("MLP0", "MLP1", "MLP4", layers.LIBRARY),
        }
        assert all(row["passed"] == 1 and row["values"] == row["right"] > 0 for row in parts.values())
        assert [passed for _, passed in find_study("layers").checks(tables)] == [True] * len(parts)
        values = {row["value"] for row in rows if row["hidden"] == 4 and row["batch_norm"] == "training"}
        assert {
            *("M", "V", "NZ", "BZ", "dLdNZ", "dLdV", "dLdM", "dLdBW", "dLdBb", "dLdZ", "running_M", "running_V", "running_var"),
            *("dAdZ of layer 2", "dLdW of layer 12", "A of layer 13", "1.weight after two steps", "loss", "∂L/∂x"),
        } <= {name.removesuffix(" of layer 1") for name in values}
        assert {row["index"] for row in rows if row["value"] == "loss"} == {""}

    def test_the_division_by_n(self):
        """Finite differences of the loss, which know of no convention; MyTorch's names hold multiples of them."""
        x, _, Y = layers.example(0)
        module = layers._module(1, "training", 0)
        for loss, target in (("mse", torch.randn(4, 2, dtype=torch.float64)), ("cross_entropy", Y)):
            for convention, of_linear, of_norm in (("torch", 1, 1), ("MyTorch", *((1 / 4, 1) if loss == "mse" else (1, 4)))):
                found = {str(item): value for item, value in layers.by_hand(copy.deepcopy(module), x, target, loss, convention)}
                for name, parameter, times in (("dLdW of layer 0", "0.weight", of_linear), ("dLdBW of layer 1", "1.weight", of_norm)):
                    beside = []
                    for step in (1e-6, -1e-6):
                        moved = copy.deepcopy(module)
                        with torch.no_grad():
                            moved.get_parameter(parameter).view(-1)[1] += step
                        y = moved(x)
                        beside.append(0.5 * nn.functional.mse_loss(y, target) if loss == "mse" else nn.functional.cross_entropy(y, target))
                    exact = float((beside[0] - beside[1]).detach()) / 2e-6
                    assert float(found[name].view(-1)[1]) == pytest.approx(times * exact, rel=1e-6), (loss, convention, name)

    def test_the_running_variances_differ_by_the_factor_of_the_biased_one(self):
        rows = list(layers._running(0))
        excess = [(row["running_V"] - 0.9 ** row["step"]) / (row["running_var"] - 0.9 ** row["step"]) for row in rows]
        assert excess == pytest.approx([3 / 4] * len(rows), rel=1e-9)

    def test_a_wrong_value_is_told_of_its_component(self):
        rows = list(layers._worked_examples(0))
        for component in ("Linear", "BatchNorm1d", "Sigmoid", "CrossEntropyLoss", "SGD with momentum", layers.LIBRARY):
            spoilt = [{**row, "by_hand": row["by_hand"] * (1 + 1e-9)} if row["component"] == component else row for row in rows]
            failed = {row["component"] for row in layers.components(spoilt) if not row["passed"]}
            assert failed - {"MLP0", "MLP1", "MLP4"} == {component}

    def test_a_value_that_is_none_fails(self):
        row = {"component": "Linear", "hidden": 0, "by_hand": 1.0, "by_torch": 1.0, "mytorch": math.nan, "mytorch_by_torch": 1.0}
        assert [part["passed"] for part in layers.components([row])] == [0, 0]

    def test_a_failed_component_is_exit_status_1(self, monkeypatch, command, tmp_path, give):
        right = layers.by_torch

        def wrong(*arguments):
            yield from ((item, value + 1e-3 if item.name == "dLdM" else value) for item, value in right(*arguments))

        monkeypatch.setattr(layers, "by_torch", wrong)
        told = command("study", "layers", "--epochs", "1", "--out", tmp_path, status=1).out
        assert "FAILED  BatchNorm1d: " in told
        assert "passed  Linear: " in told
        assert "not BatchNorm1d, MLP1, MLP4" in told

    def test_momentum_is_torchs(self):
        module = layers.network(1, True, (3, 4, 2), 0)
        other = layers.network(1, True, (3, 4, 2), 0)
        optimizer, theirs = layers.Momentum(module), torch.optim.SGD(other.parameters(), lr=layers.RATE, momentum=layers.MOMENTUM)
        x, target = torch.randn(8, 3), torch.arange(8) % 2
        for _ in range(4):
            optimizer.step(jac.module_gradient(module, x, target, "cross_entropy"))
            theirs.zero_grad()
            nn.functional.cross_entropy(other(x), target).backward()
            theirs.step()
        for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b)


class TestImageAscent:
    def test_the_probability_grows(self, tmp_path, give):
        tables = studied("image-ascent", tmp_path)
        curves = tables["image-ascent-curves"]
        for network in image_ascent.NETWORKS:
            own = [
                row["probability"] for row in curves if row["network"] == network and row["regulariser"] == "plain" and row["class"] == "a"
            ]
            assert own[-1] > own[0]
        assert {len(row["pixels"]) for row in tables["image-ascent"]} == {2 * 16}

    def test_it_climbs_a_row_of_the_jacobian(self):
        mlp = jac.MLP.random(widths=[9, 5, 4], bias=True)
        (_, start, _), (_, first, scores), *_ = image_ascent.ascend(mlp, image_ascent.REGULARISERS[0], 2)
        J = torch.autograd.functional.jacobian(mlp, start[0])
        torch.testing.assert_close(first - start, image_ascent.STRIDE * J / J.norm(dim=1, keepdim=True))
        assert (scores.diagonal() > mlp(start).diagonal()).all()

    def test_a_blur_keeps_what_is_level_and_takes_what_is_not(self):
        torch.testing.assert_close(image_ascent.blurred(torch.full((2, 9), 0.3)), torch.full((2, 9), 0.3))
        point = torch.zeros(1, 25)
        point[0, 12] = 1.0
        out = image_ascent.blurred(point).view(5, 5)
        torch.testing.assert_close(out[2], torch.tensor([0, 0.125, 0.25, 0.125, 0]))
        with pytest.raises(ValueError, match="images of 8 pixels are not square"):
            image_ascent.blurred(torch.zeros(1, 8))

    def test_a_jacobian_that_is_not_finite_is_told(self):
        mlp = jac.MLP([torch.full((3, 4), math.inf), torch.ones(2, 3)])
        with pytest.raises(ArithmeticError, match="the Jacobian at step 1 of the ascent is not finite: the weights of layer 1"):
            list(image_ascent.ascend(mlp, image_ascent.REGULARISERS[0], 2))


def test_unscaled_weights_saturate_and_scaled_ones_do_not():
    last = {row["init"]: row for row in saturation.follow(depth=6, width=128) if row["layer"] == 6}
    assert last["normal"]["mean_slope"] < 0.15 < 0.5 < last["xavier"]["mean_slope"]
    assert last["normal"]["largest_singular_value"] > 1e2
    assert 0.1 < last["orthogonal"]["largest_singular_value"] <= 1.0001


def test_the_committed_table_is_the_study():
    (path,) = csv_file.RESULTS.glob("*/studies/saturation.csv")
    committed = read(find_study("saturation"), path.parent)
    again = list(saturation.follow())
    assert committed is not None
    assert len(committed["saturation"]) == len(again) == 60
    for kept, made in zip(committed["saturation"], again, strict=True):
        assert (kept["init"], kept["layer"]) == (made["init"], made["layer"])
        assert kept["mean_slope"] == pytest.approx(made["mean_slope"], rel=1e-3)


class TestOptions:
    def test_a_study_without_data_refuses_them(self, tmp_path):
        with pytest.raises(ValueError, match="saturation draws what it uses; leave out --data and --data-dir"):
            run(find_study("saturation"), tmp_path / "a", Options(data="digits"))
        with pytest.raises(ValueError, match="regression cannot use the data set 'digits'; choose from diabetes, california-housing"):
            run(find_study("regression"), tmp_path / "a", Options(data="digits"))
        assert not (tmp_path / "a").exists()

    @pytest.mark.long
    def test_the_command_line(self, tmp_path):
        def bench(*arguments):
            return subprocess.run([sys.executable, "bench.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

        wrong = bench("study", "layers", "--data", "digit")
        assert (wrong.returncode, "did you mean 'digits'" in wrong.stderr) == (2, True)
        missing = bench("study", "layers", "--data-dir", str(tmp_path / "none"))
        assert (missing.returncode, "no such directory" in missing.stderr) == (2, True)
        empty = bench("study", "from-scratch", "--data", "fashion-mnist", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out"))
        assert empty.returncode == 2
        assert "has no train-images-idx3-ubyte" in empty.stderr
        assert len(empty.stderr.strip().splitlines()) <= 2


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_quotes_what_the_committed_tables_say(name):
    (path,) = csv_file.RESULTS.glob(f"*/studies/{name}.csv")
    tables = read(find_study(name), path.parent)
    assert tables is not None
    assert f"> {find_study(name).conclude(tables)}\n" in (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
