"""One machine over time."""

from pathlib import Path

import pytest

from benchmarks.analysis.history import history, summary, table
from benchmarks.errors import BadInput
from benchmarks.records.csv_file import write_csv
from tests.benchmarks.rows import row


def result(name, day, median, **changes):
    when = f"2026-01-{day:02}T00:00:00+00:00"
    rows = [
        row(median=median, started_at=when, commit=f"c{day}", run=when, **changes),
        row("forward:eager", median=1e-3, started_at=when, run=when, **changes),
    ]
    return Path(name), rows


def test_neighbours_in_time_are_compared():
    found = history([result("c.csv", 3, 1e-4), result("a.csv", 1, 1e-4), result("b.csv", 2, 2e-4)])
    assert [str(path) for path, *_ in found.results] == ["a.csv", "b.csv", "c.csv"]
    assert found.compared == 4
    assert [(str(c.before), str(c.after), c.comparison.verdict) for c in found.changes] == [
        ("a.csv", "b.csv", "slower"),
        ("b.csv", "c.csv", "faster"),
    ]
    assert summary(found)[-1] == "4 comparisons: 1 faster, 1 slower, the others within noise"
    assert "commit c1" in summary(found)[0]
    columns, rows = table(found)
    assert len(rows[0]) == len(columns)
    assert rows[0][:2] == ["a.csv", "b.csv"]


def test_noise_is_no_change():
    assert history([result("a.csv", 1, 1e-4), result("b.csv", 2, 1.01e-4)]).changes == ()


def test_what_is_no_history():
    with pytest.raises(BadInput, match="at least two results with measured cases, got 1"):
        history([result("a.csv", 1, 1e-4)])
    other = result("b.csv", 2, 1e-4, machine="other")
    with pytest.raises(BadInput, match="several machines: other, some-machine-2-cores"):
        history([result("a.csv", 1, 1e-4), other])
    assert history([result("a.csv", 1, 1e-4), other], force=True).compared == 2


def test_the_command(tmp_path, command):
    for name, day, median in (("a.csv", 1, 1e-4), ("b.csv", 2, 2e-4)):
        write_csv(result(name, day, median)[1], tmp_path / name)
    printed = command("history", tmp_path / "b.csv", tmp_path / "a.csv").out
    assert "2.00x" in printed
    assert "2 comparisons: 0 faster, 1 slower" in printed
