"""NaN and infinite numbers in weights, found by reading them once, a block at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import IO, Any

from hubkit.models.tensors import Header

_BLOCK = 1024 * 1024
_LEAST: Mapping[str, tuple[str, int, int]] = {
    "F64": ("<u8", 2**63 - 1, 0x7FF << 52),
    "F32": ("<u4", 0x7FFFFFFF, 0x7F800000),
    "C64": ("<u4", 0x7FFFFFFF, 0x7F800000),
    "BF16": ("<u2", 0x7FFF, 0x7F80),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "F8_E5M2": ("u1", 0x7F, 0x7C),
    "F8_E4M3": ("u1", 0x7F, 0x7F),
    "F8_E8M0": ("u1", 0xFF, 0xFF),
}
"""dtype: (numpy's type of its bits, mask without the sign, the least of these bits that is no finite number)."""
_ONLY_NAN = frozenset({"F8_E4M3FNUZ", "F8_E5M2FNUZ"})
"""dtypes in which 0x80 is NaN and nothing is infinite. Source: ml_dtypes, README, "float8"."""


def is_available() -> bool:
    """Whether numpy is there; the light install has none."""
    return find_spec("numpy") is not None


def first_not_finite(file: IO[bytes], header: Header) -> str | None:
    """The name of the first tensor of ``file`` with a NaN or an infinite number; None when all are finite.

    ``header`` is that of the file. Only tensors of floating point are read, each byte once, 1 MiB at a time.
    """
    import numpy

    room = bytearray(_BLOCK)
    masked = numpy.empty(_BLOCK, "u1")
    for name, tensor in header.tensors.items():
        if tensor.dtype not in _LEAST and tensor.dtype not in _ONLY_NAN:
            continue
        file.seek(tensor.start)
        left = tensor.size
        while left > 0:
            view = memoryview(room)[: min(left, _BLOCK)]
            # A file that became shorter meanwhile is for the digests to find.
            if not (got := _fill(file, view)):
                break
            if _any(numpy.frombuffer(view[:got], "u1"), tensor.dtype, masked):
                return name
            left -= got
    return None


def _fill(file: IO[bytes], view: memoryview) -> int:
    done = 0
    while done < len(view) and (got := file.readinto(view[done:])):  # type: ignore[attr-defined]
        done += got
    return done


def _any(block: Any, dtype: str, masked: Any) -> bool:
    import numpy

    if dtype in _ONLY_NAN:
        return bool((block == 0x80).any())
    bits, mask, least = _LEAST[dtype]
    numbers = block[: len(block) - len(block) % numpy.dtype(bits).itemsize].view(bits)
    out = masked[: numbers.nbytes].view(bits)
    numpy.bitwise_and(numbers, numbers.dtype.type(mask), out=out)
    return bool(len(out)) and bool(out.max() >= least)
