"""Every forward and backward value of small networks, layer by layer, beside torch's; and training with and without batch norm.

Networks with 0, 1 and 4 hidden layers are built of Linear, batch norm (in both modes), sigmoid, tanh and ReLU, with the losses
`1/(2NC) Σ (y - t)²` and cross-entropy, and updated by SGD with momentum.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacobians as jac
from jacobians.module_gradient import normalise
from jacobians.network.activations import Activation
from studies import data, training
from studies.study import Options, Row, Study, register

SETS = ("digits", "mnist", "fashion-mnist")
SAMPLES, FEATURES, CLASSES, WIDTH = 4, 3, 2, 3
ACTIVATIONS: dict[int, tuple[type[nn.Module], ...]] = {0: (), 1: (nn.Sigmoid,), 4: (nn.Tanh, nn.ReLU, nn.Sigmoid, nn.Tanh)}
RATE, MOMENTUM = 0.1, 0.9
TRAINED_WIDTH, BATCH, EPOCHS = 32, 64, 15
MODES = ("without", "training", "evaluation")  # of the batch norms
LOSSES = ("mse", "cross_entropy")


def network(hidden: int, norms: bool, widths: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Build a network: Linear, batch norm, activation, …, Linear."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        width = widths[0]
        for activation in ACTIVATIONS[hidden]:
            layers += [nn.Linear(width, widths[1], dtype=dtype), *([nn.BatchNorm1d(widths[1], dtype=dtype)] if norms else []), activation()]
            width = widths[1]
        return nn.Sequential(*layers, nn.Linear(width, widths[2], dtype=dtype))


def loss_of(name: str, classes: int = CLASSES) -> jac.Loss:
    """Return a loss of the course: `1/(2NC) Σ (y - t)²`, which is half the mean square, or cross-entropy."""
    return jac.Loss("mse", "mean", 0.5) if name == "mse" else jac.Loss("cross_entropy")


class Momentum:
    """SGD with momentum on the parameters of a module: `v ← μ v + g`, `θ ← θ - η v`.

    Args:
        module: The module.
        rate: η.
        momentum: μ.
    """

    def __init__(self, module: nn.Module, rate: float = RATE, momentum: float = MOMENTUM) -> None:
        self.parameters, self.rate, self.momentum = dict(module.named_parameters()), rate, momentum
        self.velocity = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    def step(self, gradient: jac.ModuleGradient) -> None:
        """Update the parameters in place."""
        with torch.no_grad():
            for name, g in gradient.parameters.items():
                v = self.velocity[name].mul_(self.momentum).add_(g)
                self.parameters[name].sub_(self.rate * v)


def by_hand(module: nn.Sequential, x: Tensor, target: Tensor, loss: jac.Loss) -> Iterator[tuple[str, Tensor]]:
    """Compute every value of a step by hand."""
    with torch.no_grad():
        h = x
        for number, layer in enumerate(module):
            # The rest of the network is a network: its gradient by its input is the cotangent here.
            if isinstance(layer, nn.Linear):
                rest = copy.deepcopy(module[number:])
                cotangent = jac.module_gradient(rest, h, target, loss, inputs=True).x
                assert cotangent is not None
                yield f"∂L/∂input of layer {number}", cotangent
                h = F.linear(h, layer.weight, layer.bias)
            elif isinstance(layer, nn.BatchNorm1d):
                h = normalise(copy.deepcopy(layer), h)[0]
            else:
                rule = Activation.from_torch(layer)
                assert rule is not None
                h = rule.value(h)
            yield f"output of layer {number} ({type(layer).__name__})", h
        yield "loss", loss.value(h, target)
        yield "∂L/∂output", loss.cotangent(h, target)
        gradient = jac.module_gradient(module, x, target, loss)
        for name, g in gradient.parameters.items():
            yield f"∂L/∂{name}", g
        optimizer = Momentum(module)
        optimizer.step(gradient)
        optimizer.step(gradient)  # the second step shows the momentum
    for name, value in module.state_dict().items():
        yield f"{name} after two steps", value


def by_torch(module: nn.Sequential, x: Tensor, target: Tensor, name: str) -> Iterator[tuple[str, Tensor]]:
    """Compute the same by torch."""
    h, outputs, inputs = x.clone().requires_grad_(), [], {}
    for number, layer in enumerate(module):
        h.retain_grad()
        if isinstance(layer, nn.Linear):
            inputs[number] = h
        h = layer(h)
        outputs.append((f"output of layer {number} ({type(layer).__name__})", h))
    h.retain_grad()
    loss = F.cross_entropy(h, target) if name == "cross_entropy" else ((h - target) ** 2).sum() / (2 * h.numel())
    loss.backward()
    yield from ((label, value.detach()) for label, value in outputs)
    yield "loss", loss.detach()
    for label, value in [("∂L/∂output", h), *((f"∂L/∂input of layer {number}", value) for number, value in inputs.items())]:
        assert value.grad is not None
        yield label, value.grad
    for label, p in module.named_parameters():
        assert p.grad is not None
        yield f"∂L/∂{label}", p.grad
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM)
    optimizer.step()
    optimizer.step()
    for label, value in module.state_dict().items():
        yield f"{label} after two steps", value.detach()


def example(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the samples of the worked example."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, FEATURES, generator=generator, dtype=torch.float64)
    t = torch.randn(SAMPLES, CLASSES, generator=generator, dtype=torch.float64)
    return x, t, torch.arange(SAMPLES) % CLASSES


def _worked_example(seed: int) -> Iterator[Row]:
    x, t, classes = example(seed)
    for hidden in ACTIVATIONS:
        for mode in MODES if hidden else MODES[:1]:
            for name in LOSSES:
                module = network(hidden, mode != "without", (FEATURES, WIDTH, CLASSES), seed, torch.float64)
                for norm in module:
                    if isinstance(norm, nn.BatchNorm1d):  # statistics and factors that are not 0 and 1
                        count = norm.num_features
                        norm.running_mean = torch.linspace(-0.5, 0.5, count, dtype=torch.float64)
                        norm.running_var = torch.linspace(0.5, 2, count, dtype=torch.float64)
                        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(seed))
                module.train(mode == "training")
                target = classes if name == "cross_entropy" else t
                theirs = dict(by_torch(copy.deepcopy(module), x, target, name))
                for label, value in by_hand(module, x, target, loss_of(name)):
                    other = theirs[label]
                    for place in range(value.numel()):
                        one, beside = float(value.reshape(-1)[place]), float(other.reshape(-1)[place])
                        index = ", ".join(str(int(i)) for i in torch.unravel_index(torch.tensor(place), value.shape)) if value.ndim else ""
                        row: Row = {"hidden": hidden, "batch_norm": mode, "loss": name, "value": label, "index": index}
                        yield {**row, "by_hand": one, "by_torch": beside, "difference": abs(one - beside)}


def _train(options: Options) -> Iterator[Row]:
    name, whole = data.load(options.data, SETS, options.data_dir)
    parts = data.split(whole, options.seed)
    train, epochs = parts.train, options.epochs or EPOCHS
    batch = min(BATCH, len(train.x))
    total = epochs * sum(2 if hidden else 1 for hidden in ACTIVATIONS)
    done = step = 0
    for hidden in ACTIVATIONS:
        for norms in (False, True) if hidden else (False,):
            module = network(hidden, norms, (train.x.shape[1], TRAINED_WIDTH, len(train.names)), options.seed)
            optimizer, generator, loss = Momentum(module), torch.Generator().manual_seed(options.seed), jac.Loss("cross_entropy")
            for epoch in range(1, epochs + 1):
                module.train()
                losses = []
                for at in training.batches(len(train.x), batch, generator):
                    if norms and len(at) == 1:
                        continue  # has no variance
                    found = jac.module_gradient(module, train.x[at], train.target[at], loss)
                    if not math.isfinite(float(found.loss)):
                        raise ArithmeticError(
                            f"the loss at step {step} is {float(found.loss)} with {hidden} hidden layers; take a smaller rate"
                        )
                    optimizer.step(found)
                    losses.append(float(found.loss))
                    step += 1
                module.eval()
                with torch.no_grad():
                    loss_of_tests, right = training.evaluate(module, parts.test)
                done += 1
                options.report(done / total)
                row: Row = {"data": name, "hidden": hidden, "batch_norm": "with" if norms else "without", "epoch": epoch}
                mean = sum(losses) / len(losses) if losses else math.nan
                yield {**row, "train_loss": mean, "test_loss": loss_of_tests, "test_accuracy": right}


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    yield from (("layers", row) for row in _worked_example(options.seed))
    yield from (("layers-training", row) for row in _train(options))


def _conclude(tables: dict[str, list[Row]]) -> str:
    rows, curves = tables["layers"], tables["layers-training"]
    worst = max(float(row["difference"]) for row in rows)
    last = max(float(row["epoch"]) for row in curves)
    ends = [row for row in curves if float(row["epoch"]) == last]
    reached = ", ".join(
        f"{float(row['hidden']):g} hidden {row['batch_norm']} batch norm {100 * float(row['test_accuracy']):.1f} %" for row in ends
    )
    return (
        f"All {len(rows)} values of the worked examples are torch's within {worst:.0e}. Right on the tests of {ends[0]['data']} after "
        f"{last:g} epochs: {reached}."
    )


register(
    Study(
        "layers",
        "Layers by hand, batch norm too",
        "Is every value of a training step, forward and back, what torch has, and what does batch norm do to training?",
        {
            "layers": ("hidden", "batch_norm", "loss", "value", "index", "by_hand", "by_torch", "difference"),
            "layers-training": ("data", "hidden", "batch_norm", "epoch", "train_loss", "test_loss", "test_accuracy"),
        },
        _rows,
        _conclude,
        SETS,
    )
)
