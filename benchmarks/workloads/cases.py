"""From `sweeps.toml` to cases: a problem, a method and a device each, with a stable key."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, ValidationInfo, field_validator, model_validator

import jacobians as jac
from benchmarks.errors import BadInput
from benchmarks.workloads.names import SWEEPS_FILE, one_of, read_toml, suggest
from jacobians.network.activations import RULES, activation
from jacobians.network.losses import RULES as LOSSES
from jacobians.network.losses import loss_of
from jacobians.network.mlp import INITS
from jacobians.planning.registry import JACOBIAN, find_method, find_quantity, quantities
from jacobians.problem import DTYPES, uniform_widths
from jacobians.quantities.derivatives import numbered, read, write

Sizes = StrictInt | list[StrictInt]
MOST_PROBLEMS = 100_000  # of a grid
LARGEST_J, MOST_OPERATIONS = 64 * 2**20, 2e10  # of problems drawn at random
LEFT_OUT = ("*:torch.compile", "*:notebook-no-grad")  # by default; not every quantity has these
GONE = ("*:dense",)  # in the records of earlier runs


class Grid(BaseModel):
    """A product of sizes; every list is one axis. Either `L, D, K, P` or `widths`. A `name` is what a single problem is known by."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    L: Sizes | None = None
    D: Sizes | None = None
    K: Sizes | None = None
    P: Sizes | None = None
    N: Sizes = 1
    widths: list[StrictInt] | None = None
    activation: str = "tanh"
    output_activation: str = "identity"
    bias: bool = False
    init: str = "xavier"
    dtype: str = "float32"
    loss: str | None = None
    asked: list[str] | None = None

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, text: str | None) -> str | None:
        try:
            return None if text is None else str(loss_of(text))
        except ValueError as error:
            name = (text or "").partition("(")[0]
            raise BadInput(str(error) if name in LOSSES else suggest("loss", name, list(LOSSES))) from None

    @field_validator("activation", "output_activation")
    @classmethod
    def _known_activation(cls, text: str) -> str:
        for one in text.split(";"):
            try:
                activation(one)
            except ValueError as error:
                name = one.partition("(")[0]
                raise BadInput(str(error) if name in RULES else suggest("activation", name, list(RULES))) from None
        return text

    @field_validator("init", "dtype")
    @classmethod
    def _known_name(cls, name: str, info: ValidationInfo) -> str:
        return one_of(str(info.field_name), name, INITS if info.field_name == "init" else DTYPES)

    @model_validator(mode="after")
    def _one_way_to_give_sizes(self) -> Grid:
        sizes = (self.L, self.D, self.K, self.P)
        if (self.widths is None) == (None in sizes) or (self.widths is not None and sizes != (None,) * 4):
            raise ValueError("give either widths or all of L, D, K, P")
        count = math.prod(len(size) for size in (*sizes, self.N) if isinstance(size, list))
        if count > MOST_PROBLEMS:
            raise ValueError(f"{count} problems are more than a run can take; make a grid of {MOST_PROBLEMS} at most")
        return self

    def problems(self, quantity: str = JACOBIAN) -> Iterator[dict[str, Any]]:
        """Expand the product."""
        common = {name: getattr(self, name) for name in ("activation", "output_activation", "bias", "dtype")}
        common |= {"quantity": quantity, "loss": self.loss or ("mse" if find_quantity(quantity).loss else None)}
        if self.asked is not None and quantity != "derivatives":
            raise ValueError(f"'asked' names derivatives, and the quantity is {quantity}; leave it out")
        if self.widths is not None:
            shapes = [tuple(self.widths)]
        else:
            axes = [_as_list(size) for size in (self.L, self.D, self.K, self.P)]  # pyright: ignore[reportArgumentType]
            shapes = [uniform_widths(*sizes) for sizes in product(*axes)]
        for N, widths in product(_as_list(self.N), shapes):
            # N = 1 is a single x of shape (D,): what a user with one point would write.
            batch = None if N == 1 and not find_quantity(quantity).batched else N
            yield {"widths": widths, "batch": batch, **common, "asked": self._asked(widths)}

    def _asked(self, widths: Sequence[int]) -> str | None:
        """Write what is asked for as problems hold it."""
        if self.asked is None:
            return None
        return write(read(tuple(self.asked), numbered("x", widths[0]), None, widths[-1]), widths[0], widths[-1])


class Sweep(BaseModel):
    """A named set of grids and the time each of its cases may take to measure."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9-]{1,80}$")
    title: str
    quantity: str = Field(JACOBIAN, description="what is computed")
    beside: list[str] = Field(default_factory=list, description="other quantities of the same problems, measured in the same turns")
    seconds: float = Field(2.0, gt=0, le=86400, description="measuring time of a case")
    exclude: list[str] = Field(
        default_factory=lambda: list(LEFT_OUT), description="globs of methods left out; torch.compile takes many seconds a case"
    )
    drawn: int = Field(0, ge=0, le=1000, description="problems drawn at random, by the seed of the run")
    grid: list[Grid] = Field(default_factory=list)

    @field_validator("quantity", "beside")
    @classmethod
    def _known_quantity(cls, names: str | list[str]) -> str | list[str]:
        known = [quantity.name for quantity in quantities()]
        for name in [names] if isinstance(names, str) else names:
            one_of("quantity", name, known)
        return names

    @model_validator(mode="after")
    def _known_methods_and_problems(self) -> Sweep:
        for pattern in self.exclude:
            if not jac.methods(pattern, self.quantity) and pattern not in (*LEFT_OUT, *GONE):
                raise BadInput(f"exclude: {suggest('method', pattern, [method.short for method in jac.methods(quantity=self.quantity)])}")
        if not self.grid and not self.drawn:
            allowed = ", ".join(name for name in Sweep.model_fields if name != "name")
            raise ValueError(f"the key 'grid' is missing; allowed keys: {allowed}")
        return self

    def grids(self, seed: int = 0) -> Iterator[Grid]:
        """Go over its grids, and those drawn with a seed.

        L is uniform in 1 … 10; the logarithms of D and P in 1 … 1024, of K in 8 … 1024 and of N in 1 … 1024 are uniform; problems with
        more than 64 MB of J, or above 2·10¹⁰ operations in the cheaper mode, are drawn again.
        """
        yield from self.grid
        draw, left = random.Random(seed), self.drawn
        while left:
            L = draw.randint(1, 10)
            D, K, P, N = (round(math.exp(draw.uniform(math.log(low), math.log(1024)))) for low in (1, 8, 1, 1))
            if 4 * N * P * D <= LARGEST_J and 2 * N * min(D, P) * K * (D + P + (L - 1) * K) <= MOST_OPERATIONS:
                left -= 1
                yield Grid(L=L, D=D, K=K, P=P, N=N)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure. Scalars only: a parametrised test may hold thousands of them."""

    sweep: str
    problem: jac.Problem
    init: str
    method: str
    seed: int = 0
    seconds: float = field(default=2.0, compare=False)

    @property
    def key(self) -> str:
        """Sizes/device/method; equal keys mean the same computation."""
        p = self.problem
        sizes = f"{'-'.join(map(str, p.widths))} N{p.N}"
        output = "" if p.output_activation == "identity" else f">{p.output_activation}"
        loss = f" {p.loss or p.asked}" if p.loss or p.asked else ""
        bias = "bias" if p.bias else "nobias"
        return f"{sizes} {p.activation}{output} {bias} {self.init} seed{self.seed} {p.dtype}{loss}/{p.device}/{self.method}"

    @property
    def group(self) -> str:
        """Key of the cases that are measured in turn: the problem, whatever of it is computed, and the device."""
        return self.key.removesuffix(f"/{self.method}")

    @property
    def id(self) -> str:
        """A readable test id."""
        p = self.problem
        sizes = f"L{p.L}-D{p.D}-K{p.K}-P{p.P}" if p.K is not None else "-".join(map(str, p.widths))
        return f"{sizes}-N{p.N}-{p.dtype}-{p.device}-{self.method}"


def load_sweeps(path: Path = SWEEPS_FILE) -> dict[str, Sweep]:
    """Read and validate the sweeps."""
    sweeps: dict[str, Sweep] = {}
    for name, table in read_toml(path).items():
        if not isinstance(table, dict):
            raise BadInput(f"{path}, table [{name}]: expected a table, got {table!r}; write [{name}] and its keys below")
        try:
            sweep = Sweep.model_validate({"name": name, **table})
            for grid in sweep.grids():
                for problem in grid.problems(sweep.quantity):
                    _ = jac.Problem(**problem).activations  # says what does not fit, before the first is measured
        except ValidationError as error:
            raise BadInput(f"{path}, table [{name}]: {_complaint(error)}") from None
        except (TypeError, ValueError) as error:
            raise BadInput(f"{path}, table [{name}]: {error}") from None
        sweeps[name] = sweep
    return sweeps


def _complaint(error: ValidationError) -> str:
    """Say in one line which key is wrong, what it must be, and which keys there are."""
    item = min(error.errors(), key=lambda item: len(item["loc"]))  # a key before what stands in it
    parts = [part for part in item["loc"] if part not in {"int", "list[int]"}]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    model = Grid if "grid" in parts[:1] and len(parts) > 1 else Sweep
    allowed = ", ".join(name for name in model.model_fields if (model, name) != (Sweep, "name"))
    if item["type"] == "extra_forbidden":
        return f"unknown key {key!r}; allowed keys: {allowed}"
    if item["type"] == "missing":
        return f"the key {key!r} is missing; allowed keys: {allowed}"
    if item["type"] == "value_error":
        message = str(item.get("ctx", {}).get("error"))
        return f"{key}: {message}" if key else message
    if key == "name":
        return f"a sweep is named by at most 80 of a-z, 0-9 and '-', got {item['input']!r}"
    last = str(next((part for part in reversed(parts) if isinstance(part, str)), ""))
    expected = EXPECTED.get(last, "a whole number, or a list of them such as [1, 2, 3]" if last in {*"LDKPN", "widths"} else "text")
    return f"{key}: expected {expected}, got {item['input']!r}"


EXPECTED = {
    "seconds": "a positive number",
    "asked": "a list of names such as ['u', 'u_x0', 'u_{x1,x1}']",
    "bias": "true or false",
    "grid": "a list of tables, e.g. [{ L = 3, D = [1, 4], K = 64, P = 16 }]",
    "exclude": "a list of patterns such as ['*:notebook']",
}


def find_sweep(name: str, sweeps: dict[str, Sweep] | None = None) -> Sweep:
    known = load_sweeps() if sweeps is None else sweeps
    return known[one_of("sweep", name, known)]


def expand(sweep: Sweep, devices: Sequence[str], patterns: Sequence[str] = (), seed: int = 0) -> list[Case]:
    """List the cases of a sweep: all methods of a problem next to each other, so that ratios between them hold.

    Kernels made for another type of device are left out.
    """
    computed = (sweep.quantity, *sweep.beside)
    chosen = select_methods(patterns, computed)
    made_for = {method.name: method.device for quantity in computed for method in jac.methods(quantity=quantity)}
    left_out = {method.name for pattern in sweep.exclude for method in jac.methods(pattern, sweep.quantity)}
    cases: list[Case] = []
    seen: set[str] = set()
    for device in devices:
        for grid in sweep.grids(seed):
            for sizes in grid.problems(sweep.quantity):
                for method in chosen:
                    problem = jac.Problem(device=device, **{**sizes, "quantity": find_method(method).quantity})
                    case = Case(sweep.name, problem, grid.init, method, seed, sweep.seconds)
                    if method not in left_out and made_for[method] in {None, device} and case.key not in seen:
                        seen.add(case.key)
                        cases.append(case)
    return cases


def select_methods(patterns: Sequence[str], computed: Sequence[str] = (JACOBIAN,)) -> list[str]:
    """Resolve globs of methods of some quantities."""
    everything = [method for quantity in computed for method in jac.methods(quantity=quantity)]
    if not patterns:
        return [method.name for method in everything]
    wanted: set[str] = set()
    for pattern in patterns:
        matched = {method.name for method in everything if fnmatchcase(method.name, pattern) or fnmatchcase(method.short, pattern)}
        if not matched:
            raise BadInput(suggest("method", pattern, [method.name for method in everything]))
        wanted |= matched
    return [method.name for method in everything if method.name in wanted]


def _as_list(sizes: Sizes) -> list[int]:
    return sizes if isinstance(sizes, list) else [sizes]
