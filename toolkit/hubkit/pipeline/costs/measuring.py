"""How fast this device is, measured in about a second. Runs in the child of :mod:`hubkit.pipeline.costs.asking`.

A matrix product for FLOPs; a large matrix and eight rows, as a batch of eight generates, for the bandwidth; tiny
products for what starting an operation costs; and 64 MB written to a folder, synced and hashed. On a CPU one thread is
measured by its processor time and counted for each thread: a machine that is busy now is not taken for a slow one.
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

    gpu, threads = device() == "cuda", torch.get_num_threads()
    kind, where, large = training_dtype(), device(), 8192 if gpu else 1024
    clock = time.process_time
    if gpu:

        def clock() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

    torch.set_num_threads(1)
    matrix = torch.randn(large, large, device=where).to(kind)
    wide = torch.randn(4096, 8192, device=where).to(kind)
    rows = torch.randn(8, 8192, device=where).to(kind)
    little = torch.randn(32, 32, device=where)
    single = 2 * large**3 / best(lambda: matrix @ matrix, clock)
    reading = wide.numel() * wide.element_size() / best(lambda: torch.nn.functional.linear(rows, wide), clock)
    together = 1 if gpu else threads
    return {
        "gpu": gpu,
        "name": device_name() if gpu else f"CPU, {threads} threads",
        "compute": str(kind).removeprefix("torch."),
        "memory": torch.cuda.get_device_properties(0).total_memory if gpu else main_memory(),
        "flops": single * together,
        "single": single,
        "bandwidth": reading * together,
        "call": _OPERATIONS * best(lambda: [little @ little for _ in range(200)], clock) / 200,
    }


def best(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the fastest of three calls, after one that warms up."""
    work()
    taken = []
    for _ in range(3):
        began = clock()
        work()
        taken.append(clock() - began)
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
    began = time.process_time()
    hashlib.sha256(block).digest()
    return {"disk": _BLOCK / written, "hashing": _BLOCK / max(time.process_time() - began, 1e-9)}


def main_memory() -> int:
    """Bytes of main memory that a process here may have: what is built in, or the limit of its control group."""
    built_in = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(built_in, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such file, or 'max'
        return built_in
