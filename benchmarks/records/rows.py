"""The row: what one measured case leaves behind. Columns, units, version and validation in one place."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from benchmarks.errors import BadInput, printable
from benchmarks.workloads.cases import Case
from jacobians.planning.registry import find_quantity, split
from jacobians.problem import Problem

SCHEMA = 6
LAST_COLUMN = {  # of each schema: columns are added at the end
    1: "started_at",
    2: "device_median_s",
    3: "fraction_of_ceiling",
    4: "run",
    5: "asked",
    6: "sources",
}

Status = Literal["ok", "invalid", "oom", "timeout", "crashed", "unsupported", "skipped"]
STATUSES: tuple[str, ...] = get_args(Status)

Certainty = Literal["confirmed", "corrected", "undecided"]
MOST = 2**63 - 1  # what a column of integers holds
LONGEST = 1000  # characters of a reason
Count = Annotated[int, Field(ge=0, le=MOST)]
Size = Annotated[int, Field(ge=1, le=MOST)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Spread = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ORDER = ("min_s", "q1_s", "median_s", "q3_s", "max_s")

FLAGS = (
    "warnings, separated by spaces: noisy (quartiles far from the median), drift (the quartiles of the block medians differ), clock (a "
    "fixed loop changed its speed), load (other processes kept a core busy), threads (fewer than asked for), events (device events "
    "contradict the clock), ceiling (faster than the machine's measured ceiling), shared (the node of a cluster may have had other work); "
    "clock and load count from a quarter of the blocks on"
)


class Row(BaseModel):
    """One case: a problem, a method and a device, with its verdict and its times.

    The field descriptions are the column dictionary: `results/README.md` is generated from them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: int = Field(SCHEMA, alias="schema", ge=1, le=SCHEMA, description="version of these columns")
    sweep: str = Field(description="name of the sweep in benchmarks/sweeps.toml")
    case: str = Field(
        description="key of the case, unique within the sweep: sizes, batch, activation, bias, init, seed, dtype, loss or what is asked, "
        "device, method"
    )
    L: Count = Field(description="hidden layers")
    D: Size = Field(description="input width")
    K: Size | None = Field(None, description="hidden width; empty where the layers differ or there are none")
    P: Size = Field(description="output width")
    N: Count = Field(description="samples; 1 is a single x of shape (D,)")
    widths: str = Field(description="all widths, input first, joined by hyphens")
    activation: str = Field(description="hidden activation; ' > ψ' is added where the output has one")
    dtype: str = Field(description="floating-point type of weights, x and J")
    device: str = Field(description="torch device type")
    device_name: str = Field(description="model of the processor or accelerator")
    machine: str = Field(description="slug of the machine: processor and cores, never a host name")
    method: str = Field(description="full method name, mode:implementation, with quantity/ in front where it is not the Jacobian")
    mode: str = Field(description="forward, reverse or mixed; of another quantity one of its modes")
    implementation: str = Field(description="what carries the mode out")
    status: Status = Field(
        description="ok; invalid (wrong or non-finite, its time is never plotted); oom; timeout; crashed; unsupported; skipped"
    )
    reason: str | None = Field(None, description="why the status is not ok")
    rel_error: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="‖J - J64‖ / ‖J64‖ against the float64 oracle, of the worst sample or tensor; empty where not finite",
    )
    tolerance: float | None = Field(None, gt=0, allow_inf_nan=False, description="largest rel_error accepted for this case")
    rounds: Count | None = Field(None, description="timed rounds")
    iterations: Size | None = Field(None, description="calls within one round; times are per call")
    min_s: Seconds | None = Field(None, description="fastest round")
    q1_s: Seconds | None = Field(None, description="first quartile")
    median_s: Seconds | None = Field(None, description="median")
    q3_s: Seconds | None = Field(None, description="third quartile")
    max_s: Seconds | None = Field(None, description="slowest round")
    mean_s: Seconds | None = Field(None, description="mean")
    stddev_s: Spread | None = Field(None, description="standard deviation of the rounds")
    ci_low_s: Seconds | None = Field(
        None, description="lower end of the distribution-free 95 % interval of the median, from the block medians"
    )
    ci_high_s: Seconds | None = Field(None, description="upper end of that interval")
    prepare_s: Spread | None = Field(None, description="planning, packing and compilation, with the first call")
    peak_bytes: Count | None = Field(
        None, description="peak memory of a call beyond what was held before it, J included; empty where it cannot be measured"
    )
    flops: Count | None = Field(None, description="floating-point operations of the mode, from jacobians.planning.cost")
    bytes: Count | None = Field(None, description="compulsory traffic: weights and x read once, J written once")
    threads: Size | None = Field(None, description="threads the libraries were limited to")
    torch: str | None = Field(None, description="torch version")
    commit: str | None = Field(None, description="commit of this project; -dirty where the tree had changes")
    started_at: str | None = Field(None, description="start of the case, UTC, ISO 8601")
    stop: Literal["precision", "time"] | None = Field(None, description="what ended the measurement: the precision asked for, or the time")
    flags: str | None = Field(None, description=FLAGS)
    cache: Literal["hot", "cold"] | None = Field(None, description="hot: calls follow each other; cold: caches are flushed before each")
    block_medians_s: str | None = Field(None, description="median of each block of rounds, in measuring order, separated by spaces")
    device_median_s: Seconds | None = Field(None, description="on an accelerator: median time by device events, without the launch")

    fraction_of_ceiling: Seconds | None = Field(
        None,
        description="least time of the mode on this machine (docs/measuring.md) over the median; above 1.05 the ceiling would be wrong",
    )
    quantity: str = Field("jacobian", description="what is computed")
    init: str | None = Field(None, description="initialisation of the weights")
    bias: bool | None = Field(None, description="whether the layers have biases")
    seed: int | None = Field(None, ge=-MOST, le=MOST, description="seed of weights and inputs")
    loss: str | None = Field(None, description="loss, of quantities that have one")
    run: str | None = Field(None, description="what the rows of one run share: measured in turn, they are compared block by block")
    asked: str | None = Field(None, description="derivatives that are asked for, of the quantity derivatives")

    block_loops_s: str | None = Field(None, description="time of a fixed loop beside each block: a block's time over it is one in cycles")
    certainty: Certainty | None = Field(
        None,
        description="confirmed: the median's interval is within 5 %; corrected: only that of the blocks in cycles is; undecided: neither",
    )
    certainty_reason: str | None = Field(None, description="why: the width of the interval, and what was noticed")
    sources: str | None = Field(None, description="hashes of the sources of method and oracle, without comments and docstrings")

    @field_validator("*", mode="before")
    @classmethod
    def _cleaned(cls, value: object, info: ValidationInfo) -> object:
        """Make every text one that can be kept and shown, whoever wrote it; not a number is empty."""
        if isinstance(value, str):
            return printable(value)[: LONGEST if info.field_name == "reason" else None]
        return None if isinstance(value, float) and math.isnan(value) else value

    @model_validator(mode="after")
    def _check(self) -> Row:
        self._check_problem()
        if self.status != "ok" and not self.reason:
            raise ValueError(f"status {self.status} needs a reason")
        if self.status == "ok":
            missing = [name for name in ("rel_error", "tolerance", "median_s", "rounds") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"status ok needs {', '.join(missing)}")
            if not all(0 < seconds < math.inf for seconds in (*self.block_medians, *self.block_loops)):
                raise ValueError("the times of the blocks must be positive and finite")
            times = [seconds for name in ORDER if (seconds := getattr(self, name)) is not None]
            if times != sorted(times) or (self.ci_low_s or 0.0) > (self.ci_high_s or math.inf):
                raise ValueError(f"{', '.join(ORDER)} must be in this order, and ci_low_s below ci_high_s")
            if self.rel_error > self.tolerance:  # pyright: ignore[reportOperatorIssue]
                raise ValueError(f"status ok but rel_error {self.rel_error:g} exceeds tolerance {self.tolerance:g}")
            if self.tolerance >= 1 and self.schema_version >= 6:  # pyright: ignore[reportOptionalOperand]
                raise ValueError(f"status ok but with a tolerance of {self.tolerance:g} nothing is wrong")
        return self

    def _check_problem(self) -> None:
        """Refuse a row whose columns describe no problem, or another one than its key."""
        problem = problem_of(self)
        _ = problem.activations  # says what does not fit
        sizes = {"L": problem.L, "D": problem.D, "K": problem.K, "P": problem.P, "widths": "-".join(map(str, problem.widths))}
        named = dict(zip(("quantity", "mode", "implementation"), _named(self.method), strict=True))
        for name, value in (sizes | named).items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} is {getattr(self, name)}, but {value} by the {'widths' if name in sizes else 'method'}")
        quantity = find_quantity(self.quantity)
        if self.mode not in quantity.modes:
            raise ValueError(f"{self.quantity} has no mode {self.mode!r}")
        if (self.loss is not None) != quantity.loss or (self.asked is not None) != (self.quantity == "derivatives"):
            raise ValueError(f"loss {self.loss!r} and asked {self.asked!r} do not go with {self.quantity}")
        known = self.init is not None or self.schema_version >= 4  # in older rows the key alone may hold it
        if known and self.case != (key := Case(self.sweep, problem, str(self.init), self.method, self.seed or 0).key):
            raise ValueError(f"the key is {self.case!r}, but {key!r} by the columns")

    @property
    def block_medians(self) -> tuple[float, ...]:
        """The medians of the blocks, in seconds."""
        return tuple(map(float, (self.block_medians_s or "").split()))

    @property
    def block_loops(self) -> tuple[float, ...]:
        """The times of the fixed loop beside the blocks, in seconds."""
        return tuple(map(float, (self.block_loops_s or "").split()))

    @property
    def median(self) -> float:
        """The median in seconds, of a row that has one."""
        assert self.median_s is not None
        return self.median_s


def problem_of(row: Row) -> Problem:
    """Describe the problem of a row for the library."""
    activation, _, output = row.activation.partition(" > ")
    return Problem(
        widths=tuple(int(width) for width in row.widths.split("-")),
        batch=None if row.N == 1 and not find_quantity(row.quantity).batched else row.N,
        activation=activation,
        output_activation=output or "identity",
        bias=bool(row.bias),
        dtype=row.dtype,
        device=row.device,
        quantity=row.quantity,
        loss=row.loss,
        asked=row.asked,
    )


def _named(method: str) -> tuple[str, str, str]:
    quantity, short = split(method)
    mode, _, implementation = short.partition(":")
    return quantity, mode, implementation


FIELDS = {field.alias or name: field for name, field in Row.model_fields.items()}
COLUMNS = tuple(FIELDS)
_TEXT = {name for name, field in FIELDS.items() if "str" in str(field.annotation)}

# A spreadsheet takes a cell that starts so for a formula. Such text is stored with an apostrophe in front.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")


def to_cells(row: Row) -> list[str]:
    """Turn a row into CSV cells; `from_cells` gives the same row back."""
    record = row.model_dump(by_alias=True)
    return [_to_cell(name, record[name]) for name in COLUMNS]


def from_cells(cells: dict[str, str], where: str) -> Row:
    values = _upgraded({name: _from_cell(name, cell) for name, cell in cells.items()})
    try:
        return Row.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"{where}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """Say in one line which values were wrong."""
    complaints: list[str] = []
    for item in error.errors()[:3]:
        place = ".".join(map(str, item["loc"])) or "row"
        got = "" if place == "row" else f" (got {_short(repr(item['input']), 60)})"
        complaints.append(f"{place}: {_short(item['msg'], 300)}{got}")
    return "; ".join(complaints)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def ok_rows(rows: Iterable[Row]) -> list[Row]:
    """Keep the rows whose Jacobian was right: the only ones with a time worth showing."""
    return [row for row in rows if row.status == "ok"]


def column_dictionary() -> str:
    """Describe every column as a Markdown table."""
    lines = ["| column | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {field.description} |" for name, field in FIELDS.items()]
    return "\n".join(lines) + "\n"


def _upgraded(values: dict[str, str | None]) -> dict[str, str | None]:
    """Fill in the columns of schema 4 in an older row, whose case key alone held them."""
    words = (values.get("case") or "").split("/")[0].split(" ")
    if "init" in values or len(words) != 7:
        return values
    _, _, _, bias, init, seed, _ = words
    return {**values, "bias": str(bias == "bias"), "init": init, "seed": seed.removeprefix("seed")}


def _to_cell(name: str, value: object) -> str:
    if value is None:
        return ""
    text = repr(value) if isinstance(value, float) else str(value)
    return f"'{text}" if name in _TEXT and text.startswith(_FORMULA_STARTS) else text


def _from_cell(name: str, cell: str) -> str | None:
    if cell == "":
        return None
    return cell[1:] if name in _TEXT and cell.startswith("'") else cell
