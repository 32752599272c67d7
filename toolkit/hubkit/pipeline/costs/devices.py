"""How fast devices are: four GPUs from their data sheets, and this device, measured.

Peaks are NVIDIA's for dense bfloat16 with float32 sums. What is reached of them is an assumption. llm-foundry measured
38 to 57 % on H100s and 59 to 79 % on A100s, recomputed activations counted
(github.com/mosaicml/llm-foundry, scripts/train/benchmarking). Those are long packed sequences in its own trainer; half
of it is assumed here for transformers' layers, LoRA and NF4 in PyTorch's own kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any


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
"""Of the rate of a large matrix product on a CPU. SmolLM2-135M in float32, by processor time: 26 % in DPO, 37 % in SFT,
70 % in a forward pass alone."""


def known(name: str) -> Device | None:
    """The GPU of the table that PyTorch calls ``name`` ('NVIDIA H100 80GB HBM3'); None when it is not in the table."""
    return next((device for device in TABLE if device.short in name.replace("-", " ").split()), None)


def others(here: Device) -> tuple[Device, ...]:
    """The devices of the table beside ``here``."""
    return tuple(device for device in TABLE if device.short != here.short)


def from_measured(measured: Mapping[str, Any]) -> Device:
    """The device that :mod:`hubkit.pipeline.costs.measuring` describes."""
    disk, hashing, memory = float(measured["disk"]), float(measured["hashing"]), int(measured["memory"])
    if measured["gpu"]:
        table = known(str(measured["name"]))
        if table is not None:
            return replace(table, name=str(measured["name"]), memory=memory, disk=disk, hashing=hashing)
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
        disk=disk,
        hashing=hashing,
    )
