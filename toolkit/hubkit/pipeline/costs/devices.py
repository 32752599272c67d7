"""How fast devices are: four GPUs from their data sheets, and this device, measured.

Peaks are NVIDIA's for dense bfloat16 with float32 sums. What is reached of them is an assumption. llm-foundry measured
38 to 57 % on H100s and 59 to 79 % on A100s, recomputed activations counted
(github.com/mosaicml/llm-foundry, scripts/train/benchmarking). Those are long packed sequences in its own trainer; half
of it is assumed here for transformers' layers, LoRA and NF4 in PyTorch's own kernels.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hubkit.core.files import read_json, write_json
from hubkit.core.libraries import installed

_SECONDS = 120


@dataclass(frozen=True)
class Device:
    """What the cost model knows of a device.

    ``flops`` a second at its peak, and the ``share`` of it that training and scoring reach; ``single`` is the peak of
    one CPU thread, which runs small models. ``bandwidth`` of its memory (bytes a second), and ``memory`` (bytes).
    ``call`` is what a layer takes however little it computes (seconds: kernels are started one by one). ``disk`` and
    ``hashing`` are bytes a second of writing and of sha256, ``network`` of a transfer to or from the Hub.
    ``compute`` is the type in which it trains. ``source`` says where the figures come from.
    """

    name: str
    short: str
    gpu: bool
    flops: float
    share: float
    bandwidth: float
    memory: int
    call: float
    source: str
    single: float = 0.0
    compute: str = "bfloat16"
    disk: float = 1.5e9
    hashing: float = 1.0e9
    network: float = 100e6

    def rate(self, parameters: int) -> float:
        """FLOPs a second that a model of so many parameters gets."""
        return (self.single if self.single and parameters < SMALL else self.flops) * self.share

    def to_json(self) -> dict[str, Any]:
        """Its figures as plain values."""
        return asdict(self)


SMALL = 20_000_000
"""Parameters below which a CPU runs a model with one thread (:attr:`hubkit.models.base.PinnedBase.is_small`)."""
_CALL = 0.75e-3
"""Seconds that a layer of transformers takes on a GPU to start its kernels: 32 layers make 24 ms a token, about what a
7B model takes in `generate` without CUDA graphs."""
_SHEETS = "peak and bandwidth of NVIDIA's data sheet"
TABLE = (
    Device("NVIDIA RTX 4090, 24 GB", "4090", True, 165e12, 0.5, 1.008e12, 24 * 2**30, _CALL, _SHEETS),
    Device("NVIDIA A100 SXM, 80 GB", "A100", True, 312e12, 0.4, 2.039e12, 80 * 2**30, _CALL, _SHEETS),
    Device("NVIDIA H100 SXM, 80 GB", "H100", True, 989e12, 0.3, 3.35e12, 80 * 2**30, _CALL, _SHEETS),
    Device("NVIDIA H200 SXM, 141 GB", "H200", True, 989e12, 0.3, 4.8e12, 141 * 10**9, _CALL, _SHEETS),
)
"""The GPUs that a plan compares. Their disk, hashing and network are assumed: 1.5 GB/s, 1 GB/s and 100 MB/s."""
CPU_SHARE = 0.35
"""Of the rate of a large matrix product on a CPU. Measured on 2 cores: SmolLM2-135M, DPO of 1,536 tokens in 58 s."""


def known(name: str) -> Device | None:
    """The GPU of the table that PyTorch calls ``name`` ('NVIDIA H100 80GB HBM3'); None when it is not in the table."""
    return next((device for device in TABLE if device.short in name.replace("-", " ").split()), None)


def others(here: Device) -> tuple[Device, ...]:
    """The devices of the table beside ``here``."""
    return tuple(device for device in TABLE if device.short != here.short)


def this_device(home: Path, announce: Callable[[str], None] = lambda text: None) -> Device | None:
    """This machine, measured in a second by a child process and remembered in ``home``; None without PyTorch.

    A GPU of the table keeps the table's rates, with the memory that is there. Another GPU is measured.
    """
    if installed("torch") is None:
        return None
    path, key = home / "device.json", _machine()
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = read_json(path)
        if kept["machine"] == key:
            return Device(**kept["device"])
    announce("Measuring this device; this takes some seconds.")
    device = _measure(home)
    if device is not None:
        with contextlib.suppress(OSError):  # a home that cannot be written: measured again next time
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"machine": key, "device": device.to_json()})
    return device


def _machine() -> dict[str, Any]:
    """What must be the same for remembered rates to hold."""
    return {
        "form": 1,
        "torch": installed("torch"),
        "cores": os.cpu_count(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _measure(home: Path) -> Device | None:
    folder = next(path for path in (home, *home.parents) if path.is_dir())
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "hubkit.pipeline.costs.measuring", str(folder)],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
        measured = json.loads(child.stdout)
    except (subprocess.SubprocessError, ValueError, OSError):
        return None
    return from_measured(measured)


def from_measured(measured: dict[str, Any]) -> Device:
    """The device that :mod:`hubkit.pipeline.costs.measuring` describes."""
    rates = {name: float(measured[name]) for name in ("disk", "hashing")}
    memory = int(measured["memory"])
    if measured["gpu"]:
        table = known(str(measured["name"]))
        if table is not None:
            return replace(table, name=str(measured["name"]), memory=memory, compute=str(measured["compute"]), **rates)
    name = str(measured["name"])
    return Device(
        name=name,
        short="GPU" if measured["gpu"] else "CPU",
        gpu=bool(measured["gpu"]),
        flops=float(measured["flops"]),
        single=float(measured["single"]),
        share=0.4 if measured["gpu"] else CPU_SHARE,
        bandwidth=float(measured["bandwidth"]),
        memory=memory,
        call=_CALL if measured["gpu"] else float(measured["call"]),
        compute=str(measured["compute"]),
        source="measured here",
        **rates,
    )
