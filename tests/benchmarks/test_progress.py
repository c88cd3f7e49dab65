"""What a run says where lines cannot be rewritten."""

from types import SimpleNamespace

from benchmarks.run import progress
from benchmarks.run.supervisor import Progress


def test_silence_is_broken_by_what_is_being_done(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    shown = progress.SweepProgress("mine")
    case = SimpleNamespace(id="L1-D2")
    shown.update(Progress(case, 0, 4, "ok"))
    shown.update(Progress(case, 1, 4))
    looks = iter([1.0, progress.SILENCE_S, 1.0, progress.SILENCE_S])

    def wait(seconds):
        step = next(looks, None)
        now[0] += step or 0
        return step is None

    shown._ended = SimpleNamespace(wait=wait)
    shown._break_silence()
    assert capsys.readouterr().err.splitlines() == ["mine 0/4 L1-D2 ok", "mine 1/4 measuring L1-D2", "mine 1/4 measuring L1-D2"]
