"""The exercises this project grew from, each beside what the same setting gives here: every number from a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

import jacobians as jac
from benchmarks.analysis.tables import duration, markdown
from benchmarks.records.csv_file import read_csv, result_files, study_directories
from benchmarks.records.problems import best_by_mode, fastest, ratio
from benchmarks.records.rows import Row, ok_rows
from plots.charts import published as notebook
from plots.growth import sentence, tails
from studies import STUDIES, find_study, from_scratch, initialisation, published, read, regression
from studies import Row as StudyRow
from studies.study import column, distinct, where

START, END = "<!-- exercises: written by make docs -->", "<!-- end of exercises -->"
NOTEBOOK, NYU = "COMP 691 A1 notebook (2023)", "NYU Deep Learning HW1"
WIDE = (1000, 1000, 1)  # D, K, P
SMALL = (2, 30, 10)  # for which the notebook expects little difference
CHECKED, DEEP = 1000, 10  # Jacobians of its check, and L
MODES = ("forward", "reverse")
HEADS = ("exercise", "what it asks", "published", "here", "in a sentence")


class Exercise(NamedTuple):
    """A row of the table: the exercise, what it asks, what is published, what the same setting gives here, and what that says."""

    name: str
    asks: str
    published: str
    here: str
    said: str


def tables_of(name: str) -> dict[str, list[StudyRow]]:
    """Read the committed tables of a study."""
    return next((found for directory in study_directories() if (found := read(find_study(name), directory / "studies"))), {})


def quoted(page: str) -> str:
    """Write what each study says below its heading."""
    parts = page.split("\n## ")
    for number, part in enumerate(parts):
        name, tables = part.split("\n", 1)[0], {}
        if "\n> " in part and name in STUDIES:
            tables = tables_of(name)
        if tables:
            before, said = part.split("\n> ", 1)
            parts[number] = f"{before}\n> {find_study(name).conclude(tables)}\n{said.partition(chr(10))[2]}"
    return "\n## ".join(parts)


def on_the_notebooks_shapes() -> list[list[Row]]:
    """Return the committed rows of the sweep `notebook`, those with its own method first, CPUs before accelerators."""
    found = [ok_rows(read_csv(path)) for path in result_files() if path.stem == "notebook"]
    return sorted(found, key=lambda rows: (rows[0].device != "cpu", not any(row.implementation == "notebook" for row in rows)))


def depth() -> str:
    """Write the ratio of forward to reverse over depth, way by way."""
    records = published.table("notebook_times")
    depths = sorted({int(record["L"]) for record in records})
    first, last = depths[0], depths[-1]
    shapes = (WIDE, SMALL)
    heads = [f"D={D} K={K} P={P}: L = {L}" if L == first else f"L = {L}" for D, K, P in shapes for L in depths]
    rows: list[list[str]] = []

    def line(name: str, *ratios: dict[int, float]) -> None:
        cells = [f"{found[L]:.3g}" if L in found else "-" for found in ratios for L in depths]
        rise = f"{ratios[0][last] / ratios[0][first]:.3g}" if {first, last} <= ratios[0].keys() else "-"
        rows.append([name, *cells, rise])

    counted = {L: (L - 1) / L / ((first - 1) / first) for L in depths}
    line(f"operations, relative to L = {first}: forward from W_1", counted, {})
    line(f"operations, relative to L = {first}: forward from an identity", dict.fromkeys(depths, 1.0), {})
    for device in ("cpu", "gpu"):
        line(f"published, {device.upper()}", notebook.published_ratios(records, device), {})
    saturated: list[Row] = []
    for measured in on_the_notebooks_shapes():
        found = [{L: notebook.ways(_at(measured, L, *shape)) for L in depths} for shape in shapes]
        for name in dict.fromkeys(name for by_depth in found for here in by_depth.values() for name in here):
            ratios = [{L: ratio(*here[name]).value for L, here in by_depth.items() if name in here} for by_depth in found]
            line(f"{name}, {measured[0].device_name}", *ratios)
        saturated += [row for row in _at(measured, last, *WIDE) if row.init == "normal"]
    said = "Weights are Xavier's"
    if saturated:
        machines = ", ".join(dict.fromkeys(row.device_name for row in saturated))
        said += (
            f"; on {machines} standard normal, as published: no method has a right digit at L = {last} in float32 then (relative "
            f"errors of {min(row.rel_error or 0.0 for row in saturated):.1g} and more), and times do not depend on the values"
        )
    columns = ["forward / reverse", *heads, f"first shape, from L = {first} to {last}"]
    return f"{markdown(columns, rows)}\n\n{said}."


def _at(rows: Sequence[Row], L: int, D: int, K: int, P: int, N: int = 1) -> list[Row]:
    return [row for row in rows if (row.L, row.D, row.K, row.P, row.N) == (L, D, K, P, N)]


def _of_the_notebook() -> Iterator[Exercise]:
    records, machines = published.table("notebook_times"), on_the_notebooks_shapes()
    depths, rows = sorted({int(record["L"]) for record in records}), machines[0]
    first, last = depths[0], depths[-1]
    theirs = {L: notebook.ways(_at(rows, L, *WIDE))["the notebook's method"] for L in depths}
    ours = {L: best_by_mode(_at(rows, L, *WIDE)) for L in depths}
    gains = [theirs[L][i].median / ours[L][mode].median for L in depths for i, mode in enumerate(MODES)]
    cpu = {(r["mode"], int(r["L"])): float(r["seconds"]) / float(r["jacobians"]) for r in records if r["device"] == "cpu"}
    best = [(best_by_mode(_at(found, L, *WIDE))["forward"].median, L) for found in machines if found[0].device == "cpu" for L in depths]
    beaten = all(cpu["forward", L] < time for time, L in best)
    yield Exercise(
        f"{NOTEBOOK}: Jacobians by hand",
        f"Time of forward and reverse mode, L = {', '.join(map(str, depths))}, D = K = 1000, P = 1",
        "CPU: " + "; ".join(f"{mode} {', '.join(duration(cpu[mode, L]) for L in depths)}" for mode in MODES),
        f"{rows[0].device_name}, the notebook's method: "
        + "; ".join(f"{mode} {', '.join(duration(theirs[L][i].median) for L in depths)}" for i, mode in enumerate(MODES)),
        f"Hand-written modes are {min(gains):.2g} to {max(gains):.2g} times as fast as the notebook's method on the same machine; the "
        f"published forward, on an unnamed one, is {'faster' if beaten else 'not faster'} than every forward measured here on a CPU.",
    )
    ratios = {device: notebook.published_ratios(records, device) for device in ("cpu", "gpu")}
    mine = {L: ratio(*pair).value for L, pair in theirs.items()}
    counted = (last - 1) / last / ((first - 1) / first)
    yield Exercise(
        f"{NOTEBOOK}: depth",
        "Does the advantage of reverse mode grow with depth?",
        "; ".join(f"{device.upper()} {', '.join(f'{value:.2f}' for value in found.values())}" for device, found in ratios.items()),
        f"{', '.join(f'{value:.3g}' for value in mine.values())} by the notebook's method",
        f"From L = {first} to {last} the ratio rises {ratios['cpu'][last] / ratios['cpu'][first]:.2f} times as published on the CPU and "
        f"{mine[last] / mine[first]:.2f} times here; the operations say {counted:.2f}, because a forward mode that starts from W_1 has no "
        "K³ product in its first layer. The further rise on the GPU was read without synchronising. The table below has every way.",
    )
    squares = [ok_rows(read_csv(path)) for path in result_files() if path.stem == "square"]
    for found in [found for found in squares if tails(found)][:1]:
        fits = ", ".join(f"{tail.mode} M^{tail.fitted:.2f}, fastest rounds M^{tail.of_minima:.2f}" for tail in tails(found))
        said = f"On {found[0].device_name}. {sentence(found)}"
        yield Exercise(f"{NOTEBOOK}: width", "Is it M² against M³?", "M² and M³, in words", fits, said)
    checks = published.table("notebook_checks")
    seconds = {row["mode"]: float(row["value"]) for row in checks if row["check"] == "jacobian_and_autograd_time"}
    single, together = _at(rows, DEEP, *SMALL), best_by_mode(_at(rows, DEEP, *SMALL, CHECKED))
    cells = []
    for mode in seconds:
        library = fastest(row for row in single if row.mode == mode and row.implementation.startswith("autograd"))
        cells.append(
            f"{mode} {duration(CHECKED * best_by_mode(single)[mode].median)}"
            + (f" (autograd {duration(CHECKED * library.median)})" if library else "")
        )
    at_once = "; ".join(f"{mode} {duration(together[mode].median)}" for mode in seconds if mode in together)
    yield Exercise(
        f"{NOTEBOOK}: check",
        f"{CHECKED} random x against autograd, L, D, K, P = {', '.join(map(str, (DEEP, *SMALL)))}",
        "GPU: " + "; ".join(f"{mode} {value:.2f} s" for mode, value in seconds.items()),
        f"CPU, one by one: {'; '.join(cells)}" + (f"; in one call: {at_once}" if at_once else ""),
        "The published times hold the draw of x, autograd's Jacobian and the comparison too, so they say nothing about the modes by hand.",
    )


def _of_gradients() -> Iterator[Exercise]:
    tables = tables_of("regression")
    norms = {row["parameter"]: row["value"] for row in published.table("notebook_checks") if row["check"] == "gradient_difference_norm"}
    gradients = where(tables["regression-gradient"], loss="l1", dtype="float32")
    worst = {name: max(column(where(gradients, parameter=name), "difference_norm")) for name in distinct(gradients, "parameter")}
    yield Exercise(
        f"{NOTEBOOK}: gradient",
        "Gradient by hand of the mean absolute error, 10-20-1, N = 100: 2-norm of the difference to autograd's, below 1e-6",
        ", ".join(f"{name} {float(value):.1e}" for name, value in norms.items()),
        ", ".join(f"{name} {value:.1e}" for name, value in worst.items()),
        "The largest of several seeds, in float32 on a CPU; nothing is seeded there, so orders of magnitude are what can be compared.",
    )
    end, rows = published.table("regression_training")[-1], tables["regression"]
    fixed, trained = (regression.spread(rows, layer) for layer in regression.LAYERS)
    here = [f"{middle:.3g} ({low:.3g} to {high:.3g})" for middle, low, high in (fixed, trained)]
    fit = regression.spread(rows, "fixed", "train_mse")[0] / regression.spread(rows, "trained", "train_mse")[0]
    elsewhere = "" if rows[0]["data"] == "california-housing" else " Other data and units: not to be compared with the published numbers."
    yield Exercise(
        f"{NOTEBOOK}: regression",
        "8-20-1, tanh, squared errors, Adam, 40 epochs, California housing",
        f"tests {float(end['test_mse']):.3f}, training {float(end['train_mse']):.3f} after {end['updates']} updates",
        f"{rows[0]['data']}: tests {here[0]} with the first layer fixed, {here[1]} with it trained",
        "The published first layer is never trained: Adam was given the parameters before that matrix was replaced. Here the error on the "
        f"tests is {fixed[0] / trained[0]:.2f} times that with the layer trained, on the training samples {fit:.2f} times.{elsewhere}",
    )
    rows, printed = tables_of("initialisation")["initialisation"], {}
    for row in published.table("initialisation_training"):
        printed[row["initialisation"]] = row  # the last epoch stays
    for part, what in (("test", "tests"), ("train", "answers before each update")):
        theirs = [printed[name] for name in initialisation.PRINTED]
        yield Exercise(
            f"{NOTEBOOK}: initialisations, {part}",
            f"784-50×8-10 on MNIST: share of right {what} in the fifth epoch",
            _named(float(row[f"{part}_accuracy_percent_of_epoch"]) for row in theirs),
            _named(100 * float(row[f"{part}_accuracy"]) for row in rows),
            f"Of the fifth epoch alone, as here; printed are means over the epochs so far "
            f"({', '.join(row[f'mean_{part}_accuracy_percent_so_far'] for row in theirs)} %). After {float(rows[0]['updates']):g} "
            f"updates, on {float(rows[0]['training_samples']):g} samples of {rows[0]['data']} here. With ±0.01 and ±0.1 nothing is learnt: "
            "the share is that of one class.",
        )


def _named(shares: Iterable[float]) -> str:
    return ", ".join(f"{init} {share:.2f} %" for init, share in zip(initialisation.INITS, shares, strict=True))


def _course(rows: Sequence[StudyRow]) -> str:
    shares, losses = column(rows, "test_accuracy"), column(rows, "test_loss")
    return (
        f"{rows[0]['data']}: {', '.join(f'{100 * share:.2f}' for share in shares)} %, losses {', '.join(f'{loss:.2f}' for loss in losses)}"
    )


def _of_training() -> Iterator[Exercise]:
    tables = tables_of("from-scratch")
    samples = {str(row["network"]): float(row["training_samples"]) for row in tables["from-scratch-agreement"]}
    rows = where(tables["from-scratch"], written="jac")
    own = {network: where(rows, network=network) for network in distinct(rows, "network")}
    one, batched = from_scratch.ONE_SAMPLE.name, from_scratch.BATCHED.name
    printed, weights = published.table("numpy_network_accuracy"), published.table("numpy_network_initial_weights")
    yield Exercise(
        f"{NYU}: one sample at a time",
        "784-32-32-10, sigmoid, MNIST with pixels 0 to 255, rate 0.003: tests before training and after 1, 2, 3 epochs",
        f"{', '.join(row['test_accuracy_percent'] for row in printed)} %, losses {', '.join(row['test_loss'] for row in printed)}",
        "; ".join(_course(own[name]) for name in own if name != batched),
        f"From the same first weights (a test holds the {len(weights)} that are printed), in order, for as many updates "
        f"({float(own[one][-1]['updates']):g}); {samples[one]:g} training samples of {own[one][0]['data']} here.",
    )
    here = {int(float(row["updates"])): row for row in own[batched]}
    printed = published.table("fashion_mnist_training")
    tests = {int(row["updates_before_test"]): float(row["test_loss_mean"]) for row in printed}
    trains = {int(row["updates_after_train"]): float(row["train_loss_mean"]) for row in printed}
    shared, end = [at for at in tests if at in here], max(trains)
    apart = max(abs(float(here[at]["test_loss"]) / tests[at] - 1) for at in shared)
    yield Exercise(
        f"{NYU}: batches of 64",
        "784-256-128-64-10, ReLU, Fashion-MNIST, rate 0.01: losses at equal numbers of updates",
        f"tests {tests[shared[0]]:.4f} after {shared[0]} updates, {tests[shared[-1]]:.4f} after {shared[-1]}; "
        f"training {trains[end]:.4f} up to {end}",
        f"{own[batched][0]['data']}: tests {float(here[shared[0]]['test_loss']):.4f}, {float(here[shared[-1]]['test_loss']):.4f}; training "
        f"{float(here[end]['train_loss']):.4f}",
        f"The tests come before an epoch's training there. At the {len(shared)} numbers of updates that both have, test losses differ by "
        f"{apart:.1%} at most; the draws differ.",
    )
    theirs = published.table("fashion_mnist_probabilities")
    last = published.table("fashion_mnist_last_batch")
    right = sum(row["predicted_class"] == row["true_class"] for row in last)
    ours = where(tables["from-scratch-probabilities"], network=batched)
    epochs = max(column(ours, "epoch"))
    printed = {int(row["test_index"]): row for row in theirs if row["class"] == row["true_class"]}
    labels = {row["sample"]: row["class"] for row in where(tables["from-scratch-samples"], network=batched)}
    shares = {
        int(float(row["sample"])): float(row["probability"]) for row in where(ours, epoch=epochs) if row["class"] == labels[row["sample"]]
    }
    yield Exercise(
        f"{NYU}: three test samples",
        "Probabilities of the ten classes after the training",
        "of its class: " + ", ".join(f"{float(row['probability']):.3f} (test {at})" for at, row in printed.items()),
        ", ".join(f"{share:.3f} (test {at})" for at, share in shares.items()),
        f"The third sample is not printed there; of the last training batch {right} of {len(last)} are right.",
    )


def _of_formulas() -> Iterator[Exercise]:
    fitted = [row for row in tables_of("representation")["representation"] if float(row["points"])]
    first = published.table("piecewise_data_1")[:3]
    yield Exercise(
        f"{NYU}: piecewise linear networks",
        "Weights that meet all points of two sets; the tent; the soft threshold",
        "; ".join(f"{row['function']}: {float(row['published_met']):g} of {float(row['points']):g} points met" for row in fitted),
        "; ".join(f"{row['function']}: all within {float(row['point_error']):g}, by {float(row['units']):g} units" for row in fitted),
        "Each published unit is one side of the broken line, but units add up where several are active: at x = "
        f"{', '.join(row['x'] for row in first)} the first network gives {', '.join(row['published_network_value'] for row in first)} "
        f"where {', '.join(row['y'] for row in first)} are asked.",
    )
    equal, count = by_hand()
    said = "Values before and after ReLU, the output, and its derivative by each parameter."
    yield Exercise(f"{NYU}: by hand", "A 1-4-1 network forward and back at x = 2", f"{count} numbers", f"{equal} of {count} equal", said)
    for exercise, asks, name, part in (
        (
            f"{NOTEBOOK} and {NYU}: least squares",
            "Iterates of gradient descent in closed form, and when they converge",
            "least-squares",
            slice(2),
        ),
        (f"{NYU}: least absolute deviations", "A gradient, and no closed form", "least-squares", slice(2, None)),
        ("AI702 MyTorch: layers", "Linear, activations, losses, SGD and batch norm by hand", "layers", slice(1)),
        ("NYU HW1: activations", "Activations drawn with their derivatives", "activations", slice(1)),
    ):
        sentences = find_study(name).conclude(tables_of(name)).removesuffix(".").split(". ")
        yield Exercise(exercise, asks, "no number", f"[{name}](#{name})", f"{'. '.join(sentences[part])}.")
    place = "[tests](../tests/jacobians/test_losses.py)"
    yield Exercise(
        "NYU HW1: gradients", "Gradients of two-layer networks by formulas", "no number", place, "Each loss is compared with autograd's."
    )
    place = "[the tutorial](tutorial.md#training-by-hand)"
    yield Exercise(f"{NYU}: a training step", "Its five steps, and the graph", "no number", place, "Each step is a line with autograd.")


def by_hand() -> tuple[int, int]:
    """Compute the worked example of the exercise."""
    given: dict[str, list[float]] = {}
    for row in published.table("hand_gradient_example"):
        given.setdefault(row["quantity"], []).append(float(row["value"]))
    w, b, out, last, x = (torch.tensor(given[name]) for name in ("hidden_weight", "hidden_bias", "output_weight", "output_bias", "x"))
    mlp = jac.MLP([w[:, None], out[None]], [b, last], "relu")
    z = w * x + b
    y = mlp(x)
    dW, db, dv, dc = jac.parameter_jacobian(mlp, x[None]).dense()[0, 0].split([4, 4, 4, 1])
    here = {"z": z, "h": z.relu(), "f": y, "df_doutput_weight": dv, "df_doutput_bias": dc, "df_dhidden_weight": dW, "df_dhidden_bias": db}
    equal = sum(a == e for name, values in here.items() for a, e in zip(values.tolist(), given[name], strict=True))
    return equal, sum(len(given[name]) for name in here)


def text() -> str:
    """Write the table of the exercises, and that of depth."""
    exercises = (*_of_the_notebook(), *_of_gradients(), *_of_training(), *_of_formulas())
    rows = [[cell.replace("|", "\\|") for cell in exercise] for exercise in exercises]
    return f"{markdown(HEADS, rows)}\n\n### Depth\n\n{depth()}"
