"""How fast this device is, measured in about a second. Runs in the child of :mod:`hubkit.pipeline.costs.asking`.

A matrix product for FLOPs; a large matrix and eight rows, as a batch of eight generates, for the bandwidth; tiny
products for what starting an operation costs; and 64 MB written to a folder, synced and hashed.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OPERATIONS = 45
"""PyTorch's operations in one layer of a LoRA model in transformers, counted with its profiler: about 45."""
_BLOCK = 64 * 2**20


def rates() -> dict[str, Any]:
    """Name, memory, FLOPs, bandwidth and cost of an operation of the GPU when there is one, else of the CPU."""
    import torch

    from hubkit.models.load import device, device_name, training_dtype

    gpu = device() == "cuda"
    kind, where, large = training_dtype(), device(), 8192 if gpu else 1024

    def settle() -> None:
        if gpu:
            torch.cuda.synchronize()

    matrix = torch.randn(large, large, device=where).to(kind)
    wide = torch.randn(4096, 8192, device=where).to(kind)
    rows = torch.randn(8, 8192, device=where).to(kind)
    little = torch.randn(32, 32, device=where)
    found = {
        "gpu": gpu,
        "name": device_name() if gpu else f"CPU, {os.cpu_count()} cores",
        "compute": str(kind).removeprefix("torch."),
        "memory": torch.cuda.get_device_properties(0).total_memory if gpu else main_memory(),
        "flops": 2 * large**3 / best(lambda: matrix @ matrix, settle),
        "bandwidth": wide.numel() * wide.element_size() / best(lambda: torch.nn.functional.linear(rows, wide), settle),
        "call": _OPERATIONS * best(lambda: [little @ little for _ in range(200)], settle) / 200,
    }
    if not gpu:
        torch.set_num_threads(1)
    return {**found, "single": found["flops"] if gpu else 2 * large**3 / best(lambda: matrix @ matrix, settle)}


def best(work: Callable[[], object], settle: Callable[[], None]) -> float:
    """Seconds of the fastest of three calls, after one that warms up."""
    work()
    taken = []
    for _ in range(3):
        settle()
        began = time.perf_counter()
        work()
        settle()
        taken.append(time.perf_counter() - began)
    return max(min(taken), 1e-9)


def disk(folder: Path) -> dict[str, float]:
    """Bytes a second that ``folder``'s disk takes, synced, and that one core hashes."""
    block = os.urandom(_BLOCK)
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - began
    began = time.perf_counter()
    hashlib.sha256(block).digest()
    return {"disk": _BLOCK / written, "hashing": _BLOCK / (time.perf_counter() - began)}


def main_memory() -> int:
    """Bytes of main memory that a process here may have: what is built in, or the limit of its control group."""
    built_in = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(built_in, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such file, or 'max'
        return built_in
