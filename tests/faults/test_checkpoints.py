"""An untrusted checkpoint is refused, not run."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.errors import BadInput
from benchmarks.workloads.checkpoint import load_mlp


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2, bias=False))


@pytest.mark.parametrize("kind", ["pt", "pth", "safetensors"])
def test_a_state_dict_becomes_a_network(net, tmp_path, kind):
    path = tmp_path / f"net.{kind}"
    (save_file if kind == "safetensors" else torch.save)(net.state_dict(), path)
    x = torch.randn(4, 3)
    torch.testing.assert_close(load_mlp(path)(x), net(x))


def test_a_pickle_that_would_run_code_does_not(tmp_path):
    path, trace = tmp_path / "net.pt", tmp_path / "trace"

    class Evil:
        def __reduce__(self):
            return open, (str(trace), "w")

    torch.save({"0.weight": Evil()}, path)
    with pytest.raises(BadInput, match="refused, it holds more than tensors"):
        load_mlp(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(BadInput, match=r"refused|not a torch checkpoint"):
        load_mlp(path)
    assert not trace.exists()


def test_what_is_no_mlp_is_named(net, tmp_path):
    def saved(state, name="net.pt"):
        torch.save(state, tmp_path / name)
        return tmp_path / name

    cases = [
        (tmp_path / "missing.pt", "no such file"),
        (saved(net.state_dict(), "net.bin"), "unknown kind of file '.bin'"),
        (saved([1, 2]), "expected a state_dict of tensors"),
        (saved({**net.state_dict(), "1.running_mean": torch.ones(2)}, "a.pt"), "found 1.running_mean"),
        (saved({"0.weight": torch.ones(3, 2), "2.weight": torch.ones(1, 4)}, "b.pt"), "W_2 expects 4 inputs but W_1 gives 3"),
    ]
    (tmp_path / "c.safetensors").write_bytes(b"rubbish")
    (tmp_path / "d.pt").write_bytes(b"rubbish")
    cases += [(tmp_path / "c.safetensors", "not a safetensors file"), (tmp_path / "d.pt", "refused|not a torch checkpoint")]
    for path, message in cases:
        with pytest.raises(BadInput, match=message):
            load_mlp(path)
