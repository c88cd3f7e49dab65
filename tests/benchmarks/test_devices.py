"""Devices beside each other: which rows are matched, who is the fastest where, and what cannot be compared."""

import json

import pytest

from benchmarks.analysis import devices
from benchmarks.errors import BadInput
from tests.benchmarks.rows import row, write_result

CARD = {"device": "cuda", "device_name": "Some card", "machine": "g"}


def at(x, median, half=0.0, **where):
    found = row("forward:native", K=x, median=median, **where)
    return found.model_copy(update={"ci_low_s": median * (1 - half), "ci_high_s": median * (1 + half)})


def test_the_best_method_of_each_device_is_taken_whatever_its_name():
    rows = [row("forward:native", median=3e-5), row("reverse:native", median=2e-5), row("reverse:jax", median=1e-5)]
    (times,) = devices.beside([*rows, row("mixed:cuda-graph", median=5e-5, **CARD)])
    assert [found.method for found in times.values()] == ["reverse:native", "mixed:cuda-graph"]
    columns, ((_, *cells),) = devices.table([*rows, row("mixed:cuda-graph", median=5e-5, **CARD)])
    assert columns[-2:] == ["fastest", "against the slowest"]
    assert cells[:2] == ["20.0 µs", "50.0 µs"]
    assert cells[3].startswith(("2.5", "about 2.5"))


def test_everywhere_keeps_what_all_devices_measured():
    rows = [at(8, 1e-5), at(16, 1e-5), at(8, 2e-5, **CARD), at(16, 2e-5, **CARD), at(8, 3e-5, machine="h", device_name="another")]
    assert len(devices.table(rows)[1]) == 2
    assert len(devices.table(rows, everywhere=True)[1]) == 1


def test_where_intervals_overlap_the_device_of_the_size_below_stays():
    times = {8: (1e-5, 3e-5), 16: (2.1e-5, 2e-5), 32: (9e-5, 2e-5), 64: (1e-5, 2e-5)}
    sizes = {x: {"cpu": at(x, cpu, 0.1), "card": at(x, card, 0.1, **CARD)} for x, (cpu, card) in times.items()}
    cpu, card = devices.label(sizes[8]["cpu"]), devices.label(sizes[8]["card"])
    named = {x: {cpu: found["cpu"], card: found["card"]} for x, found in sizes.items()}
    assert devices.fastest_from(named) == {8: cpu, 32: card, 64: cpu}


def test_one_device_alone_is_said():
    with pytest.raises(BadInput, match="no problem was measured on two devices, only on Some cpu"):
        devices.compared([row()])


def test_the_command_prints_a_table_and_draws_one_figure(tmp_path, command):
    for name, where in (("a", {}), ("b", CARD)):
        (tmp_path / name).mkdir()
        write_result([at(K, (1 + (name == "b")) * 1e-5, sweep="width", **where) for K in (8, 16, 32)], tmp_path / name / "width.csv")
    files = [tmp_path / name / "width.csv" for name in "ab"]
    assert "Some cpu (cpu, 2 threads)" in command("devices", *files, "--out", tmp_path / "out").out
    assert (tmp_path / "out" / "devices.svg").is_file()
    assert len(json.loads(command("devices", *files, "--json", "--out", tmp_path / "out").out)) == 3
    assert "no problem was measured on two devices" in command("devices", files[0], status=2).err
