"""`python -m jacobians compute`: derivatives larger than memory, from the command line, here or on a cluster."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from jacobians.network.losses import RULES
from jacobians.network.mlp import MLP
from jacobians.store import outofcore, scheduling

LOOK_S = 2.0
DYING_S = 120
# Options that `jac.compute_to_disk` takes as they are.
CHOSEN = ("quantity", "samples_per_chunk", "target", "loss", "method", "compression")


def network_of(where: str) -> MLP:
    """Import a network."""
    package, _, attribute = where.partition(":")
    if not package or not attribute:
        raise ValueError(f"--module takes package:attribute, got {where!r}; e.g. net:model for model in net.py")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(package)
        for name in attribute.split("."):
            found = getattr(found, name)
        found = found() if callable(found) and not isinstance(found, MLP | nn.Module) else found
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--module {where}: {error}") from None
    if isinstance(found, nn.Module):
        return MLP.from_torch(found.eval().requires_grad_(False))
    if not isinstance(found, MLP):
        raise ValueError(f"--module {where} is a {type(found).__name__}; expected an MLP, an nn.Module, or a function that returns one")
    return found


def run_part(options: dict[str, Any], part: tuple[int, int] | None, tasks: int) -> None:
    """Compute a part. What a task runs."""
    if tasks > 1:
        scheduling.share_cores(tasks)
    os.chdir(options["directory"])
    chosen = {name: options[name] for name in CHOSEN}
    for looks_left in range(DYING_S, -1, -1):
        try:
            outofcore.compute_to_disk(network_of(options["module"]), options["inputs"], options["out"], part=part, **chosen)
            return
        except BlockingIOError:  # called again by the scheduler, which is still killing the call before
            if not looks_left:
                raise
            time.sleep(1.0)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m jacobians", description="Derivatives of networks, larger than memory.")
    commands = top.add_subparsers(dest="command", required=True, metavar="compute|status")
    one = commands.add_parser(
        "compute",
        help="compute into a Zarr group, going on where an earlier call stopped",
        epilog="Example: python -m jacobians compute --module net:model --inputs x.npy --out J.zarr --on slurm --tasks 64",
    )
    one.add_argument("--module", required=True, metavar="PACKAGE:ATTRIBUTE", help="the network; this executes the module")
    one.add_argument("--inputs", required=True, metavar="FILE", help=".npy file or Zarr array of shape (N, D)")
    one.add_argument("--out", required=True, metavar="DIR", help="the Zarr group")
    one.add_argument("--quantity", default="jacobian", choices=sorted(outofcore.KINDS), help="what to compute (default: jacobian)")
    one.add_argument("--samples-per-chunk", type=int, default=4096, metavar="N", help="samples at a time (default: 4096)")
    one.add_argument("--target", metavar="FILE", help="targets of per-sample gradients")
    one.add_argument("--loss", default="mse", choices=sorted(RULES), help="loss of per-sample gradients (default: mse)")
    one.add_argument("--method", default="auto", metavar="NAME", help="method of the Jacobian or the kernel (default: auto)")
    one.add_argument("--compression", choices=("zstd", "gzip", "blosc"), help="none by default")
    one.add_argument("--on", choices=scheduling.SCHEDULERS, help="share the chunks between tasks, here or on a cluster")
    one.add_argument("--tasks", type=int, default=2, metavar="N", help="number of tasks with --on (default: 2)")
    one.add_argument("--partition", metavar="NAME", help="partition of SLURM")
    one.add_argument("--constraint", metavar="FEATURE", help="feature that nodes must have")
    one.add_argument("--time", type=int, default=60, metavar="MIN", help="limit of a task in minutes (default: 60)")
    state = commands.add_parser("status", help="say how much of an output is done, and what its tasks do")
    state.add_argument("out", metavar="DIR", help="the Zarr group")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    given = parser().parse_args(arguments)
    try:
        return _status(Path(given.out)) if given.command == "status" else _compute(given)
    except (ValueError, TypeError, OSError, RuntimeError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on, and `python -m jacobians status {given.out}` says how far it is", file=sys.stderr)
        return 130


def _compute(given: argparse.Namespace) -> int:
    chosen = {name: getattr(given, name) for name in CHOSEN}
    if given.on is None:
        stored = outofcore.compute_to_disk(network_of(given.module), given.inputs, given.out, report=_progress(), **chosen)
        print(f"\r{stored}", file=sys.stderr)
        return 0
    if given.tasks < 1:
        raise ValueError(f"--tasks must be at least 1, got {given.tasks}")
    resources = scheduling.Resources(given.on, given.partition, given.constraint, given.time, exclusive=False)
    scheduling.check(resources)
    options = vars(given) | {"directory": str(Path.cwd())}
    stored = outofcore.prepare(network_of(given.module), given.inputs, given.out, **chosen)
    folder = outofcore.beside(stored.path)
    scheduling.probe(folder, resources, time.sleep)
    before = scheduling.Jobs.load(folder)
    if before is not None and any(state != "ended" for state in before.states().values()):
        raise BlockingIOError(f"{given.out}: its tasks still run; look with `python -m jacobians status {given.out}`")
    tasks = [(options, (k, given.tasks), given.tasks if given.on == "local" else 1) for k in range(given.tasks)]
    jobs = scheduling.submit(run_part, tasks, [[str(k)] for k in range(given.tasks)], folder, resources)
    print(
        f"submitted {given.tasks} tasks; `python -m jacobians status {given.out}` looks again, `{scheduling.cancel_command(jobs)}` cancels"
    )
    while any(state != "ended" for state in jobs.states().values()):
        print(f"\r{stored.fraction_done:4.0%} done; tasks: {scheduling.counted(list(jobs.states().values()))}   ", end="", file=sys.stderr)
        time.sleep(LOOK_S)
    print(f"\r{stored!r}                              ", file=sys.stderr)
    if stored.fraction_done < 1:
        print(f"not all is done: the logs of the tasks are in {folder}/logs; the same command goes on", file=sys.stderr)
        return 1
    return 0


def _status(out: Path) -> int:
    stored = outofcore.open_stored(out)
    print(repr(stored))
    jobs = scheduling.Jobs.load(outofcore.beside(out))
    if jobs is not None:
        print(f"tasks: {scheduling.counted(list(jobs.states().values()))}; cancel with: {scheduling.cancel_command(jobs)}")
    return 0 if stored.fraction_done == 1 else 1


def _progress() -> Any:
    start = time.monotonic()

    def report(share: float) -> None:
        left = (time.monotonic() - start) * (1 - share) / share
        print(f"\r{share:4.0%} done, about {left:.0f} s left   ", end="", file=sys.stderr)

    return report


if __name__ == "__main__":
    sys.exit(main())
