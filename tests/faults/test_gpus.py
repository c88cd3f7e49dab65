"""What can go wrong with a GPU, stood in for: each is a row with its reason, or a flag; nothing is measured as if it had not been."""

import os
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
import torch

from benchmarks.measure import conditions
from benchmarks.run import environment, session

ERRORS = {
    "memory": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), "oom", False),
    "poisoned": (RuntimeError("CUDA error: an illegal memory access was encountered"), "crashed", True),
    "lost": (RuntimeError("CUDA error: device is lost\nCompile with TORCH_USE_CUDA_DSA"), "crashed", True),
    "exclusive": (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "crashed", True),
    "no kernel": (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "crashed", True),
    "jax": (RuntimeError("INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access"), "crashed", True),
    "cublas": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "crashed", True),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_the_device_is_a_row_with_its_reason(name):
    error, status, poisons = ERRORS[name]
    found, reason = session.status_of(error)
    assert found == status
    assert str(error).splitlines()[0] in reason
    assert session.poisons_device(error) == poisons, "after which the parent starts another worker"


class Cards:
    """NVML with two cards."""

    def __init__(self, monkeypatch, slow=(0, 0), processes=((), ()), silent=False):
        def ask(which):
            def answer(handle):
                if silent:
                    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
                return which[handle]

            return answer

        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        conditions._open_nvml.cache_clear()
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: f"GPU-{'ab'[handle]}")
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", ask(slow))
        found = [[SimpleNamespace(pid=pid) for pid in pids] for pids in processes]
        monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", ask(found))


def test_another_process_on_the_card_is_load(monkeypatch):
    Cards(monkeypatch, processes=((os.getpid(), 1), (2,)))
    assert conditions.notices_of_gpu("a") == ["load"]
    Cards(monkeypatch, processes=((os.getpid(),), ()))
    assert conditions.notices_of_gpu("a") == []


def test_workers_of_the_same_run_are_no_load(monkeypatch):
    """They hold the card and wait; where the card numbers processes by another count, as many of them are expected."""
    module = Path(session.__file__).with_name("blocks.py")
    family = [SimpleNamespace(pid=pid, cmdline=lambda: ["python", "-m", "pytest", str(module)]) for pid in (os.getpid(), 41, 42)]
    stranger = SimpleNamespace(pid=43, cmdline=lambda: ["python", "train.py"])
    monkeypatch.setattr(conditions.psutil, "Process", lambda pid: SimpleNamespace(children=lambda: [*family, stranger]))
    for pids, expected in (
        ((os.getpid(), 41, 42), []),
        ((os.getpid(), 41, 43), ["load"]),
        ((1001, 1002, 1003), []),
        ((1001, 1002, 1003, 1004), ["load"]),
    ):
        Cards(monkeypatch, processes=(pids, ()))
        assert conditions.notices_of_gpu("a") == expected, pids


def test_of_two_cards_the_one_that_computes_counts(monkeypatch):
    Cards(monkeypatch, slow=(0, pynvml.nvmlClocksThrottleReasonHwSlowdown), processes=((), (7,)))
    assert conditions.notices_of_gpu("a") == []
    assert conditions.notices_of_gpu("b") == ["clock"], "one process, which may be this one under another number"
    assert conditions.notices_of_gpu("a card that NVML does not know") == ["clock"], "then any of them"


def test_a_slice_that_does_not_answer_is_no_error(monkeypatch):
    Cards(monkeypatch, silent=True)
    assert conditions.notices_of_gpu("a") == []


def test_slices_and_cards_are_facts_of_a_run(monkeypatch):
    cards = [
        SimpleNamespace(name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", multi_processor_count=16, total_memory=10**10),
        SimpleNamespace(name="NVIDIA A100-SXM4-40GB", multi_processor_count=108, total_memory=4 * 10**10),
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: cards[index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: cards[index].name)
    assert environment.accelerator_slices() == ["NVIDIA H100 80GB HBM3 MIG 1g.10gb: 16 multiprocessors"]
    assert environment.accelerators() == [card.name for card in cards]
    assert environment.accelerator_memory() == ["10000000000", "40000000000"]
