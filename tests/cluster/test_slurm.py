"""The same on a real SLURM of two nodes, which is set up here and taken down: `make test-slurm`."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

import jacobians as jac
from benchmarks.records.csv_file import read_csv
from benchmarks.records.journal import read_journal
from benchmarks.run import cluster
from benchmarks.run.environment import ROOT
from jacobians.store import outofcore, scheduling
from tests.cluster.slurm import Slurm, why_not

REASON = "make test-slurm" if os.environ.get("TEST_SLURM") != "1" else why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
KILLS = int(os.environ.get("SLURM_KILLS", "20"))
SIXTY = '[sixty]\ntitle = "Sixty"\nseconds = 0.01\ngrid = [{ L = [1, 2, 3, 4, 5], D = [2, 3, 4], K = [3, 4], P = [2, 3] }]\n'
TWENTY = '[sixty]\ntitle = "Twenty"\nseconds = 3.0\ngrid = [{ L = [1, 2, 3, 4, 5], D = [2, 3], K = 3, P = [2, 3] }]\n'


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("slurm") / "s") as one:
        yield one


@pytest.fixture
def sweeps(tmp_path):
    path = tmp_path / "sixty.toml"
    path.write_text(SIXTY)
    return path


def bench(*arguments):
    done = subprocess.run([sys.executable, "bench.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def run(sweeps, out, *more):
    return (
        "run",
        "sixty",
        "--sweeps",
        sweeps,
        "--method",
        "reverse:eager",
        "--device",
        "cpu",
        "--on",
        "slurm",
        "--time",
        "10",
        "--out",
        out,
        *more,
    )


class Background:
    """A run that is followed by a process of its own."""

    def __init__(self, slurm, sweeps, out, *more):
        self.slurm, self.out = slurm, out
        command = [sys.executable, "bench.py", *map(str, run(sweeps, out, *more))]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def rows(self):
        return cluster.status(self.out).rows if (self.out / "jobs.json").exists() else 0

    def until(self, rows):
        self.slurm.wait(lambda: self.rows() >= rows or self.process.poll() is not None, f"{rows} rows")
        assert self.process.poll() is None, self.process.communicate()

    @property
    def task(self):
        """What the processes of its tasks are called."""
        return f"submitit.core._submit {self.out}"

    def until_started(self):
        def started():
            return self.rows() > 0 and subprocess.run(["pgrep", "-f", self.task], capture_output=True, check=False).returncode == 0

        self.slurm.wait(lambda: started() or self.process.poll() is not None, "a task")

    def until_rows(self, rows):
        self.slurm.wait(lambda: self.rows() >= rows or self.process.poll() is not None, "more rows")

    def until_over(self):
        self.slurm.wait(lambda: self.process.poll() is not None, "its end")

    def jobs(self):
        return scheduling.Jobs.load(self.out)

    def end(self):
        printed, said = self.process.communicate()
        return self.process.returncode, printed + said


def whole(out, sweep="sixty", cases=60):
    """Every case once, none torn, those of a problem of one run."""
    (csv,) = out.glob(f"*/{sweep}.csv")
    rows = read_csv(csv)
    assert len(rows) == len({row.case for row in rows}) == cases
    assert {row.status for row in rows} == {"ok"}
    for task in cluster.read_plan(out).tasks:
        entries, torn = read_journal(out / "tasks" / task.name / f"{sweep}.journal.jsonl")
        assert (len(entries), torn) == (task.cases, 0)
    return rows


def test_sixty_problems_over_two_nodes_by_constraint(slurm, sweeps, tmp_path):
    out = tmp_path / "run"
    done = bench(*run(sweeps, out, "--constraint", "first,second"))
    assert done.returncode == 0, done.stderr
    assert "submitted 2 tasks" in done.stderr
    whole(out)
    names = {task.name for task in cluster.read_plan(out).tasks}
    assert names == {"sixty-first-0", "sixty-second-0"}
    assert len(list(out.glob("*/nodes/*.json"))) == 2, "the environment of each node"
    assert "120 of 120 rows" in bench("status", out).stdout


def test_a_requeue_in_the_middle(slurm, sweeps, tmp_path):
    one = Background(slurm, sweeps, tmp_path / "run")
    one.until(10)
    (job,) = set(one.jobs().ids.values())
    before = {key for key in read_journal(one.out / "tasks" / "sixty-0" / "sixty.journal.jsonl")[0]}
    subprocess.run(["scontrol", "requeue", job.partition("_")[0]], check=True)
    status, said = one.end()
    assert status == 0, said
    rows = whole(one.out)
    assert len(list((one.out / "tasks" / "sixty-0" / "attempts").glob("*.json"))) == 2
    assert len({row.run for row in rows}) == 2, "what was finished before stayed"
    assert before <= {row.case for row in rows}


def test_a_node_that_fails_and_returns(slurm, sweeps, tmp_path):
    one = Background(slurm, sweeps, tmp_path / "run", "--constraint", "first")
    one.until(5)
    slurm.kill("n1", one.out)
    slurm.wait(lambda: slurm.states().get("n1", "").rstrip("*") in {"down", "idle"} and not slurm.running_on("n1"), "the failure is seen")
    slurm.start("n1")
    status, _ = one.end()
    if status == 1:  # SLURM gave the job up instead of requeueing it
        done = bench(*run(sweeps, one.out, "--constraint", "first", "--resume"))
        assert done.returncode == 0, done.stderr
    whole(one.out)


def test_a_limit_of_time_and_a_cancellation(slurm, sweeps, tmp_path):
    sweeps.write_text(TWENTY)  # long enough for SLURM to look at its limits, which it does every half minute
    for number, end in enumerate(("limit", "cancel")):
        one = Background(slurm, sweeps, tmp_path / f"run{number}")
        one.until(3)
        (job,) = set(one.jobs().ids.values())
        if end == "cancel":
            subprocess.run(["scancel", job], check=True)
        else:
            subprocess.run(["scontrol", "update", f"jobid={job}", "timelimit=0:01"], check=True)
            one.until_over()
        status, said = one.end()
        assert status == 1
        assert "--resume submits the rest" in said
        kept = set(read_journal(one.out / "tasks" / "sixty-0" / "sixty.journal.jsonl")[0])
        assert 3 <= len(kept) < 20
        assert "failed" in bench("status", one.out).stdout
        done = bench(*run(sweeps, one.out, "--resume"))
        assert done.returncode == 0, done.stderr
        whole(one.out, cases=20)


def test_kills_at_random_and_a_merge_of_two_runs(slurm, sweeps, tmp_path):
    dice = random.Random(7)
    out = tmp_path / "run"
    killed, more = 0, ()
    while killed < KILLS:
        one = Background(slurm, sweeps, out, "--tasks", "2", *more)
        one.until_started()
        if one.process.poll() is None:
            seen = one.rows() + dice.randrange(3)  # at any moment: so many rows later
            one.until_rows(seen)
            seen = one.rows()
            killed += subprocess.run(["pkill", "-9", "-f", one.task], check=False).returncode == 0
            one.until_over()
            assert one.rows() >= seen
        one.end()
        more = ("--resume",)
        if set(cluster.status(out).states.values()) == {"done"}:
            break
    if set(cluster.status(out).states.values()) != {"done"}:
        assert bench(*run(sweeps, out, "--tasks", "2", "--resume")).returncode == 0
    print(f"{killed} kills")
    assert killed >= min(KILLS, 5)
    whole(out)
    other = tmp_path / "other"
    assert bench(*run(sweeps, other)).returncode == 0
    assert bench("merge", out, other, "--out", tmp_path / "both").returncode == 0
    (csv,) = (tmp_path / "both").glob("*/sixty.csv")
    assert len(read_csv(csv)) == 60
    before = csv.read_bytes()
    bench("merge", out, other, "--out", tmp_path / "both")
    assert csv.read_bytes() == before


def test_what_is_not_there_is_one_line(slurm, sweeps, tmp_path):
    for arguments, message in (
        (("--partition", "gpu"), "SLURM has no partition 'gpu'; choose from debug"),
        (("--constraint", "h100"), "no node has the feature 'h100'; the nodes have: first, second"),
    ):
        done = bench(*run(sweeps, tmp_path / "run", *arguments))
        assert done.returncode == 2
        assert message in done.stderr
        assert not (tmp_path / "run").exists()


def test_jacobians_larger_than_memory(slurm, tmp_path):
    """Tasks that are requeued and cancelled: chunks equal, none missing."""
    (tmp_path / "net_of_a_user.py").write_text("import jacobians as jac\nmodel = jac.MLP.random(widths=[3, 64, 64, 2])\n")
    x = np.random.default_rng(0).standard_normal((6000, 3), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-m", "jacobians", "compute", "--module", "net_of_a_user:model", "--inputs", "x.npy", "--out", "J.zarr"]
    command += ["--samples-per-chunk", "10", "--on", "slurm", "--tasks", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out = tmp_path / "J.zarr"
    slurm.wait(
        lambda: process.poll() is not None or ((out / "zarr.json").exists() and jac.open_stored(out).fraction_done > 0.01),
        "the first chunks",
    )
    jobs = scheduling.Jobs.load(outofcore.beside(out))
    first, second = jobs.ids.values()
    subprocess.run(["scontrol", "requeue", first], check=False)
    subprocess.run(["scancel", second], check=False)
    process.communicate()
    if process.returncode == 1:
        assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
    stored = jac.open_stored(out)
    assert stored.fraction_done == 1
    mlp = jac.MLP.random(widths=[3, 64, 64, 2])
    for start in range(0, 6000, 10):
        assert torch.equal(stored[start : start + 10], jac.jacobian(mlp, torch.from_numpy(x[start : start + 10])))
