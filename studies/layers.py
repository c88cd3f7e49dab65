"""Every forward and backward value of small networks, layer by layer, beside torch's; and training with and without batch norm.

Networks with 0, 1 and 4 hidden layers are built of Linear, batch norm (in both modes), sigmoid, tanh and ReLU, an activation behind the
last layer too, with the losses `1/(2NC) Σ (A - Y)²` and cross-entropy, and updated by SGD with momentum. Every component is written out by
hand, in the names of the exercise "MyTorch": A enters a Linear and leaves an activation, Z leaves a Linear; a batch norm computes the mean
M and the biased variance V of Z, NZ = (Z - M) / √(V + ε) and BZ = BW ⊙ NZ + Bb.

Both conventions of the division by N are computed. In torch's each derivative is that of the loss. In MyTorch's the cotangent of
cross-entropy is not divided by N, and dLdW and dLdb of a Linear are: with cross-entropy these two are the derivatives and all others are N
times theirs; with squared errors, whose cotangent is divided, these two are 1/N of the derivatives.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacobians as jac
from studies import data, training
from studies.study import Options, Row, Study, Tables, column, register, where

SETS = ("digits", "mnist", "fashion-mnist")
SAMPLES, FEATURES, CLASSES, WIDTH = 4, 3, 2, 3
ACTIVATIONS: dict[int, tuple[type[nn.Module], ...]] = {0: (), 1: (nn.Sigmoid,), 4: (nn.Tanh, nn.ReLU, nn.Sigmoid, nn.Tanh)}
OUTPUTS: dict[int, type[nn.Module]] = {0: nn.Sigmoid, 1: nn.Tanh, 4: nn.Sigmoid}  # behind the last layer of the worked examples
RATE, MOMENTUM = 0.1, 0.9
MOMENTA = {0.0: "SGD", MOMENTUM: "SGD with momentum"}
TRAINED_WIDTH, BATCH, EPOCHS = 32, 64, 15
MODES = ("without", "training", "evaluation")  # of the batch norms
LOSSES = {"mse": "MSELoss", "cross_entropy": "CrossEntropyLoss"}
CONVENTIONS = ("torch", "MyTorch")  # of the division by N
LIBRARY = "jac.module_gradient"
ALLOWED = 1e-12  # of a difference in float64, where values are about 1
RUNNING_BATCHES = 100

Found = dict[str, Tensor]  # name to value, in the order of computation; the last one goes on


def network(
    hidden: int, norms: bool, widths: Sequence[int], seed: int, dtype: torch.dtype = torch.float32, *, output: bool = False
) -> nn.Sequential:
    """Build a network: Linear, batch norm, activation, …, Linear, and with `output` an activation behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        width = widths[0]
        for activation in ACTIVATIONS[hidden]:
            layers += [nn.Linear(width, widths[1], dtype=dtype), *([nn.BatchNorm1d(widths[1], dtype=dtype)] if norms else []), activation()]
            width = widths[1]
        return nn.Sequential(*layers, nn.Linear(width, widths[2], dtype=dtype), *([OUTPUTS[hidden]()] if output else []))


class Momentum:
    """SGD with momentum on the parameters of a module: `v ← μ v + g`, `θ ← θ - η v`."""

    def __init__(self, module: nn.Module, rate: float = RATE, momentum: float = MOMENTUM) -> None:
        self.parameters, self.rate, self.momentum = dict(module.named_parameters()), rate, momentum
        self.velocity = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    def step(self, gradient: jac.ModuleGradient) -> None:
        """Update the parameters in place."""
        with torch.no_grad():
            for name, g in gradient.parameters.items():
                v = self.velocity[name].mul_(self.momentum).add_(g)
                self.parameters[name].sub_(self.rate * v)


class Linear:
    """`Z = A Wᵀ + 1 bᵀ`."""

    def __init__(self, layer: nn.Linear, convention: str) -> None:
        self.W, self.b, self.divided = layer.weight, layer.bias, convention == "MyTorch"

    def forward(self, A: Tensor) -> Found:
        self.A = A
        return {"Z": A @ self.W.mT + self.b}

    def backward(self, dLdZ: Tensor) -> Found:
        N = len(dLdZ) if self.divided else 1
        return {"dLdW": dLdZ.mT @ self.A / N, "dLdb": dLdZ.sum(0) / N, "dLdA": dLdZ @ self.W}


class BatchNorm1d:
    """`BZ = BW ⊙ NZ + Bb`, with the running statistics of both forms: `running_V` of the biased variance, `running_var` of the unbiased."""

    def __init__(self, layer: nn.BatchNorm1d, convention: str) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.layer, self.running_M, self.running_V = layer, layer.running_mean, layer.running_var
        self.alpha = 1 - (layer.momentum or 0.0)

    def forward(self, Z: Tensor) -> Found:
        found: Found = {}
        if self.layer.training:
            N, alpha = len(Z), self.alpha
            M = Z.mean(0)
            V = ((Z - M) ** 2).mean(0)
            found |= {"M": M, "V": V, "running_M": alpha * self.running_M + (1 - alpha) * M}
            found |= {f"running_{name}": alpha * self.running_V + (1 - alpha) * v for name, v in (("V", V), ("var", V * N / (N - 1)))}
        else:
            M, V = self.running_M, self.running_V
        self.centred, self.scale = Z - M, (V + self.layer.eps) ** -0.5
        self.NZ = self.centred * self.scale
        return {**found, "NZ": self.NZ, "BZ": self.layer.weight * self.NZ + self.layer.bias}

    def backward(self, dLdBZ: Tensor) -> Found:
        dLdNZ = dLdBZ * self.layer.weight
        found = {"dLdBb": dLdBZ.sum(0), "dLdBW": (dLdBZ * self.NZ).sum(0), "dLdNZ": dLdNZ}
        if not self.layer.training:  # M and V do not depend on Z
            return {**found, "dLdZ": dLdNZ * self.scale}
        N = len(dLdBZ)
        dLdV = -0.5 * (dLdNZ * self.centred * self.scale**3).sum(0)
        dLdM = -(dLdNZ * self.scale).sum(0)  # by V too M has a part, which is 0: Σ (Z - M) = 0
        return {**found, "dLdV": dLdV, "dLdM": dLdM, "dLdZ": dLdNZ * self.scale + dLdV * 2 * self.centred / N + dLdM / N}


class Elementwise:
    """Sigmoid, tanh and ReLU, with the slope in terms of A."""

    def __init__(self, layer: nn.Module, convention: str) -> None:
        self.name = type(layer).__name__

    def forward(self, Z: Tensor) -> Found:
        rules = {"Sigmoid": lambda: 1 / (1 + torch.exp(-Z)), "Tanh": lambda: torch.tanh(Z), "ReLU": lambda: Z.clamp_min(0)}
        self.A = rules[self.name]()
        return {"A": self.A}

    def backward(self, dLdA: Tensor) -> Found:
        A = self.A
        dAdZ = {"Sigmoid": A - A * A, "Tanh": 1 - A * A, "ReLU": (A > 0).to(A.dtype)}[self.name]
        return {"dAdZ": dAdZ, "dLdZ": dLdA * dAdZ}


COMPONENTS = {nn.Linear: Linear, nn.BatchNorm1d: BatchNorm1d, nn.Sigmoid: Elementwise, nn.Tanh: Elementwise, nn.ReLU: Elementwise}
PARAMETERS = {"dLdW": "weight", "dLdb": "bias", "dLdBW": "weight", "dLdBb": "bias"}


def criterion(loss: str, A: Tensor, Y: Tensor, convention: str) -> tuple[Tensor, Tensor]:
    """Compute a loss and its cotangent: `1/(2NC) Σ (A - Y)²`, or the cross-entropy of rows of probabilities, a mean over N."""
    N, C = A.shape
    if loss == "mse":
        return ((A - Y) ** 2).sum() / (2 * N * C), (A - Y) / (N * C)
    exponentials = torch.exp(A - A.amax(1, keepdim=True))
    P = exponentials / exponentials.sum(1, keepdim=True)
    return -(Y * P.log()).sum() / N, (P - Y) / (1 if convention == "MyTorch" else N)


def loss_of(name: str) -> jac.Loss:
    """Return a loss of the exercise: `1/(2NC) Σ (A - Y)²`, which is half the mean square, or cross-entropy."""
    return jac.Loss("mse", "mean", 0.5) if name == "mse" else jac.Loss("cross_entropy")


def factor(loss: str, name: str, convention: str, N: int = SAMPLES) -> float:
    """Say how many times the derivative of the loss a convention gives under the name of a derivative."""
    if convention == "torch" or not name.startswith("dLd"):
        return 1.0
    of_linear = name in {"dLdW", "dLdb"}
    return (1 / N if of_linear else 1.0) if loss == "mse" else (1.0 if of_linear else float(N))


@dataclass(frozen=True)
class Item:
    """A value: of which component, its name, and the layer it belongs to."""

    component: str
    name: str
    layer: int | None = None

    def __str__(self) -> str:
        """Name the value and its layer."""
        return self.name if self.layer is None else f"{self.name} of layer {self.layer}"


def by_hand(module: nn.Sequential, x: Tensor, Y: Tensor, loss: str, convention: str) -> Iterator[tuple[Item, Tensor]]:
    """Compute every value of a step by hand; and, in torch's convention, the gradients by this library."""
    with torch.no_grad():
        parts = [COMPONENTS[type(layer)](layer, convention) for layer in module]
        names, h, gradients = [type(layer).__name__ for layer in module], x, {}
        for number, part in enumerate(parts):
            found = part.forward(h)
            yield from ((Item(names[number], name, number), value) for name, value in found.items())
            h = list(found.values())[-1]
        value, C = criterion(loss, h, Y, convention)
        yield Item(LOSSES[loss], "loss"), value
        yield Item(LOSSES[loss], "dLdA"), C
        for number, part in reversed(list(enumerate(parts))):
            found = part.backward(C)
            yield from ((Item(names[number], name, number), value) for name, value in found.items())
            C = list(found.values())[-1]
            gradients |= {f"{number}.{at}": found[key] for key, at in PARAMETERS.items() if key in found}
        for momentum, name in MOMENTA.items():
            moved = copy.deepcopy(module)
            optimizer = Momentum(moved, momentum=momentum)
            for _ in range(2):  # the second step shows the momentum
                optimizer.step(jac.ModuleGradient(value, gradients))
            yield from ((Item(name, f"{key} after two steps"), p.detach()) for key, p in moved.named_parameters())
        if convention == "torch":
            ours = jac.module_gradient(copy.deepcopy(module), x, Y, loss_of(loss), inputs=True)
            assert ours.x is not None
            yield Item(LIBRARY, "loss"), ours.loss
            yield from ((Item(LIBRARY, f"∂L/∂{name}"), g) for name, g in (*ours.parameters.items(), ("x", ours.x)))


def by_torch(module: nn.Sequential, x: Tensor, Y: Tensor, loss: str, convention: str) -> Iterator[tuple[Item, Tensor]]:
    """Compute the same by torch: its layers, its autograd, its SGD, and the factors of a convention."""
    before = copy.deepcopy(module)
    h, passed = x.clone().requires_grad_(), []
    for layer in module:
        h.retain_grad()
        out = layer(h)
        passed.append((h, out))
        h = out
    h.retain_grad()
    value = F.cross_entropy(h, Y) if loss == "cross_entropy" else 0.5 * F.mse_loss(h, Y)
    value.backward()
    assert h.grad is not None
    yield Item(LOSSES[loss], "loss"), value.detach()
    yield Item(LOSSES[loss], "dLdA"), h.grad * factor(loss, "dLdA", convention)
    for number, (layer, (into, out)) in enumerate(zip(module, passed, strict=True)):
        name, found = type(layer).__name__, {}
        if isinstance(layer, nn.Linear):
            found = {"Z": out, "dLdA": into.grad}
        elif isinstance(layer, nn.BatchNorm1d):
            found = {"BZ": out, "dLdZ": into.grad, **_statistics(layer, before[number], into.detach(), out.grad)}
        else:
            z = into.detach().requires_grad_()
            found = {"A": out, "dLdZ": into.grad, "dAdZ": torch.autograd.grad(layer(z).sum(), z)[0]}
        if not isinstance(layer, nn.BatchNorm1d):
            found |= {key: p.grad for key, p in zip(("dLdW", "dLdb"), layer.parameters(), strict=False)}
        else:
            found |= {"dLdBW": layer.weight.grad, "dLdBb": layer.bias.grad}
        for key, tensor in found.items():
            assert tensor is not None
            yield Item(name, key, number), tensor.detach() * factor(loss, key, convention)
    if convention == "torch":
        yield Item(LIBRARY, "loss"), value.detach()
        leaf = passed[0][0]
        yield from ((Item(LIBRARY, f"∂L/∂{key}"), p.grad) for key, p in (*module.named_parameters(), ("x", leaf)) if p.grad is not None)
    for momentum, name in MOMENTA.items():
        moved = copy.deepcopy(before)
        for (key, p), q in zip(moved.named_parameters(), module.parameters(), strict=True):
            of_linear = isinstance(moved[int(key.split(".")[0])], nn.Linear)
            assert q.grad is not None
            p.grad = q.grad * factor(loss, "dLdW" if of_linear else "dLdBW", convention)
        optimizer = torch.optim.SGD(moved.parameters(), lr=RATE, momentum=momentum)
        for _ in range(2):
            optimizer.step()
        yield from ((Item(name, f"{key} after two steps"), p.detach()) for key, p in moved.named_parameters())


def _statistics(layer: nn.BatchNorm1d, before: nn.Module, Z: Tensor, dLdBZ: Tensor | None) -> dict[str, Tensor | None]:
    """Differentiate a batch norm in single operations, from the cotangent that torch's own has."""
    assert isinstance(before, nn.BatchNorm1d)
    assert before.running_mean is not None
    assert before.running_var is not None
    assert layer.running_var is not None
    Z = Z.clone().requires_grad_()
    if not layer.training:
        NZ = (Z - before.running_mean) / torch.sqrt(before.running_var + layer.eps)
        NZ.retain_grad()
        (layer.weight.detach() * NZ + layer.bias.detach()).backward(dLdBZ)
        return {"NZ": NZ, "dLdNZ": NZ.grad}
    M = Z.mean(0)
    V = torch.var(Z, 0, correction=0)
    NZ = (Z - M) / torch.sqrt(V + layer.eps)
    for one in (M, V, NZ):
        one.retain_grad()
    (layer.weight.detach() * NZ + layer.bias.detach()).backward(dLdBZ)
    kept = (1 - (layer.momentum or 0.0)) * before.running_var
    biased = kept + (layer.running_var - kept) * (len(Z) - 1) / len(Z)
    running = {"running_M": layer.running_mean, "running_V": biased, "running_var": layer.running_var}
    return {"M": M, "V": V, "NZ": NZ, "dLdM": M.grad, "dLdV": V.grad, "dLdNZ": NZ.grad, **running}


def example(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the samples of the worked example: x, numbers, and one-hot rows."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, FEATURES, generator=generator, dtype=torch.float64)
    t = torch.randn(SAMPLES, CLASSES, generator=generator, dtype=torch.float64)
    return x, t, F.one_hot(torch.arange(SAMPLES) % CLASSES).double()


def _module(hidden: int, mode: str, seed: int) -> nn.Sequential:
    """Build a network whose batch norms have statistics and factors other than 0 and 1."""
    module = network(hidden, mode != "without", (FEATURES, WIDTH, CLASSES), seed, torch.float64, output=True)
    for norm in module:
        if isinstance(norm, nn.BatchNorm1d):
            count = norm.num_features
            norm.running_mean = torch.linspace(-0.5, 0.5, count, dtype=torch.float64)
            norm.running_var = torch.linspace(0.5, 2, count, dtype=torch.float64)
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(seed))
    return module.train(mode == "training")


def _worked_examples(seed: int) -> Iterator[Row]:
    x, t, classes = example(seed)
    for hidden in ACTIVATIONS:
        for mode in MODES if hidden else MODES[:1]:
            for loss in LOSSES:
                Y, module = classes if loss == "cross_entropy" else t, _module(hidden, mode, seed)
                ours, theirs = (
                    {convention: dict(compute(copy.deepcopy(module), x, Y, loss, convention)) for convention in CONVENTIONS}
                    for compute in (by_hand, by_torch)
                )
                if any(ours[convention].keys() != theirs[convention].keys() for convention in CONVENTIONS):
                    raise RuntimeError(f"values without a partner: {ours[CONVENTIONS[0]].keys() ^ theirs[CONVENTIONS[0]].keys()}")
                for item, value in ours["torch"].items():
                    own = {"component": item.component, "hidden": hidden, "batch_norm": mode, "loss": loss, "value": str(item)}
                    columns = [value, theirs["torch"][item], *(table["MyTorch"].get(item, value * math.nan) for table in (ours, theirs))]
                    for place, numbers in enumerate(zip(*(one.reshape(-1).tolist() for one in columns), strict=True)):
                        index = ", ".join(str(int(i)) for i in torch.unravel_index(torch.tensor(place), value.shape)) if value.ndim else ""
                        yield {
                            **own,
                            "index": index,
                            **dict(zip(("by_hand", "by_torch", "mytorch", "mytorch_by_torch"), numbers, strict=True)),
                        }


def difference(row: Row) -> float:
    """Return the larger difference of a value, of both conventions; nan where a value is none."""
    apart = [abs(float(row["by_hand"]) - float(row["by_torch"]))]
    if row["component"] != LIBRARY:  # which has torch's convention alone
        apart.append(abs(float(row["mytorch"]) - float(row["mytorch_by_torch"])))
    return math.nan if any(map(math.isnan, apart)) else max(apart)


def components(rows: Sequence[Row]) -> Iterator[Row]:
    """Say of each component, and of each network as a whole, whether every value is torch's."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row["component"]), []).append(row)
    for row in rows:
        groups.setdefault(f"MLP{float(row['hidden']):g}", []).append(row)
    for name, own in groups.items():
        apart = [difference(row) for row in own]
        right = sum(d <= ALLOWED for d in apart)  # nan is not
        worst = math.nan if any(map(math.isnan, apart)) else max(apart)
        yield {"component": name, "values": len(own), "right": right, "worst_difference": worst, "passed": int(right == len(own))}


def _running(seed: int) -> Iterator[Row]:
    """Follow the running variance of batches of numbers of variance 1 in both forms."""
    generator, torchs = torch.Generator().manual_seed(seed), nn.BatchNorm1d(1, dtype=torch.float64)
    own = copy.deepcopy(torchs)
    for step in range(1, RUNNING_BATCHES + 1):
        Z = torch.randn(SAMPLES, 1, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            found = BatchNorm1d(own, "MyTorch").forward(Z)
            torchs(Z)
        own.running_mean, own.running_var = found["running_M"], found["running_V"]
        assert torchs.running_var is not None
        yield {"step": step, "variance": float(Z.var()), "running_V": float(found["running_V"]), "running_var": float(torchs.running_var)}


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
    rows = list(_worked_examples(options.seed))
    yield from (("layers", row) for row in rows)
    yield from (("layers-components", row) for row in components(rows))
    yield from (("layers-running", row) for row in _running(options.seed))
    yield from (("layers-training", row) for row in _train(options))


def _conclude(tables: Tables) -> str:
    rows, parts, curves = tables["layers"], tables["layers-components"], tables["layers-training"]
    failed = [str(row["component"]) for row in parts if not float(row["passed"])]
    missed = f", not {', '.join(failed)}" if failed else ""
    last = max(column(curves, "epoch"))
    ends = where(curves, epoch=last)
    reached = ", ".join(
        f"{float(row['hidden']):g} hidden {row['batch_norm']} batch norm {100 * float(row['test_accuracy']):.1f} %" for row in ends
    )
    later = tables["layers-running"][len(tables["layers-running"]) // 2 :]
    own, torchs = (statistics.fmean(column(later, name)) for name in ("running_V", "running_var"))
    return (
        f"{len(parts) - len(failed)} of {len(parts)} components passed{missed}: all values of "
        f"the worked examples ({len(rows)}, in both conventions of the division by N) are torch's within "
        f"{max(float(row['worst_difference']) for row in parts):.0e}. Of batches of {SAMPLES} with variance 1 the running variance is "
        f"{own:.2f} in the mean in MyTorch's form and {torchs:.2f} in torch's. Right on the tests of {ends[0]['data']} after {last:g} "
        f"epochs: {reached}."
    )


def checks(tables: Tables) -> list[tuple[str, bool]]:
    """Return a line for each component, and whether it passed."""
    found = []
    for row in tables["layers-components"]:
        right, values, worst = (float(row[name]) for name in ("right", "values", "worst_difference"))
        found.append((f"{row['component']}: {right:g} of {values:g} values right, within {worst:.0e}", bool(float(row["passed"]))))
    return found


register(
    Study(
        "layers",
        "Layers by hand, batch norm too",
        "Is every value of a training step, forward and back, what torch has, and what does batch norm do to training?",
        {
            "layers": ("component", "hidden", "batch_norm", "loss", "value", "index", "by_hand", "by_torch", "mytorch", "mytorch_by_torch"),
            "layers-components": ("component", "values", "right", "worst_difference", "passed"),
            "layers-running": ("step", "variance", "running_V", "running_var"),
            "layers-training": ("data", "hidden", "batch_norm", "epoch", "train_loss", "test_loss", "test_accuracy"),
        },
        _rows,
        _conclude,
        SETS,
        checks,
    )
)
