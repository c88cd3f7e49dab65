"""The order of turns, and a worker whose parent is gone."""

import os
import subprocess
import sys

from benchmarks.run.environment import ROOT
from benchmarks.run.session import in_turn
from benchmarks.workloads.cases import expand, load_sweeps


def test_blocks_of_a_problem_are_interleaved():
    cases = expand(load_sweeps()["quick"], ["cpu"], ["forward:eager", "reverse:eager"])[:4]
    turns = in_turn(cases)
    assert [(cases.index(turn.case), turn.block) for turn in turns[:5]] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]
    assert [cases.index(turn.case) for turn in turns[24:28]] == [2, 3, 2, 3]
    assert len(turns) == 4 * 12


def test_without_a_parent_a_worker_ends_and_computes_nothing():
    """Its grants come to an end before the first: that is what it sees when the parent has been killed."""
    read, write = os.pipe()
    os.close(write)
    command = [sys.executable, "-m", "pytest", "benchmarks/bench_jacobians.py", "-q", "--sweep", "quick", "--device", "cpu"]
    command += ["--method", "reverse:eager", "--grant-fd", str(read), "-o", "addopts="]
    done = subprocess.run(command, cwd=ROOT, pass_fds=(read,), capture_output=True, text=True, check=False, timeout=60)
    os.close(read)
    assert done.returncode == 3
    assert "passed" not in done.stdout
