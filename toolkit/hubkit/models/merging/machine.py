"""What a merge computes with: whatever of a machine can change the last bit of a sum."""

from __future__ import annotations

from hubkit.core.libraries import installed
from hubkit.models.merging.blocks import choose_device


def arithmetic(device: str | None = None) -> dict[str, str]:
    """torch's version, the device, and of the CPU the vector instructions that torch uses, such as ``AVX2``.

    ``device`` is where the merge computes; None: on the fastest.
    """
    import torch

    device = device or choose_device()
    found = {"torch": installed("torch") or torch.__version__, "device": device}
    if device == "cpu":
        return {**found, "cpu": str(torch.backends.cpu.get_cpu_capability())}
    return {**found, "gpu": torch.cuda.get_device_name()}
