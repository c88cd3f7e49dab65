"""Rows, their CSV, and the journal."""

import math
import os
import random
import zlib

import pytest
from pydantic import ValidationError

from benchmarks.errors import BadInput
from benchmarks.records.csv_file import read_csv, write_csv
from benchmarks.records.journal import Journal, Lock, line_of, read_journal, record_of
from benchmarks.records.problems import key_of
from benchmarks.records.rows import COLUMNS, SCHEMA, STATUSES, column_dictionary, describe
from benchmarks.run.environment import ROOT
from tests.benchmarks.rows import row

CONTRACT = """schema, sweep, case, L, D, K, P, N, widths, activation, dtype, device, device_name, machine, method, mode,
implementation, status, reason, rel_error, tolerance, rounds, iterations, min_s, q1_s, median_s, q3_s, max_s, mean_s,
stddev_s, ci_low_s, ci_high_s, prepare_s, peak_bytes, flops, bytes, threads, torch, commit, started_at, stop, flags,
cache, block_medians_s, device_median_s, fraction_of_ceiling, quantity, init, bias, seed, loss, run, asked,
block_loops_s, certainty, certainty_reason, sources"""


def test_columns_are_the_contract_in_order():
    assert ", ".join(COLUMNS) == " ".join(CONTRACT.split())
    assert STATUSES == ("ok", "invalid", "oom", "timeout", "crashed", "unsupported", "skipped")


def test_the_column_dictionary_is_the_schema():
    assert column_dictionary() in (ROOT / "results" / "README.md").read_text(encoding="utf-8")


class TestRow:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"status": "crashed", "reason": None}, "needs a reason"),
            ({"rel_error": 1e-3}, "exceeds tolerance"),
            ({"median_s": None}, "status ok needs median_s"),
            ({"median_s": 0.0}, "greater than 0"),
            ({"median_s": math.inf}, "finite"),
            ({"status": "fine"}, "Input should be 'ok'"),
            ({"host": "somewhere"}, "Extra inputs"),
            ({"D": 0}, "greater than or equal to 1"),
            ({"D": 4, "widths": "3-5-5-4"}, "D is 4, but 3 by the widths"),
            ({"L": 1, "widths": "3-5-5-4"}, "L is 1, but 2 by the widths"),
            ({"K": None, "widths": "3-5-5-4"}, "K is None, but 5 by the widths"),
            ({"widths": "3-05-5-4"}, "widths is 3-05-5-4, but 3-5-5-4 by the widths"),
            ({"widths": "3-x-5-4"}, "invalid literal"),
            ({"widths": "-".join(["5"] * 50_001)}, "widths has 50001 entries"),
            ({"widths": f"3-5-5-{2**41}"}, "widths must be at most"),
            ({"flops": 2**63}, "less than or equal to 9223372036854775807"),
            ({"N": 2**41}, "batch must be at most"),
            ({"activation": "tahn"}, "unknown activation 'tahn'"),
            ({"activation": "tanh;tanh;tanh"}, "got 3 activations for 2 hidden layers"),
            ({"activation": "softmax"}, "can only be the output activation"),
            ({"dtype": "float31"}, "dtype must be one of"),
            ({"mode": "forward"}, "mode is forward, but reverse by the method"),
            ({"implementation": "native"}, "implementation is native, but eager by the method"),
            ({"method": "sideways:eager", "mode": "sideways"}, "jacobian has no mode 'sideways'"),
            ({"quantity": "laplacian"}, "quantity is laplacian, but jacobian by the method"),
            ({"loss": "mse"}, "do not go with jacobian"),
            ({"case": "2-5-5-4 N1 tanh nobias xavier seed0 float32/cpu/reverse:eager"}, "by the columns"),
            ({"case": "3-5-5-4 N1 tanh nobias xavier seed1 float32/cpu/reverse:eager"}, "by the columns"),
            ({"init": None, "case": "3-5-5-4 N1 tanh nobias xavier seed0 float32/cpu/reverse:eager"}, "by the columns"),
            ({"q1_s": 1e-3}, "must be in this order"),
            ({"min_s": 1.0}, "must be in this order"),
            ({"ci_low_s": 1.0}, "must be in this order, and ci_low_s below"),
            ({"block_medians_s": "1e-4 inf"}, "positive and finite"),
            ({"block_medians_s": "1e-4 -1e-4"}, "positive and finite"),
            ({"block_loops_s": "nan"}, "positive and finite"),
            ({"rel_error": math.inf}, "finite"),
            ({"tolerance": math.inf}, "finite"),
            ({"tolerance": 1.0}, "with a tolerance of 1 nothing is wrong"),
        ],
    )
    def test_refuses(self, changes, message):
        with pytest.raises(ValidationError, match=message):
            row(**changes)

    def test_older_rows_may_have_a_tolerance_that_refuses_nothing(self):
        assert row(schema_version=5, tolerance=4.0).tolerance == 4.0

    def test_a_complaint_is_short(self):
        with pytest.raises(ValidationError) as error:
            row(threads="9" * 5000, status="x" * 5000)
        assert len(describe(error.value)) < 400

    def test_the_problem_is_shared_by_methods_and_devices(self):
        assert key_of(row("reverse:eager")) == key_of(row("forward:torch.func", device="cuda")) != key_of(row(L=3))
        others = [
            row(init="normal"),
            row(bias=True),
            row(seed=1),
            row(dtype="float64"),
            row(activation="relu"),
            row("laplacian/nested:jax"),
        ]
        assert len({key_of(other) for other in (row(), *others)}) == len(others) + 1


class TestCsv:
    def test_round_trip(self, tmp_path):
        rows = [
            row(),
            row("forward:eager", K=7),
            row("reverse:jax", status="unsupported"),
            row("forward:notebook", ci_low_s=None, ci_high_s=None),
        ]
        write_csv(rows, tmp_path / "a.csv")
        assert read_csv(tmp_path / "a.csv") == rows

    @pytest.mark.parametrize(
        "text",
        [
            "=cmd()",
            "+1",
            "-1",
            "@x",
            "'quoted",
            "<script>alert(1)</script>",
            r"$\frac{$",
            "None",
            "NA",
            "nan",
            'a,"b"',
            "ü\tx",
            "two\nlines",
            "NUL \0 and half a pair \udcff",
            "\x1b[31mred\x9b0m",
            "\u202eright to left\u2028",
        ],
    )
    def test_hostile_text_is_neutral_and_read_back_as_written(self, tmp_path, text):
        hostile = row(status="crashed", reason=text, device_name=text, machine=text)
        write_csv([hostile], tmp_path / "a.csv")
        assert read_csv(tmp_path / "a.csv") == [hostile]
        cells = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[1]
        assert not any(f",{start}" in cells for start in "=+@")
        assert cells.isprintable()
        journal = Journal(tmp_path / "j")
        journal.append(hostile)
        journal.close()
        assert [entry.row for entry in read_journal(tmp_path / "j")[0].values()] == [hostile]

    def test_a_reason_has_an_end(self):
        assert len(row(status="crashed", reason="long " * 100_000).reason) == 1000

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "empty or not a CSV"),
            (b"\x00\x01\xff\xfe", "line 1: cannot be read as text"),
            (b"one\ntwo\n\xff\n", "line 3: cannot be read as text"),
            (b"one\n" + b"x" * 131_073, r"line 2: not a CSV \(field larger than field limit \(131072\)\)"),
            (b'one\n"two', "columns differ"),
            (b"schema\n" + "²".encode(), "columns differ"),
            (b"schema\n" + b"9" * 4301, "columns differ"),
            (b"a,b\n1,2\n", f"columns differ from schema {SCHEMA}: unknown 'a'"),
            (b"PK\x03\x04rubbish", "columns differ"),
        ],
    )
    def test_what_is_no_result_is_named(self, tmp_path, content, message):
        path = tmp_path / "a.csv"
        path.write_bytes(content)
        with pytest.raises(BadInput, match=message):
            read_csv(path)
        assert path.read_bytes() == content

    @pytest.mark.parametrize(
        ("version", "first_later", "blocks"),
        [(1, "stop", 0), (2, "fraction_of_ceiling", 6), (3, "quantity", 6), (4, "asked", 6), (5, "block_loops_s", 6)],
    )
    def test_older_schemas_are_still_read(self, tmp_path, version, first_later, blocks):
        path = tmp_path / "a.csv"
        write_csv([row()], path)
        table = [line.split(",") for line in path.read_text().splitlines()]
        old = [line[: COLUMNS.index(first_later)] for line in table]
        path.write_text("\n".join(",".join(line) for line in old).replace(f"\n{SCHEMA},", f"\n{version},") + "\n")
        (found,) = read_csv(path)
        assert (found.schema_version, found.median_s, len(found.block_medians)) == (version, 1e-4, blocks)
        assert (found.init, found.bias, found.seed, found.quantity) == ("xavier", False, 0, "jacobian")

    def test_missing(self, tmp_path):
        with pytest.raises(BadInput, match="no such file"):
            read_csv(tmp_path / "a.csv")

    def test_cells(self, tmp_path):
        path = tmp_path / "a.csv"
        write_csv([row()], path)
        good = path.read_text()
        for old, new, message in (
            ("reverse:eager,reverse,eager,ok", "reverse:eager,reverse,eager,great", "line 2: status: .*'great'"),
            (",0.0001,", ",fast,", "line 2: .*fast"),
            (f"{SCHEMA},quick", f"{SCHEMA + 1},quick", f"schema {SCHEMA + 1} is newer than {SCHEMA}"),
            (",2.13.0,abc,2026-01-01T00:00:00+00:00", "", "cells, expected"),
            (",3,5,4,1,", ",4,5,4,1,", "line 2: row: Value error, D is 4, but 3 by the widths"),
            (",2,3,5,4,1,", f",{'9' * 4301},3,5,4,1,", "line 2: L: .*exceeded maximum size.* \\(got '9{59}…"),
        ):
            assert old in good
            path.write_text(good.replace(old, new))
            with pytest.raises(BadInput, match=message):
                read_csv(path)
        path.write_text(good + good.splitlines()[1] + "\n")
        with pytest.raises(BadInput, match="occurs twice"):
            read_csv(path)

    def test_is_written_whole_or_not_at_all(self, tmp_path, monkeypatch):
        path = tmp_path / "a.csv"
        write_csv([row()], path)
        before = path.read_bytes()

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_csv([row(L=3)], path)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def checked(text):
    return b"%08x %s\n" % (zlib.crc32(text), text)


class TestJournal:
    def test_round_trip_and_last_one_counts(self, tmp_path):
        journal = Journal(tmp_path / "j")
        journal.append(row(median=1e-3), [[1e-3, 2e-3]])
        journal.append(row(median=2e-3), [[3e-3], [4e-3]])
        journal.close()
        entries, torn = read_journal(tmp_path / "j")
        assert torn == 0
        assert [entry.row.median_s for entry in entries.values()] == [2e-3]
        assert next(iter(entries.values())).samples == ((3e-3,), (4e-3,))

    def test_a_torn_last_line_is_dropped_and_overwritten(self, tmp_path):
        path = tmp_path / "j"
        journal = Journal(path)
        journal.append(row())
        journal.close()
        path.write_bytes(path.read_bytes() + b'{"row": {"schema": 1, "sw')
        entries, torn = read_journal(path)
        assert (len(entries), torn) == (1, 1)
        journal = Journal(path)
        journal.append(row(L=3))
        journal.close()
        entries, torn = read_journal(path)
        assert (len(entries), torn) == (2, 0)

    @pytest.mark.parametrize(
        "line",
        [
            *(b"rubbish\n", b"[]\n", b"\n", b"\xff\xfe\n"),
            # Of a writer that knows how, and writes no entry.
            *(checked(text) for text in (b"rubbish", b"\xff", b"[]", b"{}", b'{"row": [], "samples": []}', b'{"row": {}, "samples": [1]}')),
            checked(b"[" * 100_000),
        ],
    )
    def test_a_damaged_line_is_passed_over_and_counted(self, tmp_path, line):
        path = tmp_path / "j"
        journal = Journal(path)
        for L in (2, 3):
            journal.append(row(L=L))
        journal.close()
        first, second = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(first + line + second)
        entries, damaged = read_journal(path)
        assert ([entry.row.L for entry in entries.values()], damaged) == ([2, 3], 1)

    def test_no_flipped_bit_changes_what_is_read(self, tmp_path):
        path = tmp_path / "j"
        journal = Journal(path)
        journal.append(row(), [[1e-4]])
        journal.close()
        raw = path.read_bytes()
        for bit in random.Random(0).sample(range(8 * (len(raw) - 1)), 400):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            entries, damaged = read_journal(path)
            assert not entries
            assert damaged

    def test_a_row_that_is_none_is_counted_and_one_of_a_newer_version_is_named(self, tmp_path):
        path = tmp_path / "j"
        good = {"row": row().model_dump(by_alias=True), "samples": []}
        bad = {"row": {**good["row"], "D": 4}, "samples": []}
        path.write_text(line_of(bad) + line_of(good))
        assert (len(read_journal(path)[0]), read_journal(path)[1]) == (1, 1)
        path.write_text(line_of(good) + line_of({"row": {"schema": SCHEMA + 1}, "samples": []}))
        with pytest.raises(BadInput, match=rf"j, line 2: schema {SCHEMA + 1} is newer than {SCHEMA}"):
            read_journal(path)

    def test_each_line_is_on_disk_when_append_returns(self, tmp_path, monkeypatch):
        synced = []
        monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((tmp_path / "j").read_bytes()))
        journal = Journal(tmp_path / "j")
        journal.append(row())
        journal.close()
        assert record_of(synced[0])["row"]["sweep"] == "quick"


def test_a_second_run_is_locked_out(tmp_path):
    first = Lock(tmp_path / ".quick.lock")
    with pytest.raises(BadInput, match="another run is writing quick here"):
        Lock(tmp_path / ".quick.lock")
    first.release()
    Lock(tmp_path / ".quick.lock").release()
