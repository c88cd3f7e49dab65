"""Physics-informed networks: Poisson's and Burgers' equation, trained once with this library and once as people write it with autograd.

Both start from the same weights and see the same points, in float64, first by Adam and then by L-BFGS. What differs is where the
derivatives of the network come from: `jac.derivatives(..., create_graph=True)`, or `torch.autograd.grad` of `torch.autograd.grad`.

Sources: Raissi, Perdikaris & Karniadakis, Physics-informed neural networks, J. Comput. Phys. 378 (2019); the solution of Burgers'
equation by the transform of Cole and Hopf: Basdevant et al., Computers & Fluids 14 (1986).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import jacobians as jac
from studies.study import Options, Row, Study, Tables, column, register, where

WIDTHS = (2, 20, 20, 20, 20, 20, 20, 1)
POINTS, EDGE, EDGE_WEIGHT = 2000, 400, 30.0
ADAM_STEPS, LBFGS_STEPS, LOOK = 200, 800, 20
TIMED_BLOCKS, STEPS_OF_A_BLOCK, PAUSE_S = 12, 5, 0.02
GRID = 81
WAYS = ("jac", "autograd")
NU = 0.01 / math.pi

Named = dict[str, Tensor]  # u and its derivatives, each (N,)
Evaluated = tuple[Named, Tensor]  # what the equation is written in, inside, and u on the edge


@dataclass(frozen=True)
class Equation:
    """A boundary value problem on a rectangle."""

    name: str
    low: tuple[float, float]  # corner of the rectangle
    high: tuple[float, float]
    inputs: tuple[str, str]
    names: tuple[str, ...]  # what the equation is written in
    reached: float  # relative error whose time is stated
    gathered: int  # power of x of half of the points: beyond 1 they gather where x = 0
    residual: Callable[[Tensor, Named], Tensor]  # `(points, {name: values}) -> ` what must be zero
    edge: Callable[[int, torch.Generator], Tensor]  # `n -> points` where u is given
    exact: Callable[[Tensor], Tensor]  # the solution, at points (N, 2)


def _poisson(x: Tensor) -> Tensor:
    return torch.sin(math.pi * x[:, 0]) * torch.sin(math.pi * x[:, 1])


def _burgers(x: Tensor) -> Tensor:
    """Solve `u_t + u u_x = ν u_xx`, `u(x, 0) = -sin πx`: Cole and Hopf's integrals by Gauss and Hermite, in logarithms."""
    nodes, weights = np.polynomial.hermite.hermgauss(128)
    space, when = x[:, :1].double().numpy(), np.maximum(x[:, 1:].double().numpy(), 1e-12)
    at = space - 2 * np.sqrt(NU * when) * nodes
    exponent = -np.cos(math.pi * at) / (2 * math.pi * NU)
    kernel = weights * np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return torch.from_numpy(-(np.sin(math.pi * at) * kernel).sum(1) / kernel.sum(1)).to(x.dtype)


def _square_edge(n: int, generator: torch.Generator) -> Tensor:
    along = 2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1
    side = torch.arange(n) % 4
    sign = torch.where(side % 2 == 0, -1.0, 1.0).double()
    return torch.where((side < 2)[:, None], torch.stack([along, sign], 1), torch.stack([sign, along], 1))


def _start_and_walls(n: int, generator: torch.Generator) -> Tensor:
    along, when = 2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1, torch.rand(n, generator=generator, dtype=torch.float64)
    wall = torch.where(torch.arange(n) % 4 == 2, -1.0, 1.0).double()
    at_start = torch.arange(n) % 4 < 2
    return torch.stack([torch.where(at_start, along, wall), torch.where(at_start, 0.0, when)], 1)


EQUATIONS = (
    Equation(
        "Poisson",
        (-1.0, -1.0),
        (1.0, 1.0),
        ("x", "y"),
        ("u", "u_xx", "u_yy"),
        0.01,
        1,
        lambda points, d: d["u_xx"] + d["u_yy"] + 2 * math.pi**2 * _poisson(points),
        _square_edge,
        _poisson,
    ),
    Equation(
        "Burgers",
        (-1.0, 0.0),
        (1.0, 1.0),
        ("x", "t"),
        ("u", "u_t", "u_x", "u_xx"),
        0.1,
        3,  # the solution steepens to a front there
        lambda points, d: d["u_t"] + d["u"] * d["u_x"] - NU * d["u_xx"],
        _start_and_walls,
        _burgers,
    ),
)


def by_jac(net: nn.Module, equation: Equation, points: Tensor, edge: Tensor) -> Callable[[], Evaluated]:
    """Write what the loss needs with this library: one call for the points inside and on the edge."""
    mlp, every, n = jac.MLP.from_torch(net), torch.cat([points, edge]), len(points)

    def evaluate() -> Evaluated:
        d = jac.derivatives(mlp, every, equation.names, inputs=equation.inputs, create_graph=True)
        return {name: values[:n] for name, values in d.items()}, d["u"][n:]

    return evaluate


def by_autograd(net: nn.Module, equation: Equation, points: Tensor, edge: Tensor) -> Callable[[], Evaluated]:
    """Write what the loss needs as codes for physics-informed networks do."""

    def evaluate() -> Evaluated:
        x = points.clone().requires_grad_(True)
        u = net(x)[:, 0]
        (g,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        found = {"u": u}
        for d, name in enumerate(equation.inputs):
            found[f"u_{name}"] = g[:, d]
            if f"u_{name}{name}" in equation.names:
                found[f"u_{name}{name}"] = torch.autograd.grad(g[:, d].sum(), x, create_graph=True)[0][:, d]
        return found, net(edge)[:, 0]

    return evaluate


WRITTEN = {"jac": by_jac, "autograd": by_autograd}


class Training:
    """One network on one equation."""

    def __init__(self, equation: Equation, way: str, seed: int, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.net = jac.MLP.random(widths=WIDTHS, bias=True, seed=seed, dtype=dtype).to_torch()
        low, high = (torch.tensor(corner, dtype=torch.float64) for corner in (equation.low, equation.high))
        points = low + (high - low) * torch.rand(POINTS, 2, generator=generator, dtype=torch.float64)
        points[: POINTS // 2, 0] **= equation.gathered
        self.points = points.to(dtype)
        self.edge = equation.edge(EDGE, generator).to(dtype)
        self.given = equation.exact(self.edge)
        self.equation, self._evaluate = equation, WRITTEN[way](self.net, equation, self.points, self.edge)

    def loss(self) -> Tensor:
        """Return the mean squared residual inside, and that on the edge with a weight."""
        found, on_edge = self._evaluate()
        inside = self.equation.residual(self.points, found).square().mean()
        return inside + EDGE_WEIGHT * (on_edge - self.given).square().mean()

    def step_with(self, optimizer: torch.optim.Optimizer) -> float:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        found = optimizer.step(closure)  # pyright: ignore[reportCallIssue,reportArgumentType]
        loss = float(torch.as_tensor(found).detach())
        if not math.isfinite(loss):
            raise ArithmeticError(f"the loss of {self.equation.name} became {loss}")
        return loss

    def error(self, grid: Tensor, exact: Tensor) -> float:
        """Return the relative error of the solution on a grid."""
        with torch.no_grad():
            return float((self.net(grid)[:, 0] - exact).norm() / exact.norm())


def grid_of(equation: Equation) -> Tensor:
    """Return a grid over the rectangle."""
    axes = [torch.linspace(low, high, GRID, dtype=torch.float64) for low, high in zip(equation.low, equation.high, strict=True)]
    return torch.cartesian_prod(*axes)


def train(training: Training, adam: int, lbfgs: int) -> Iterator[list[Row]]:
    """Train, first by Adam and then by L-BFGS; yields rows of 20 steps at a time, of which the last has the error."""
    grid = grid_of(training.equation)
    exact, parameters = training.equation.exact(grid), list(training.net.parameters())
    seconds, step = 0.0, 0
    # max_eval counts the line search: its default would leave the last of the iterations none.
    lasting = {"max_eval": 3 * LOOK, "history_size": 50, "tolerance_grad": 0.0, "tolerance_change": 0.0}
    stages = (
        ("Adam", [1] * adam, torch.optim.Adam(parameters, lr=2e-3)),
        ("L-BFGS", [LOOK] * -(-lbfgs // LOOK), torch.optim.LBFGS(parameters, max_iter=LOOK, line_search_fn="strong_wolfe", **lasting)),
    )
    for name, parts, optimizer in stages:
        rows: list[Row] = []
        for number, iterations in enumerate(parts):
            if not rows:
                time.sleep(PAUSE_S)
            start = time.perf_counter()
            loss = training.step_with(optimizer)
            seconds, step = seconds + time.perf_counter() - start, step + iterations
            rows.append({"optimizer": name, "step": step, "loss": loss, "error": math.nan, "seconds": seconds})
            if iterations > 1 or step % LOOK == 0 or number == len(parts) - 1:
                rows[-1]["error"] = training.error(grid, exact)
                yield rows
                rows = []


def step_times(equation: Equation, dtype: torch.dtype, blocks: int, seed: int) -> dict[str, list[float]]:
    """Time steps of Adam, a few of each way in turn, so that what slows the machine slows both.

    Threads of a library spin for a while after it has used them, where the other way's would run: between two blocks there is a pause, and
    the first step of a block is not counted.
    """
    pairs = {way: Training(equation, way, seed, dtype) for way in WAYS}
    optimizers = {way: torch.optim.Adam(training.net.parameters(), lr=1e-3) for way, training in pairs.items()}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(blocks + 1):
        for way, training in pairs.items():
            time.sleep(PAUSE_S)
            block: list[float] = []
            for _ in range(STEPS_OF_A_BLOCK + 1):
                start = time.perf_counter()
                training.step_with(optimizers[way])
                block.append(time.perf_counter() - start)
            if number:
                times[way].append(statistics.median(block[1:]))
    return times


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    adam = options.epochs or ADAM_STEPS
    lbfgs = LOOK * max(1, LBFGS_STEPS * adam // (ADAM_STEPS * LOOK))
    total, done = len(EQUATIONS) * (adam + lbfgs), 0
    for equation in EQUATIONS:
        for dtype in (torch.float32, torch.float64):
            for way, seconds in step_times(equation, dtype, min(TIMED_BLOCKS, adam), options.seed).items():
                for number, one in enumerate(seconds):
                    name = str(dtype).removeprefix("torch.")
                    yield "pinn-times", {"equation": equation.name, "written": way, "dtype": name, "block": number, "seconds": one}
        trainings = {way: Training(equation, way, options.seed) for way in WAYS}
        for parts in zip(*(train(training, adam, lbfgs) for training in trainings.values()), strict=True):  # in turn, as above
            for way, rows in zip(WAYS, parts, strict=True):
                yield from (("pinn", {"equation": equation.name, "written": way, **row}) for row in rows)
            options.report((done + int(parts[0][-1]["step"])) / total)
        done += adam + lbfgs
        grid = grid_of(equation)
        with torch.no_grad():
            found = trainings["jac"].net(grid)[:, 0]
        for (a, b), value, exact in zip(grid.tolist(), found.tolist(), equation.exact(grid).tolist(), strict=True):
            yield "pinn-fields", {"equation": equation.name, "x": a, "y": b, "u": value, "exact": exact}


def ratios(rows: list[Row], equation: str, dtype: str) -> tuple[float, float, float]:
    """Return how many times as long a step takes by autograd."""
    mine, theirs = (column(where(rows, equation=equation, dtype=dtype, written=way), "seconds") for way in WAYS)
    found = sorted(b / a for a, b in zip(mine, theirs, strict=True))
    return found[len(found) // 2], found[len(found) // 4], found[-1 - len(found) // 4]


def apart(rows: list[Row], equation: str, optimizer: str) -> float:
    """Return how far the two loss curves are apart, at most; tables have nine digits."""
    one, other = (column(where(rows, equation=equation, optimizer=optimizer, written=way), "loss") for way in WAYS)
    return max(1e-9, *(abs(a - b) / max(abs(a), 1e-300) for a, b in zip(one, other, strict=True)))


def seconds_to(rows: list[Row], equation: Equation, way: str) -> float:
    """Return the time of training until the error that is stated; infinite where that was not reached."""
    own = where(rows, equation=equation.name, written=way)
    return min((float(row["seconds"]) for row in own if float(row["error"]) <= equation.reached), default=math.inf)


def _conclude(tables: Tables) -> str:
    parts = []
    for equation in EQUATIONS:
        own = where(tables["pinn"], equation=equation.name, written="jac")
        times = ", ".join(f"{ratios(tables['pinn-times'], equation.name, dtype)[0]:.2f} in {dtype}" for dtype in ("float32", "float64"))
        steps, differ = sum(row["optimizer"] == "Adam" for row in own), apart(tables["pinn"], equation.name, "Adam")
        mine, theirs = (seconds_to(tables["pinn"], equation, way) for way in WAYS)
        reached = f"after {mine:.3g} s, by autograd after {theirs:.3g} s" if max(mine, theirs) < math.inf else "not reached by both"
        parts.append(
            f"{equation.name}: a step by autograd takes {times} times as long; relative error {equation.reached:g} "
            f"{reached}, in the end {float(own[-1]['error']):.1e}; the losses of the {steps} steps of Adam differ by at most {differ:.0e}"
        )
    return "; ".join(parts) + "."


register(
    Study(
        "pinn",
        "Physics-informed networks",
        "What does a step of a physics-informed network cost with this library, and with autograd as people write it?",
        {
            "pinn": ("equation", "written", "optimizer", "step", "loss", "error", "seconds"),
            "pinn-times": ("equation", "written", "dtype", "block", "seconds"),
            "pinn-fields": ("equation", "x", "y", "u", "exact"),
        },
        _rows,
        _conclude,
    )
)
