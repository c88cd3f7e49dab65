"""Registers and shared memory of the Triton kernels, read from code compiled ahead of time: no GPU is needed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.analysis.tables import markdown
from jacobians.kernels.cuda.blocks import LOSSES, constants_of, cut_for, options_for, unpadded
from jacobians.kernels.cuda.wide import INPUTS, OPTIONS, blocks_of_pulled, blocks_of_pushed
from jacobians.problem import Problem

TARGETS = (80, 90, 100)  # A100, H100 and H200, B200
# Shapes of the sweeps: a small network, a batch of a physics-informed one, a classifier, a decoder.
SHAPES: tuple[tuple[str, Problem], ...] = (
    ("forward", Problem(widths=(2, *[30] * 10, 10))),
    ("forward", Problem(widths=(3, *[64] * 5, 1), batch=4096, bias=True)),
    ("forward", Problem(widths=(10, *[50] * 8, 784), batch=256)),
    ("reverse", Problem(widths=(2, *[30] * 10, 10))),
    ("reverse", Problem(widths=(3, *[64] * 5, 1), batch=4096, bias=True)),
    ("reverse", Problem(widths=(3, *[50] * 5, 1), batch=4096, bias=True)),
    ("reverse", Problem(widths=(784, *[50] * 8, 10), batch=256)),
    ("laplacian", Problem(widths=(3, *[64] * 5, 1), batch=4096, bias=True)),
    ("laplacian", Problem(widths=(10, *[64] * 5, 1), batch=512, bias=True)),
    ("gradient", Problem(widths=(3, *[64] * 5, 1), batch=4096, bias=True, quantity="gradient", loss="mse")),
    ("gradient", Problem(widths=(784, *[50] * 8, 10), batch=256, bias=True, quantity="gradient", loss="cross_entropy")),
    ("jacobian_gradient", Problem(widths=(3, *[64] * 5, 1), batch=4096, bias=True, quantity="jacobian_gradient")),
    ("jacobian_gradient", Problem(widths=(10, *[50] * 8, 784), batch=256, bias=True, quantity="jacobian_gradient")),
)


class Resources(NamedTuple):
    """Resources of a block."""

    registers: int  # of a thread
    stack: int  # bytes of a thread in local memory: what did not fit the registers
    shared: int  # bytes of shared memory
    precisions: frozenset[str] = frozenset()  # of the products on the matrix units, as the intermediate code has them


def resources(kind: str, problem: Problem, target: int, masked: bool = False) -> Resources:
    """Compile a kernel for a problem and read its needs off the machine code."""
    from jacobians.kernels.cuda import chains
    from jacobians.kernels.cuda.elementary import CODES

    others = {"reverse": chains.pulled, "gradient": chains.differentiated, "jacobian_gradient": chains.there_and_back}
    cut = cut_for(problem, kind)
    constants = constants_of(problem, kind, cut, True, unpadded(problem, kind, cut) and not masked)
    constants |= {"CODE": CODES.index(problem.activations[0].name), "CODE_OUT": CODES.index(problem.activations[-1].name)}
    classes = kind == "gradient" and problem.loss == "cross_entropy"
    constants |= {"LOSS": LOSSES.index(str(problem.loss)), "CLASSES": classes} if kind == "gradient" else {}
    return _needs(others.get(kind, chains.pushed), constants, {"target": "*i64"} if classes else {}, options_for(problem, kind), target)


def resources_of_layer(mode: str, rows: int, target: int) -> Resources:
    """Compile the kernel of one layer of a wide network, of tanh between hidden neurons, and read its needs off the machine code."""
    from jacobians.kernels.cuda import layers

    if mode == "reverse":
        constants = {"R": rows, "BO": blocks_of_pulled(1000, 1000, rows)[0], "BI": INPUTS, "FIRST": False}
        return _needs(layers.pulled_layer, constants, {}, OPTIONS, target)
    outputs, at_once = blocks_of_pushed(rows)
    constants = {"S": rows, "BN": 1, "BO": outputs, "BI": at_once, "CODE": 0, "FIRST": False, "LAST": False, "KEEP": True, "BIAS": True}
    return _needs(layers.pushed_layer, constants, {}, OPTIONS, target)


def _needs(function: Any, constants: dict[str, Any], types: dict[str, str], options: dict[str, Any], target: int) -> Resources:
    """Compile, and ask the `cuobjdump` that Triton ships."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    known = dict.fromkeys(("addresses", "widths", "offsets"), "*i64")
    known |= dict.fromkeys(("N", "blocks", "size", "n_in", "n_out", "D", "P", "rows", "parts", "each"), "i32")
    known |= dict.fromkeys(("factor", "a", "b", "scale", "a_out", "b_out", "scale_out"), "fp32")
    known |= types
    signature = {name: "constexpr" if name in constants else known.get(name, "*fp32") for name in function.arg_names}
    places = {(function.arg_names.index(name),): value for name, value in constants.items()}
    compiled = triton.compile(ASTSource(function, signature, places), target=GPUTarget("cuda", target, 32), options=options)
    tool = next((Path(triton.__path__[0]) / "backends" / "nvidia").rglob("cuobjdump"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"REG:(\d+) STACK:(\d+)", text)
    registers, stack = map(int, found[-1])
    dots = re.findall(r"tt\.dot [^:]*?(?:inputPrecision = (\w+))? :", compiled.asm["ttir"])
    return Resources(registers, stack, int(compiled.metadata.shared), frozenset(name or "ieee" for name in dots))


def table() -> str:
    """Write the needs of every kernel on every target."""
    rows: list[list[str]] = []

    def add(kernel: str, shape: str, needs: Callable[[int], Resources]) -> None:
        rows.append([kernel, shape, *(f"{r.registers} / {r.stack} / {r.shared}" for r in map(needs, TARGETS))])

    for kind, problem in SHAPES:
        shape = f"{'-'.join(map(str, problem.widths))}, N={problem.N}"
        add(kind, shape, lambda target, k=kind, p=problem: resources(k, p, target))
        if unpadded(problem, kind, cut_for(problem, kind)):
            add(f"{kind}, with masks", shape, lambda target, k=kind, p=problem: resources(k, p, target, masked=True))
    for mode in ("forward", "reverse"):
        for count in (2, 16):
            add(f"{mode}, a layer", f"1000 by 1000, {count} rows", lambda target, m=mode, r=count: resources_of_layer(m, r, target))
    return markdown(["kernel", "shape", *(f"sm_{target}" for target in TARGETS)], rows)


if __name__ == "__main__":
    print(table())
