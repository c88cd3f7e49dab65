"""Runs over a cluster without one: groups, plans, what is refused, tasks called again, and merging."""

import json
import os
import select
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.errors import BadInput
from benchmarks.records import merge as merging
from benchmarks.records.csv_file import read_csv
from benchmarks.records.journal import Journal, Lock, line_of, read_journal, record_of
from benchmarks.records.rows import SCHEMA
from benchmarks.run import cluster
from benchmarks.run.environment import ROOT
from benchmarks.run.worker import Settings
from benchmarks.workloads.cases import expand, load_sweeps
from jacobians.kernels.native import compiler
from jacobians.store import scheduling
from tests.benchmarks.rows import row
from tests.cases import DEADLOCK_S

pytest.importorskip("submitit")

SWEEPS = '[tiny]\ntitle = "Tiny"\nseconds = 0.02\ngrid = [{ L = [1, 2, 3, 4, 5, 6], D = 2, K = 4, P = 2 }]\n'
METHODS = ("reverse:eager", "forward:eager")


@pytest.fixture
def sweeps(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(SWEEPS)
    return path


@pytest.fixture
def planned(sweeps):
    def make(**options):
        settings = Settings(("cpu",), METHODS, sweeps_file=sweeps, threads=1)
        return cluster.plan(load_sweeps(sweeps), ["tiny"], settings, cluster.Wanted("local", **{"tasks": 2, **options}))

    return make


class TestGroups:
    def cases(self, sweeps, seconds=10.0):
        return [*expand(load_sweeps(sweeps)["tiny"], ["cpu"], METHODS)], Settings(("cpu",), METHODS, seconds=seconds)

    def test_a_limit_makes_groups(self, sweeps):
        cases, settings = self.cases(sweeps)  # a problem takes 2 · 11.5 s
        assert [len(group) for group in cluster.group(cases, settings, 60)] == [6]
        assert [len(group) for group in cluster.group(cases, settings, 3)] == [3, 3]  # 78 s of 180 beside the start
        keys = [key for group in cluster.group(cases, settings, 3) for key in group]
        assert keys == list(dict.fromkeys(case.group for case in cases)), "each once, in the order of the sweep"

    def test_at_least_so_many(self, sweeps):
        cases, settings = self.cases(sweeps)
        assert [len(group) for group in cluster.group(cases, settings, 60, least=3)] == [2, 2, 2]
        assert len(cluster.group(cases, settings, 60, least=100)) == 6

    def test_a_problem_that_fits_in_no_task(self, sweeps):
        cases, settings = self.cases(sweeps, 100.0)
        with pytest.raises(BadInput, match=r"a problem takes about 203 s, more than fits in 3 minutes; give --time 7 or more"):
            cluster.group(cases, settings, 3)

    def test_kinds_of_nodes_measure_the_same(self, planned):
        tasks = planned(constraints=("a", "b")).tasks
        assert [task.name for task in tasks] == ["tiny-a-0", "tiny-a-1", "tiny-b-0", "tiny-b-1"]
        assert [task.problems for task in tasks[:2]] == [task.problems for task in tasks[2:]]
        assert sum(task.cases for task in tasks) == 24


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--on", "slurmy"), "did you mean 'slurm'"),
            (("--on", "local"), "--on local needs --out"),
            (("--partition", "gpu"), "--partition goes with --on slurm"),
            (("--constraint", "a", "--shared"), "--constraint, --shared goes with --on slurm"),
            (("--on", "local", "--partition", "gpu", "--out", "there"), "partitions and constraints are SLURM's"),
            (("--on", "local", "--out", "there", "--resume"), "there is no run to go on with"),
        ],
    )
    def test_one_line_and_nothing_submitted(self, command, sweeps, tmp_path, monkeypatch, arguments, message):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(scheduling, "submit", lambda *_: pytest.fail("something was submitted"))
        printed = command("run", "tiny", "--sweeps", sweeps, "--device", "cpu", *arguments, status=2).err
        assert message in printed
        assert len(printed.strip().splitlines()) == 1

    def test_another_run_is_there(self, planned, sweeps, tmp_path, monkeypatch):
        out = tmp_path / "out"
        monkeypatch.setattr(scheduling, "probe", lambda *_: None)
        monkeypatch.setattr(scheduling, "submit", lambda *_: scheduling.Jobs("local"))
        cluster.start(out, planned(), sweeps, resume=False)
        with pytest.raises(BadInput, match="holds a run already; go on with --resume"):
            cluster.start(out, planned(), sweeps, resume=False)
        with pytest.raises(BadInput, match="shared False there, True asked for"):
            cluster.start(out, planned(shared=True), sweeps, resume=True)
        sweeps.write_text(SWEEPS.replace("0.02", "0.03"))
        with pytest.raises(BadInput, match=r"another one \(sweeps\)"):
            cluster.start(out, planned(), sweeps, resume=True)
        (out / "run.json").write_text("{}")
        with pytest.raises(BadInput, match="it was written by another version"):
            cluster.read_plan(out)

    def test_tasks_that_still_run(self, planned, sweeps, tmp_path, monkeypatch):
        monkeypatch.setattr(scheduling, "probe", lambda *_: None)
        monkeypatch.setattr(scheduling, "submit", lambda *_: scheduling.Jobs("local"))
        cluster.start(tmp_path / "out", planned(), sweeps, resume=False)
        scheduling.Jobs("local", {"tiny-0": str(os.getpid())}).save(tmp_path / "out")
        with pytest.raises(BadInput, match="1 of its tasks still wait or run"):
            cluster.start(tmp_path / "out", planned(), sweeps, resume=True)

    def test_no_run(self, command, tmp_path):
        assert "no run over a cluster was started there" in command("status", tmp_path, status=2).err
        assert "no run over a cluster was started there" in command("merge", tmp_path, status=2).err


class TestScheduler:
    """SLURM's commands stood in for by scripts, where there is none."""

    @pytest.fixture
    def slurm(self, tmp_path, monkeypatch):
        def install(**scripts):
            for name, text in {"sbatch": "exit 0", "squeue": "exit 0", "srun": "exit 0", **scripts}.items():
                path = tmp_path / "bin" / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(f"#!/bin/sh\n{text}\n")
                path.chmod(path.stat().st_mode | stat.S_IXUSR)
            monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

        return install

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({"partition": "gpu"}, "SLURM has no partition 'gpu'; choose from cpu, debug"),
            ({"constraint": "h200"}, "no node has the feature 'h200'; the nodes have: epyc, h100"),
            ({"constraint": "h100", "partition": "cpu"}, "no node has the feature 'h100'; the nodes have: epyc"),
            ({"minutes": 0}, "at least a minute"),
        ],
    )
    def test_what_is_not_there(self, slurm, asked, message):
        slurm(sinfo="printf 'debug|h100\\ncpu|epyc\\n'")
        with pytest.raises(ValueError, match=message):
            scheduling.check(scheduling.Resources("slurm", **asked))
        scheduling.check(scheduling.Resources("slurm", "debug", "h100"))

    def test_a_slurm_that_does_not_answer(self, slurm):
        slurm(sinfo="echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
        with pytest.raises(RuntimeError, match=r"SLURM does not answer sinfo \(.*Unable to contact"):
            scheduling.check(scheduling.Resources("slurm"))

    def test_a_full_quota(self, slurm, planned, sweeps, tmp_path):
        slurm(sinfo="printf 'debug|h100\\n'", sbatch="echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1")
        with pytest.raises(BadInput, match="QOSMaxSubmitJobPerUserLimit"):
            cluster.start(tmp_path / "out", planned().model_copy(update={"on": "slurm"}), sweeps, resume=False)
        assert not (tmp_path / "out" / "run.json").exists()

    def test_a_directory_that_nodes_do_not_share(self, slurm, planned, sweeps, tmp_path):
        slurm(sinfo="printf 'debug|h100\\n'", sbatch="echo 'Submitted batch job 7'")  # and the queue knows nothing of it
        with pytest.raises(BadInput, match="a file written by a task did not appear here"):
            cluster.start(tmp_path / "out", planned().model_copy(update={"on": "slurm"}), sweeps, resume=False)

    def test_states_of_the_queue(self, slurm):
        slurm(squeue="printf '7_0|RUNNING\\n7_1|PENDING\\n7_2|COMPLETING\\n9_0|RUNNING\\n'")
        jobs = scheduling.Jobs("slurm", {"a": "7_0", "b": "7_1", "c": "7_2", "d": "7_3"})
        assert jobs.states() == {"a": "running", "b": "pending", "c": "running", "d": "ended"}
        assert scheduling.cancel_command(jobs) == "scancel 7"


def hold(directory):
    """Wait at a pipe that nobody writes to, not for ever, and say when that is interrupted."""
    try:
        Path(directory, "started").touch()
        select.select([os.pipe()[0]], [], [], DEADLOCK_S)
    except KeyboardInterrupt:
        Path(directory, "interrupted").touch()


def test_a_task_here_is_cancelled_by_the_command_that_is_named(tmp_path):
    """Also where it was started in the background by a shell, which lets it ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        jobs = scheduling.submit(hold, [(str(tmp_path),)], [["one"]], tmp_path, scheduling.Resources())
    finally:
        signal.signal(signal.SIGINT, before)
    while not (tmp_path / "started").exists():
        assert jobs.states() == {"one": "running"}
        threading.Event().wait(0.02)
    subprocess.run(scheduling.cancel_command(jobs), shell=True, check=True)  # where kill is no program, it is one of the shell
    while jobs.states() == {"one": "running"}:
        threading.Event().wait(0.02)
    assert (tmp_path / "interrupted").exists()


def test_a_child_that_ends_while_its_state_is_asked_for_is_reaped(monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    look = scheduling._alive_here

    def end_first(ids):
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return look(ids)

    monkeypatch.setattr(scheduling, "_alive_here", end_first)
    jobs = scheduling.Jobs("local", {"one": str(child.pid)}, [SimpleNamespace(done=child.poll)])
    assert jobs.states() == {"one": "ended"}
    assert child.returncode is not None


def test_processors_do_not_share_a_library(monkeypatch, tmp_path):
    """Two nodes with one home and other flags: each compiles its own, and none loads the other's."""
    if compiler.compiler() is None:
        pytest.skip("no C compiler")
    targets = []
    monkeypatch.setenv("JACOBIANS_CACHE", str(tmp_path))
    monkeypatch.setattr(compiler, "_compile", lambda command, target, *rest: targets.append(target), raising=True)
    monkeypatch.setattr(compiler, "_trusted", lambda target: False)
    for flags in ("flags : avx2", "flags : avx2 avx512f", "flags : avx2"):
        monkeypatch.setattr(compiler, "processor", lambda flags=flags: flags)
        try:
            compiler.forget()
            compiler.library()
        except (compiler.CompilerError, OSError):
            pass
    compiler.forget()  # the directory too, lest the next test compiles into it
    names = [Path(target).name for target in targets]
    assert len(set(names)) == 2


class TestTasks:
    @pytest.mark.long
    def test_a_task_called_again_measures_parts_of_problems_anew(self, planned, forked_workers, tmp_path):
        """As after a requeue: whole problems stay, one that was cut in two is measured again on the node that goes on."""
        out = tmp_path / "out"
        out.mkdir()
        asked = planned(tasks=3)
        (out / "sweeps.toml").write_text(SWEEPS)
        (out / "run.json").write_text(asked.model_dump_json())
        cluster.run_task(str(out), "tiny-0")
        own = out / "tasks" / "tiny-0"
        assert (own / "done").exists()
        journal = own / "tiny.journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        assert len(lines) == 4
        journal.write_bytes(b"".join(lines[:3]) + lines[3][:50])  # the last row was torn
        for path in (own / "done", own / "tiny.csv", own / "tiny.environment.json"):
            path.unlink()
        first, _ = read_journal(journal)
        assert cluster.status(out).states == {"tiny-0": "not submitted", "tiny-1": "not submitted", "tiny-2": "not submitted"}
        cluster.run_tasks(str(out), ["tiny-0"])
        again, torn = read_journal(journal)
        assert torn == 0
        runs = {key: entry.row.run for key, entry in again.items()}
        assert len(set(runs.values())) == 2
        by_problem = {}
        for key, run in runs.items():
            by_problem.setdefault(key.rsplit("/", 1)[0], set()).add(run)
        assert [len(found) for found in by_problem.values()] == [1, 1], "ratios are of one run"
        kept = [key for key in first if again[key].row.run == first[key].row.run]
        assert len(kept) == 2
        assert len(list((own / "attempts").glob("*.environment.json"))) == 2

    @pytest.mark.long
    def test_the_whole_by_the_command_line(self, command, forked_workers, sweeps, tmp_path, monkeypatch):
        out = tmp_path / "run1"
        arguments = ("run", "tiny", "--sweeps", sweeps, "--device", "cpu", "--method", "reverse:eager", "--on", "local", "--out", out)
        monkeypatch.setattr(cluster, "LOOK_S", 0.2)
        printed = command(*arguments, "--tasks", "2")
        assert "submitted 2 tasks" in printed.err
        assert "done 2; 6 of 6 rows" in printed.err
        (csv,) = [Path(line.removeprefix("wrote ")) for line in printed.out.splitlines() if line.startswith("wrote ")]
        rows = read_csv(csv)
        assert (len(rows), {r.status for r in rows}) == (6, {"ok"})
        before = csv.read_bytes()
        assert "6 of 6 rows are on the disk" in command("status", out).out
        assert json.loads(command("status", out, "--json").out) == {"tasks": {"tiny-0": "done", "tiny-1": "done"}, "rows": 6, "cases": 6}
        command("merge", out)
        assert csv.read_bytes() == before, "merging again gives the same"
        assert "wrote" in command("plot", csv, "--out", tmp_path / "figures").out
        # One task is lost: only that one is submitted again.
        (out / "tasks" / "tiny-1" / "done").unlink()
        journal = out / "tasks" / "tiny-1" / "tiny.journal.jsonl"
        journal.write_text("")
        (out / "tasks" / "tiny-1" / "tiny.csv").unlink()
        asked = []

        def submit(function, arguments, names, folder, resources):
            """Do the jobs here, one after the other."""
            asked.append(names)
            for one in arguments:
                function(*one)
            return scheduling.Jobs("local", {name: "999999999" for own in names for name in own})

        monkeypatch.setattr(scheduling, "submit", submit)
        command(*arguments, "--tasks", "2", "--resume")
        assert asked == [[["probe"]], [["tiny-1"]]]
        assert len(read_csv(csv)) == 6
        command(*arguments, "--tasks", "2", "--resume")
        assert len(asked) == 2, "nothing was left to do"

    def test_interrupted_the_tasks_go_on(self, command, sweeps, tmp_path, monkeypatch):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(cluster, "follow", interrupt)
        monkeypatch.setattr(scheduling, "probe", lambda *_: None)
        monkeypatch.setattr(scheduling, "submit", lambda *_: scheduling.Jobs("slurm", {"tiny-0": "12_0"}))
        out = tmp_path / "out"
        printed = command("run", "tiny", "--sweeps", sweeps, "--device", "cpu", "--on", "local", "--out", out, status=130).err
        assert f"the tasks go on: look again with `python bench.py status {out}`, cancel with `scancel 12`" in printed

    def test_failures_say_the_last_line_of_their_log(self, planned, tmp_path, monkeypatch):
        asked = planned()
        (tmp_path / "run.json").write_text(asked.model_dump_json())
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "999999999_0_log.err").write_text("...\nslurmstepd: error: CANCELLED DUE TO TIME LIMIT\n\n")
        scheduling.Jobs("local", {"tiny-0": "999999999", "tiny-1": "999999998"}).save(tmp_path)
        first, second = cluster.failures(tmp_path)
        assert first == "tiny-0: slurmstepd: error: CANCELLED DUE TO TIME LIMIT"
        assert "exited without output" in second


def journal_of(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(path)
    for one in rows:
        journal.append(one)
    journal.close()
    return merging.Journal(path)


def one(L=1, method="reverse:eager", **changes):
    return row(method, L=L).model_copy(update={"sweep": "tiny", "run": "r", **changes})


class TestMerge:
    def merged(self, *journals, machine=None):
        with merging.Merger() as merger:
            merger.add(journals)
            return [r for m, sweep in merger.results() if machine in {None, m} for r in merger.rows(m, sweep)]

    def test_the_better_founded_of_two(self, tmp_path):
        failed = one(status="crashed", median_s=None, reason="x", rounds=None, run="z")
        short, long = one(rounds=5, run="a"), one(rounds=50, run="b")
        for number, (rows, best) in enumerate([((failed, short), "a"), ((short, long), "b"), ((long, failed, short), "b")]):
            journals = [journal_of(tmp_path / f"{number}-{k}.jsonl", [r]) for k, r in enumerate(rows)]
            assert [r.run for r in self.merged(*journals)] == [best]
            assert [r.run for r in self.merged(*reversed(journals))] == [best]

    def test_the_rows_of_a_problem_stay_together(self, tmp_path):
        """A run that has both methods of a problem goes before one that has a better row of one."""
        whole = [one(method=m, rounds=5, run="whole") for m in ("reverse:eager", "forward:eager")]
        part = [one(method="reverse:eager", rounds=500, run="part")]
        found = self.merged(journal_of(tmp_path / "a.jsonl", part), journal_of(tmp_path / "b.jsonl", whole))
        assert [r.run for r in found] == ["whole", "whole"]

    def test_machines_stay_apart_and_shared_nodes_are_flagged(self, tmp_path):
        journal = journal_of(tmp_path / "a.jsonl", [one(machine="here"), one(machine="there", flags="noisy")])
        assert [r.machine for r in self.merged(journal)] == ["here", "there"]
        shared = self.merged(merging.Journal(journal.path, shared=True))
        assert [r.flags for r in shared] == ["shared", "noisy shared"]

    def test_torn_and_foreign_lines(self, tmp_path):
        journal = journal_of(tmp_path / "a.jsonl", [one(), one(L=2)])
        text = journal.path.read_bytes()
        journal.path.write_bytes(text + text[:80])
        assert len(self.merged(journal)) == 2
        journal.path.write_bytes(b"{}\n" + text)
        assert len(self.merged(journal)) == 2
        record = record_of(text.splitlines()[0])
        record["row"]["schema"] = SCHEMA - 1
        journal.path.write_text(line_of(record))
        with pytest.raises(BadInput, match=f"schema {SCHEMA - 1}, the others have {SCHEMA}"):
            self.merged(journal)
        assert self.merged(merging.Journal(tmp_path / "none.jsonl")) == []

    def test_a_machine_is_no_path(self, planned, sweeps, tmp_path):
        asked = planned()
        (tmp_path / "a" / "tasks" / asked.tasks[0].name).mkdir(parents=True)
        (tmp_path / "a" / "sweeps.toml").write_text(SWEEPS)
        (tmp_path / "a" / "run.json").write_text(asked.model_dump_json())
        journal_of(tmp_path / "a" / "tasks" / asked.tasks[0].name / "tiny.journal.jsonl", [one(machine="../../x", sweep="tiny")])
        with pytest.raises(BadInput, match=r"'../../x' is the name of no machine"):
            cluster.merge([tmp_path / "a"], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_runs_that_measured_something_else_are_refused(self, planned, sweeps, tmp_path):
        for name, text, seed in (("a", SWEEPS, 0), ("b", SWEEPS, 1), ("c", SWEEPS.replace("Tiny", "Other"), 0)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "sweeps.toml").write_text(text)
            (tmp_path / name / "run.json").write_text(planned().model_copy(update={"seed": seed}).model_dump_json())
        with pytest.raises(BadInput, match="were not measured alike: seed differ"):
            cluster.merge([tmp_path / "a", tmp_path / "b"], tmp_path)
        with pytest.raises(BadInput, match="have different sweeps of the name 'tiny'"):
            cluster.merge([tmp_path / "a", tmp_path / "c"], tmp_path)
        with pytest.raises(BadInput, match="no rows yet"):
            cluster.merge([tmp_path / "a"], tmp_path)

    @pytest.mark.long
    def test_memory_does_not_grow_with_the_rows(self, tmp_path):
        """What Python itself holds, for five times as many rows."""
        code = (
            "import sys, tracemalloc, pathlib\nfrom benchmarks.records.csv_file import write_csv\n"
            "from benchmarks.records.merge import Journal, Merger\n"
            "def peak(path):\n    tracemalloc.start()\n    with Merger() as merger:\n        merger.add([Journal(path)])\n"
            "        (found,) = merger.results()\n        write_csv(merger.rows(*found), path.with_suffix('.csv'))\n"
            "    most = tracemalloc.get_traced_memory()[1]\n    tracemalloc.stop()\n    return most\n"
            "few, many = (peak(pathlib.Path(name)) for name in sys.argv[1:])\nassert many < 1.5 * few + 500_000, (few, many)\n"
        )
        record = record_of((journal_of(tmp_path / "one.jsonl", [one()])).path.read_bytes())
        for name, count in (("few", 400), ("many", 2000)):
            rows = ({**record["row"], "seed": n, "case": record["row"]["case"].replace("seed0", f"seed{n}")} for n in range(count))
            lines = (line_of({**record, "row": made}) for made in rows)
            (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        command = [sys.executable, "-c", code, str(tmp_path / "few.jsonl"), str(tmp_path / "many.jsonl")]
        subprocess.run(command, cwd=ROOT, check=True)


def test_a_task_waits_for_its_predecessor_that_is_dying(tmp_path):
    held = Lock(tmp_path / ".tiny.lock")
    waited = []

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            held.release()

    Lock(tmp_path / ".tiny.lock", 5, wait).release()
    assert len(waited) == 3
    held = Lock(tmp_path / ".tiny.lock")
    with pytest.raises(BadInput, match="another run is writing tiny here"):
        Lock(tmp_path / ".tiny.lock", 2, lambda seconds: waited.append(seconds))
    assert len(waited) == 5
    held.release()
