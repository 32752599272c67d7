"""Blocks of a model's numbers: read, brought into the order and type of a GGUF file, and compared with what they were.

Every number is computed from its source alone, so the bytes depend neither on the size of a block nor on threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core.errors import ConflictError, RefusedError
from hubkit.models.gguf.layout import Planned, Rows
from hubkit.models.tensors import DTYPE_BITS, Tensor

BLOCK = 1024 * 1024
"""Numbers of a block, about: whole rows, and whole heads where rows change places within them."""


@dataclass(frozen=True)
class Piece:
    """Some rows of a planned tensor, the next ones of its bytes in the file."""

    of: Planned
    rows: Rows

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return (self.rows.stop - self.rows.start) * self.rows.width

    @property
    def memory(self) -> int:
        """About how many bytes are needed while it is under way."""
        return self.count * 24


@dataclass
class Deviation:
    """How far the written numbers are from the source's: the largest difference, and both as sums of squares."""

    largest: float = 0.0
    squares: float = 0.0
    of: float = 0.0

    def add(self, other: Deviation) -> None:
        """Count ``other`` in."""
        self.largest = max(self.largest, other.largest)
        self.squares += other.squares
        self.of += other.of

    @property
    def relative(self) -> float:
        """The root mean square of the difference, in terms of that of the numbers."""
        return float((self.squares / self.of) ** 0.5) if self.of else 0.0


def pieces(item: Planned) -> Iterator[Piece]:
    """``item`` cut into blocks, in the order of its bytes."""
    for rows in item.rows:
        step = max(1, BLOCK // max(1, rows.width))
        if item.heads:
            head = (rows.stop - rows.start) // item.heads
            step = max(head, step // head * head)
        for start in range(rows.start, rows.stop, step):
            yield Piece(item, Rows(rows.path, rows.tensor, start, min(rows.stop, start + step), rows.width))


def convert(piece: Piece, content: Any) -> tuple[bytes, Deviation]:
    """The bytes of ``piece`` in the file, and how far its numbers are from those in ``content``, the source's bytes.

    RefusedError for a number that is NaN, infinite, or too large for its type.
    """
    import numpy
    import torch

    source, kind = piece.rows.tensor.dtype, piece.of.type
    numbers, stored = _numbers(piece, content)
    if kind == "Q8_0":
        result, again = _quantized(numbers, piece.rows.width)
    else:
        written = stored if kind == source and not piece.of.shift else numbers.to(_types()[kind])
        again, result = written.float(), written.view(torch.uint8).numpy().tobytes()
    deviation = _deviation(numbers, again)
    if not numpy.isfinite(deviation.largest):
        raise RefusedError(
            f"{piece.of.name} holds numbers up to {float(numbers.abs().max()):.6g}, too large for {kind}.",
            hint="Write it with --type bf16.",
        )
    return result, deviation


def compare_rows(piece: Piece, content: Any, packed: Any, kind: str) -> Deviation:
    """How far the rows ``packed`` of a file, which are of the type ``kind``, are from ``piece`` of the source.

    ``content`` are the source's bytes. ConflictError for a type that the gguf library cannot read.
    """
    import numpy
    import torch
    from gguf import GGMLQuantizationType, quants

    try:
        again = quants.dequantize(packed, GGMLQuantizationType[kind]).astype(numpy.float32)  # a copy: F32 is mapped
    except NotImplementedError as error:
        raise ConflictError(
            f"{piece.of.name} is stored as {kind}, which nothing here can read.", hint="Write the file again."
        ) from error
    return _deviation(_numbers(piece, content)[0], torch.from_numpy(again).reshape(-1))


def _numbers(piece: Piece, content: Any) -> tuple[Any, Any]:
    """The numbers of ``piece`` in 32 bits, in the order of the file, and as they are stored in ``content``.

    RefusedError for a number that is NaN or infinite.
    """
    import torch

    stored = torch.from_numpy(content).view(_types()[piece.rows.tensor.dtype])
    numbers = stored.float()
    if len(numbers) and not bool(torch.isfinite(torch.stack(torch.aminmax(numbers))).all()):  # NaN is passed on
        raise RefusedError(
            f"{piece.of.name} holds NaN or infinite numbers.",
            hint="Train or merge the model again; these answer nothing.",
        )
    if piece.of.heads:
        head = (piece.of.rows[0].stop - piece.of.rows[0].start) // piece.of.heads
        shape = (-1, 2, head // 2, piece.rows.width)
        numbers, stored = (item.view(shape).transpose(1, 2).reshape(-1) for item in (numbers, stored))
    return (numbers + piece.of.shift if piece.of.shift else numbers), stored


def _types() -> dict[str, Any]:
    import torch

    return {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def _deviation(numbers: Any, again: Any) -> Deviation:
    difference = (again - numbers).abs_()
    largest = float(difference.max()) if len(difference) else 0.0
    return Deviation(largest, _squares(difference) if largest else 0.0, _squares(numbers))


def _quantized(numbers: Any, width: int) -> tuple[bytes, Any]:
    """The bytes of ``numbers`` in Q8_0, and what they say."""
    import torch
    from gguf import GGMLQuantizationType, quants

    packed = quants.quantize(numbers.view(-1, width).numpy(), GGMLQuantizationType.Q8_0)
    return packed.tobytes(), torch.from_numpy(quants.dequantize(packed, GGMLQuantizationType.Q8_0)).view(-1)


def _squares(numbers: Any) -> float:
    import torch

    return float(torch.linalg.vector_norm(numbers, dtype=torch.float64)) ** 2


def source_of(piece: Piece) -> tuple[Path, Tensor, int, int]:
    """The file of ``piece``, its tensor, and its first and last byte in the file."""
    tensor, size = piece.rows.tensor, DTYPE_BITS[piece.rows.tensor.dtype] // 8
    start = tensor.start + piece.rows.start * piece.rows.width * size
    return piece.rows.path, tensor, start, start + piece.count * size
