"""Derivatives on the disk: equal to those in memory, resumed, refused where something else is there, bounded in memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import jacobians as jac
from benchmarks.run.environment import ROOT
from jacobians import __main__ as command_line
from jacobians.store import outofcore, scheduling

zarr = pytest.importorskip("zarr")


def network(P=2):
    return jac.MLP.random(widths=[3, 8, 6, P], bias=True)


X = torch.randn(11, 3, generator=torch.Generator().manual_seed(0))
TARGET = torch.randn(11, 2, generator=torch.Generator().manual_seed(1))


def pieces(chunk, count=11):
    return [slice(start, min(count, start + chunk)) for start in range(0, count, chunk)]


@pytest.mark.parametrize("chunk", [1, 4, 11, 50])
@pytest.mark.parametrize(
    ("quantity", "one"),
    [
        ("jacobian", lambda mlp, x: jac.jacobian(mlp, x)),
        ("laplacian", lambda mlp, x: jac.laplacian(mlp, x)[2]),
        ("hessian", lambda mlp, x: jac.hessian(mlp, x)),
    ],
)
def test_chunks_are_those_in_memory_bit_for_bit(tmp_path, quantity, one, chunk):
    mlp = network()
    stored = jac.compute_to_disk(mlp, X, tmp_path / "out", quantity, chunk)
    assert stored.fraction_done == 1
    expected = torch.cat([one(mlp, X[piece]) for piece in pieces(chunk)])
    assert stored.array.shape == expected.shape
    assert torch.equal(stored[:], expected)
    assert torch.equal(jac.open_stored(tmp_path / "out")[3:5], expected[3:5])
    assert len(stored) == 11


@pytest.mark.parametrize("chunk", [1, 4, 50])
def test_a_kernel_in_tiles_is_the_kernel(tmp_path, chunk, monkeypatch):
    mlp = network()
    asked = []
    ntk = outofcore.ntk
    monkeypatch.setattr(outofcore, "ntk", lambda *given, **options: (asked.append(1), ntk(*given, **options))[1])
    stored = jac.compute_to_disk(mlp, X, tmp_path / "out", "ntk", chunk)
    rows = len(pieces(chunk))
    assert len(asked) == rows * (rows + 1) // 2 + 1, "half the tiles, and one sample to see the shapes"
    torch.testing.assert_close(stored[:], jac.ntk(mlp, X), rtol=1e-5, atol=1e-6)
    a, b = pieces(chunk)[0], pieces(chunk)[-1]
    if a != b:
        tile = jac.ntk(mlp, X[a], X[b])
        assert torch.equal(stored[a, b], tile)
        assert torch.equal(stored[b, a], tile.permute(1, 0, 3, 2))


def test_factors_and_gradients_have_an_array_each(tmp_path):
    mlp = network()
    factors = jac.compute_to_disk(mlp, X, tmp_path / "F", "parameter_jacobian", 4)
    for number in range(3):
        C, h = jac.parameter_jacobian(mlp, X[4:8]).layer(number)
        assert np.array_equal(factors.arrays[f"C_{number + 1}"][4:8], C.numpy())
        assert np.array_equal(factors.arrays[f"h_{number + 1}"][4:8], h.numpy())
    with pytest.raises(ValueError, match=r"parameter_jacobian has several arrays: use \.arrays with one of C_1, C_2"):
        factors[0]
    for loss, target in (("mse", TARGET), ("cross_entropy", torch.arange(11) % 2)):
        found = jac.compute_to_disk(mlp, X, tmp_path / loss, "per_sample_gradients", 4, target=target, loss=loss)
        part = jac.per_sample_gradients(mlp, X[4:8], target[4:8], loss)
        assert np.array_equal(found.arrays["weights_2"][4:8], part.weights[1].numpy())
        assert np.array_equal(found.arrays["biases_3"][4:8], part.biases[2].numpy())


def test_inputs_from_files_and_other_zarr_arrays(tmp_path):
    mlp = network()
    np.save(tmp_path / "x.npy", X.numpy())
    array = zarr.create_array(str(tmp_path / "x.zarr"), data=X.numpy(), chunks=(5, 3))
    expected = jac.compute_to_disk(mlp, X, tmp_path / "0", samples_per_chunk=4)[:]
    for number, source in enumerate((X.numpy(), tmp_path / "x.npy", str(tmp_path / "x.zarr"), array), 1):
        assert torch.equal(jac.compute_to_disk(mlp, source, tmp_path / str(number), samples_per_chunk=4)[:], expected)
    again = jac.compute_to_disk(
        jac.MLP.random(widths=[2, 3, 1]),
        jac.compute_to_disk(network(P=2), X, tmp_path / "y", samples_per_chunk=4)[:, 0, :2].clone(),
        tmp_path / "z",
    )
    assert len(again) == 11


def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch):
    mlp = network()
    done = []

    def stop(share):
        done.append(share)
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jac.compute_to_disk(mlp, X, tmp_path / "out", samples_per_chunk=2, report=stop)
    stored = jac.open_stored(tmp_path / "out")
    assert stored.fraction_done == pytest.approx(2 / 6)
    assert torch.isnan(stored[4:]).all()
    computed = []
    one = outofcore.jacobian
    monkeypatch.setattr(outofcore, "jacobian", lambda mlp, x, method: (computed.append(len(x)), one(mlp, x, method))[1])
    jac.compute_to_disk(mlp, X, tmp_path / "out", samples_per_chunk=2)
    assert computed == [2, 2, 2, 1]
    assert torch.equal(stored[:], torch.cat([one(mlp, X[piece]) for piece in pieces(2)]))
    assert stored.fraction_done == 1, "what is open sees what is done"


def test_a_mark_is_written_after_its_data(tmp_path, monkeypatch):
    """A run that fails while it writes leaves the chunk to the next."""
    right, number = outofcore._put, []

    def torn(path, array, job, values):
        if array.basename == "jacobian":
            number.append(1)
            if len(number) == 2:
                raise OSError(28, "No space left on device")
        right(path, array, job, values)

    with monkeypatch.context() as patch:
        patch.setattr(outofcore, "_put", torn)
        with pytest.raises(OSError, match="No space left"):
            jac.compute_to_disk(network(), X, tmp_path / "out", samples_per_chunk=4)
    assert jac.open_stored(tmp_path / "out").fraction_done == pytest.approx(1 / 3)
    assert jac.compute_to_disk(network(), X, tmp_path / "out", samples_per_chunk=4).fraction_done == 1


def test_something_else_is_refused_with_the_difference(tmp_path):
    mlp = network()
    jac.compute_to_disk(mlp, X, tmp_path / "out", samples_per_chunk=4)
    with pytest.raises(ValueError, match=r"holds something else: chunk 4 there, 5 asked for\. Give another path"):
        jac.compute_to_disk(mlp, X, tmp_path / "out", samples_per_chunk=5)
    with pytest.raises(ValueError, match="samples 11 there, 7 asked for"):
        jac.compute_to_disk(mlp, X[:7], tmp_path / "out", samples_per_chunk=4)
    with pytest.raises(ValueError, match='quantity "jacobian" there, "hessian" asked for'):
        jac.compute_to_disk(mlp, X, tmp_path / "out", "hessian", 4)
    other = X.clone()
    other[9, 1] += 1
    with pytest.raises(ValueError, match=r"the inputs of samples 8 to 10 have changed"):
        jac.compute_to_disk(mlp, other, tmp_path / "out", samples_per_chunk=4)
    mlp.weights[1][0, 0] += 1e-3
    with pytest.raises(ValueError, match=r'parameters "[0-9a-f]+" there, "[0-9a-f]+" asked for'):
        jac.compute_to_disk(mlp, X, tmp_path / "out", samples_per_chunk=4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"a directory that is no output of jac\.compute"):
        jac.compute_to_disk(mlp, X, tmp_path / "mine")
    zarr.create_group(str(tmp_path / "group")).create_array("a", shape=(1,), dtype="int8")
    with pytest.raises(ValueError, match=r"a Zarr group that jac\.compute_to_disk did not write"):
        jac.compute_to_disk(mlp, X, tmp_path / "group")


def test_two_runs_on_one_output_are_refused(tmp_path):
    mlp, out = network(), tmp_path / "out"
    jac.compute_to_disk(mlp, X, out, samples_per_chunk=4, part=(0, 2))
    refusals = []

    def meanwhile(share):
        for part in (None, (1, 2)):
            with pytest.raises(BlockingIOError, match="another run is writing to it"):
                jac.compute_to_disk(mlp, X, out, samples_per_chunk=4, part=part)
            refusals.append(part)
        jac.compute_to_disk(mlp, X, out, samples_per_chunk=4, part=(0, 2))  # another part may

    jac.compute_to_disk(mlp, X, out, samples_per_chunk=4, part=(1, 2), report=meanwhile)
    assert refusals
    assert jac.open_stored(out).fraction_done == 1


@pytest.mark.parametrize("quantity", ["jacobian", "ntk"])
def test_parts_make_a_whole(tmp_path, quantity):
    mlp = network()
    for k in (2, 0, 1):
        jac.compute_to_disk(mlp, X, tmp_path / "out", quantity, 3, part=(k, 3))
    whole = jac.compute_to_disk(mlp, X, tmp_path / "whole", quantity, 3)
    stored = jac.open_stored(tmp_path / "out")
    assert stored.fraction_done == 1
    assert torch.equal(stored[:], whole[:])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"quantity": "gradient"}, ValueError, "cannot store the quantity 'gradient'; choose from jacobian"),
        ({"samples_per_chunk": 0}, ValueError, "samples_per_chunk must be a positive integer, got 0"),
        ({"target": X}, ValueError, "jacobian takes no target"),
        ({"quantity": "per_sample_gradients"}, ValueError, "per_sample_gradients needs target"),
        ({"quantity": "per_sample_gradients", "target": TARGET[:5]}, ValueError, "x has 11 samples and target 5"),
        ({"part": (2, 2)}, ValueError, "part must be"),
        ({"compression": "zip"}, ValueError, "unknown compression 'zip': did you mean 'gzip'"),
        ({"x": X[:0]}, ValueError, "x has no samples"),
        ({"x": X[0]}, ValueError, r"x must have shape \(N, 3\)"),
        ({"x": X[:, :2]}, ValueError, "x has 2 features"),
        ({"x": X.double()}, TypeError, "x is torch.float64 but the network is torch.float32"),
        ({"x": 3}, TypeError, "x must be a tensor, an array or a path, got int"),
        ({"x": "none.npy"}, FileNotFoundError, "no such file"),
        ({"mlp": 3}, TypeError, "expected a jacobians.MLP"),
        ({"method": "sideways"}, ValueError, "sideways"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, change, error, message):
    given = {"mlp": network(), "x": X, "out": tmp_path / "out", **change}
    with pytest.raises(error, match=message):
        jac.compute_to_disk(**given)
    assert not list(tmp_path.iterdir())


def test_what_is_no_output_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no Zarr group there"):
        jac.open_stored(tmp_path / "none")
    zarr.create_group(str(tmp_path / "group"))
    with pytest.raises(ValueError, match=r"did not write"):
        jac.open_stored(tmp_path / "group")
    (tmp_path / "x.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x\.npy: no \.npy file of numbers"):
        jac.compute_to_disk(network(), tmp_path / "x.npy", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs Zarr.*jacobians\[store\]"):
        jac.compute_to_disk(network(), X, tmp_path / "out")


def test_compression_by_name(tmp_path):
    x = torch.zeros(4000, 3)
    plain, small = (
        jac.compute_to_disk(network(), x, tmp_path / str(name), compression=name, samples_per_chunk=1000) for name in (None, "zstd")
    )
    assert torch.equal(plain[:], small[:])

    def size(stored):
        return sum(path.stat().st_size for path in stored.path.rglob("c/*/*/*"))

    assert size(plain) == 4000 * 6 * 4
    assert size(small) < size(plain) / 10


PEAKS = """
import json, os, sys, threading
import numpy as np, torch, jacobians as jac
mlp = jac.MLP.random(widths=[4, 16, 16, 2])
found = []
jac.compute_to_disk(mlp, sys.argv[1], sys.argv[3] + "/warm", samples_per_chunk=512)
for number, source in enumerate(sys.argv[1:3]):
    most = [0]
    def look(share):
        with open("/proc/self/statm") as file:
            most[0] = max(most[0], int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE"))
    jac.compute_to_disk(mlp, source, f"{sys.argv[3]}/{number}", samples_per_chunk=512, report=look)
    found.append(most[0])
print(json.dumps(found))
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell the resident memory")
def test_memory_does_not_grow_with_the_samples(tmp_path):
    for name, count in (("few", 5_000), ("many", 200_000)):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).standard_normal((count, 4), dtype=np.float32))
    command = [sys.executable, "-c", PEAKS, str(tmp_path / "few.npy"), str(tmp_path / "many.npy"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    few, many = json.loads(done.stdout)
    output = 200_000 * 8 * 4
    assert many - few < output / 3, "neither the inputs (3.2 MB) nor the output (6.4 MB) stand in memory"


@pytest.mark.long
def test_killed_at_random_it_loses_nothing(tmp_path):
    """Killed by its own count of chunks, so that nothing depends on the machine."""
    code = (
        "import os, signal, sys, numpy as np, jacobians as jac\n"
        "def report(share):\n    report.left -= 1\n    if report.left == 0:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "report.left = int(sys.argv[1])\n"
        "mlp = jac.MLP.random(widths=[3, 8, 6, 2], bias=True)\n"
        "jac.compute_to_disk(mlp, sys.argv[2], sys.argv[3], samples_per_chunk=1, report=report)\n"
    )
    np.save(tmp_path / "x.npy", X.numpy())
    for after in (3, 2, 100):
        done = subprocess.run(
            [sys.executable, "-c", code, str(after), str(tmp_path / "x.npy"), str(tmp_path / "out")], cwd=ROOT, check=False
        )
    assert done.returncode == 0
    stored = jac.open_stored(tmp_path / "out")
    assert stored.fraction_done == 1
    assert torch.equal(stored[:], torch.cat([jac.jacobian(network(), X[piece]) for piece in pieces(1)]))


class TestCommandLine:
    @pytest.fixture
    def files(self, tmp_path, monkeypatch):
        (tmp_path / "net_of_a_user.py").write_text(
            "import jacobians as jac\nfrom torch import nn\nmodel = jac.MLP.random(widths=[3, 8, 6, 2], bias=True)\n"
            "def made():\n    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))\nthing = 3\n"
        )
        np.save(tmp_path / "x.npy", X.numpy())
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(command_line, "LOOK_S", 0.05)
        return tmp_path

    def run(self, *arguments):
        return command_line.main(["compute", "--module", "net_of_a_user:model", "--inputs", "x.npy", "--out", "out", *arguments])

    def test_compute_and_status(self, files, capsys):
        assert self.run("--samples-per-chunk", "4") == 0
        assert torch.equal(jac.open_stored("out")[8:], jac.jacobian(network(), X[8:]))
        assert command_line.main(["status", "out"]) == 0
        assert "jacobian, N=11, 100% done" in capsys.readouterr().out

    @pytest.mark.long
    def test_tasks_here(self, files, capsys):
        pytest.importorskip("submitit")
        assert self.run("--samples-per-chunk", "2", "--on", "local", "--tasks", "3") == 0
        assert torch.equal(jac.open_stored("out")[:], torch.cat([jac.jacobian(network(), X[piece]) for piece in pieces(2)]))
        printed = capsys.readouterr()
        assert "submitted 3 tasks" in printed.out
        assert command_line.main(["status", "out"]) == 0
        assert "tasks: ended 3; cancel with: kill" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--module", "net_of_a_user"), "--module takes package:attribute"),
            (("--module", "net_of_a_user:modle"), "has no attribute 'modle'"),
            (("--module", "no_such_package:x"), "No module named 'no_such_package'"),
            (("--module", "net_of_a_user:thing"), "is a int; expected an MLP"),
            (("--inputs", "y.npy"), "no such file"),
            (("--samples-per-chunk", "0"), "samples_per_chunk must be"),
            (("--on", "local", "--tasks", "0"), "--tasks must be at least 1"),
            (("--on", "local", "--partition", "gpu"), "partitions and constraints are SLURM's"),
            (("--on", "local", "--time", "0"), "at least a minute"),
        ],
    )
    def test_a_mistake_is_one_line(self, files, capsys, arguments, message):
        assert self.run(*arguments) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert len(printed.strip().splitlines()) == 1
        assert {path.name for path in files.iterdir()} <= {"net_of_a_user.py", "x.npy", "__pycache__"}

    def test_a_task_waits_for_its_predecessor_that_is_dying(self, files, monkeypatch):
        waited, tries = [], []
        monkeypatch.setattr(command_line.time, "sleep", waited.append)

        def busy(*given, **options):
            tries.append(options["part"])
            if len(tries) < 3:
                raise BlockingIOError("another run is writing to it")

        monkeypatch.setattr(command_line.outofcore, "compute_to_disk", busy)
        options = dict.fromkeys(command_line.CHOSEN) | {"module": "net_of_a_user:model", "inputs": "x.npy", "out": "out", "directory": "."}
        command_line.run_part(options, (1, 2), 1)
        assert (tries, waited) == ([(1, 2)] * 3, [1.0, 1.0])
        monkeypatch.setattr(command_line, "DYING_S", 2)
        tries[:] = []
        monkeypatch.setattr(
            command_line.outofcore, "compute_to_disk", lambda *given, **options: (_ for _ in ()).throw(BlockingIOError("busy"))
        )
        with pytest.raises(BlockingIOError, match="busy"):
            command_line.run_part(options, (1, 2), 1)

    def test_without_slurm(self, files, capsys, monkeypatch):
        monkeypatch.setattr(scheduling.shutil, "which", lambda name: None)
        assert self.run("--on", "slurm") == 2
        assert "no SLURM client here (sinfo, sbatch, squeue, srun not found)" in capsys.readouterr().err

    def test_modules_are_wrapped(self, files):
        assert command_line.network_of("net_of_a_user:made").widths == (3, 4, 2)
