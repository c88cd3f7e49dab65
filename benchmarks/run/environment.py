"""The facts of a run: a table of collectors. Nothing that identifies a host or a person is collected."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from threadpoolctl import threadpool_info

from benchmarks.measure.clock import available_threads
from benchmarks.records.csv_file import OWN_RESULTS
from benchmarks.workloads import names
from jacobians.kernels.native.compiler import processor

Fact = str | int | float | bool | list[str] | dict[str, str] | None

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("torch", "numpy", "scipy", "numba", "jax", "jaxlib", "folx", "triton", "pytest", "pytest-benchmark")  # that compute or measure


def collect() -> dict[str, Fact]:
    """Collect every fact; a collector that fails leaves `None`."""
    facts: dict[str, Fact] = {}
    for name, collector in COLLECTORS.items():
        try:
            facts[name] = collector()
        except (OSError, RuntimeError, LookupError, ValueError):
            facts[name] = None
    return facts


def cpu_model() -> str:
    """Model name of the processor, without trademarks and clock rates; with family and model numbers where the name has none."""
    name = platform.machine() or "cpu"
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = match.group(1) if match else name
    name = " ".join(re.sub(r"\((R|TM|C)\)|@.*$", "", name, flags=re.IGNORECASE).split())
    # A virtual machine may call every generation "Xeon Processor": then the numbers tell them apart.
    numbers = {key: re.search(rf"^{key}\s*:\s*(\d+)$", text, re.MULTILINE) for key in ("cpu family", "model")}
    if not re.search(r"\d", name) and all(numbers.values()):
        name = f"{name.removesuffix(' Processor')} family {numbers['cpu family'][1]} model {numbers['model'][1]}"  # pyright: ignore[reportOptionalSubscript]
    return name


def caches() -> dict[str, str]:
    """Size of each cache of the first core, as the system writes it."""
    found: dict[str, str] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level = (index / "level").read_text().strip()
        kind = (index / "type").read_text().strip().lower()
        found[f"L{level} {kind}"] = (index / "size").read_text().strip()
    return found


def _cards() -> list[Any]:
    """Return what torch says of each CUDA device."""
    return [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


def accelerators() -> list[str]:
    """Names of the CUDA devices torch sees."""
    return [card.name for card in _cards()]


def accelerator_memory() -> list[str]:
    """Memory of each CUDA device."""
    return [str(card.total_memory) for card in _cards()]


def accelerator_slices() -> list[str]:
    """Of each CUDA device whether it is a slice of a card (MIG): its share of the multiprocessors and memory is all that can be reached."""
    return [f"{card.name}: {card.multi_processor_count} multiprocessors" for card in _cards() if "MIG" in card.name]


def cuda_driver() -> str | None:
    """Version of the NVIDIA driver, asked of NVML; `None` where there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def libraries() -> dict[str, str]:
    """Versions of the libraries that are installed."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def blas() -> list[str]:
    """The BLAS and OpenMP libraries loaded, with their versions."""
    return sorted({f"{info['internal_api']} {info['version'] or ''}".strip() for info in threadpool_info()})


def commit() -> str | None:
    """Commit of this project, with `-dirty` where anything that could change a measurement had been changed."""
    if not (ROOT / ".git").exists():
        return None
    head = _git("rev-parse", "--short=10", "HEAD")
    # A run of several sweeps rewrites results as it goes: they, and the figures drawn from them, do not count.
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results", ":!plots/figures", ":!README.md")
    return (f"{head}-dirty" if changed else head) or None


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


COLLECTORS: dict[str, Callable[[], Fact]] = {
    "cpu_model": cpu_model,
    "cpu_features": torch.backends.cpu.get_cpu_capability,  # the vector extension torch found, e.g. AVX512
    "cores": available_threads,
    "caches": caches,
    "memory_bytes": lambda: psutil.virtual_memory().total,
    "system": lambda: f"{platform.system()} {platform.machine()}",
    "accelerators": accelerators,
    "accelerator_memory_bytes": accelerator_memory,
    "accelerator_slices": accelerator_slices,
    "cuda_driver": cuda_driver,
    "python": platform.python_version,
    "libraries": libraries,
    "cuda": lambda: torch.version.cuda,  # that torch was built with
    "blas": blas,
    "torch_threads": torch.get_num_threads,
    "commit": commit,
}


def hardware_fingerprint() -> str:
    """Tell this kind of machine from others by a hash of its processor's model and features, and its cores."""
    return hashlib.sha256(f"{processor()} {os.cpu_count()} {accelerators()}".encode()).hexdigest()[:16]


def machine_slug() -> str:
    """Name this machine by its processor and cores, e.g. `amd-epyc-9654-2-cores`, with the accelerator in front where there is one."""
    first = " ".join(accelerators()[:1])
    slug = re.sub(r"[^a-z0-9]+", "-", f"{first} {cpu_model()} {os.cpu_count()} cores".lower())
    return slug.strip("-")


def own_results() -> Path:
    """Return where the runs of this machine go by default, below the current directory."""
    return OWN_RESULTS / machine_slug()


def device_name(device: str) -> str:
    """Return the model of a device."""
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(torch.device(device))
    return cpu_model() if torch.device(device).type == "cpu" else device


def available_devices() -> list[str]:
    """Return the device types torch can use here, the CPU first."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return ["cpu"] if accelerator is None else ["cpu", accelerator.type]


def parse_devices(text: str | None) -> tuple[str, ...]:
    """Return the devices that are asked for; all that are here by default."""
    return tuple(available_devices() if text is None else names.devices(text))
