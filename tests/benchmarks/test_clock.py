"""Timers, and what pytest-benchmark makes of them."""

import os
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.measure import clock, memory
from benchmarks.run.environment import ROOT


class FakeDevice:
    """A device that works on after a call has returned, like a GPU, on a clock of its own."""

    def __init__(self):
        self.now = self.ready_at = 0.0

    def launch(self, seconds):
        self.ready_at = max(self.ready_at, self.now) + seconds

    def synchronize(self):
        self.now = max(self.now, self.ready_at)

    def clock(self):
        self.now += 1e-6
        return self.now


def test_the_timer_waits_for_the_device_before_both_reads():
    device = FakeDevice()
    timer = clock.synchronised(device.synchronize, device.clock)
    device.launch(0.02)  # left over from before: must not be counted
    start = timer()
    device.launch(0.01)
    assert timer() - start == pytest.approx(0.01, rel=1e-3)
    naive_start = device.clock()
    device.launch(0.01)
    assert device.clock() - naive_start < 1e-4  # what the timer without the wait would have said


def test_each_device_has_one_timer():
    assert clock.timer_for("cpu") is time.perf_counter
    assert clock.timer_for("cuda") is clock.timer_for("cuda") is not time.perf_counter


def test_an_accelerator_is_synchronised(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: waited.append(str(device)))
    clock.timer_for("mps")()
    assert waited == ["mps"]


def test_device_events_stand_beside_the_clock(monkeypatch):
    """On CUDA; here with an event that tells half of what the clock does, and on the CPU nothing."""

    class Event:
        def __init__(self, enable_timing):
            pass

        def record(self):
            self.at = device.clock()

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return 1e3 * (end.at - self.at) / 2

    device = FakeDevice()

    def work():
        device.now += 0.002

    assert clock.device_seconds(work, "cpu") == []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    times = clock.device_seconds(work, "cuda", calls=3)
    assert times == pytest.approx([0.001] * 3, rel=0.01)


def test_flushing_evicts(monkeypatch):
    buffer = memory._flush_buffer("cpu")
    before = buffer[0].item()
    memory.flush_caches("cpu")
    assert buffer[0].item() == before + 1
    assert buffer.numel() * 8 >= 2**25


PEAK = """
import torch
from benchmarks.measure.memory import peak_bytes
def run():
    torch.ones(20_000_000).sum()  # 80 MB, gone when the call returns
    return torch.ones(5_000_000)
run()
print(peak_bytes(run, "cpu"))
"""


def test_peak_memory_counts_what_was_freed_again():
    """In a process of its own, whose large tensors are mapped one by one."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PEAK], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    if done.stdout.strip() == "None":
        pytest.skip("the system does not report resident memory")
    assert float(done.stdout) == pytest.approx(80e6, rel=0.1)


def test_changed_results_do_not_make_the_commit_dirty(tmp_path, monkeypatch):
    from benchmarks.run import environment

    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    for name in ("results/a.csv", "code.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    clean = environment.commit()
    assert len(clean) == 10
    (tmp_path / "results" / "a.csv").write_text("2")
    assert environment.commit() == clean
    (tmp_path / "code.py").write_text("2")
    assert environment.commit() == f"{clean}-dirty"
