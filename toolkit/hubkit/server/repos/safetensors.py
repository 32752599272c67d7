"""Headers of safetensors files, read without trust: tensors, metadata, parameters by type. No weight is read."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from hubkit.core.bounded_json import INDEX, JsonError, JsonLimits, load_json

_HEADER = JsonLimits(25_000_000, 2_000_000)
"""More than the header of any published file has: about 160,000 tensors."""
_MOST = 2**60
"""Parameters that one tensor may have: a header can claim a number too large to calculate with."""
_DIMENSIONS, _METADATA, _METADATA_VALUE = 32, 200, 20_000
_DTYPE = re.compile(r"[A-Za-z0-9_]{1,20}")
_DIGITS = re.compile(r"([0-9]+)")
_BITS = re.compile(r"(?:BF|F|I|U|C)([0-9]{1,3})")


@dataclass(frozen=True)
class Tensor:
    """One line of a header. ``start`` and ``end`` are bytes after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    problem: str = ""
    """What contradicts its bytes, or that they are not in the file; empty when nothing does."""

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes that it takes in the file."""
        return max(0, self.end - self.start)


@dataclass(frozen=True)
class Header:
    """The header of a file: its tensors in the order of their names, numbers in them counted as numbers."""

    tensors: tuple[Tensor, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    first_byte: int = 0
    """Where the bytes of tensors begin in the file."""
    problem: str = ""
    """Why the file cannot be read, as the end of a sentence that begins with its name."""
    left_out: int = 0
    """Lines of the header that describe no tensor."""

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters by type."""
        counts: Counter[str] = Counter()
        for tensor in self.tensors:
            counts[tensor.dtype] += tensor.parameters
        return dict(counts)


@dataclass(frozen=True)
class Index:
    """The index of weights in several files: the file of each tensor, by the order of the tensors' names."""

    files: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    problem: str = ""


@lru_cache(maxsize=256)
def parameters(path: Path) -> dict[str, int]:
    """Parameters by type (``{"BF16": 7241748480}``); empty when the file is not safetensors."""
    return header_at(path).parameters


@lru_cache(maxsize=8)
def header_at(path: Path) -> Header:
    """The header of a file that never changes, such as an object of git-lfs."""
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except OSError:
        return Header(problem="cannot be read")


def length_at(path: Path) -> int:
    """Bytes of the header of a file, by its own word; 0 when it is no such file or too short for that."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return length if length <= path.stat().st_size - 8 else 0
    except OSError:
        return 0


def header_of(content: bytes) -> Header:
    """The header of a small file."""
    return _read(io.BytesIO(content), len(content))


def read_index(content: bytes) -> Index:
    """The index of weights in several files."""
    try:
        value = load_json(content, INDEX)
    except JsonError as error:
        return Index(problem=str(error))
    places = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(places, dict):
        return Index(problem="has no weight_map")
    files = [(name, file) for name, file in places.items() if isinstance(file, str)]
    files.sort(key=lambda item: name_order(item[0]))
    return Index(tuple(files), _metadata(value.get("metadata")))


def name_order(name: str) -> tuple[Any, ...]:
    """What sorts ``layers.2`` before ``layers.10``."""
    parts = _DIGITS.split(name)
    return tuple((len(part.lstrip("0")), part.lstrip("0")) if place % 2 else part for place, part in enumerate(parts))


def _read(file: IO[bytes], size: int) -> Header:
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or not 2 <= length <= size - 8:
        return Header(problem="is not a safetensors file: it is shorter than its header")
    if length > _HEADER.bytes:
        return Header(problem="has a header that is too large to show")
    try:
        value = load_json(file.read(length), _HEADER)
    except JsonError as error:
        return Header(problem=f"has a header that {error}")
    if not isinstance(value, dict):
        return Header(problem="is not a safetensors file: its header is no JSON object")
    metadata = value.pop("__metadata__", None)
    room = size - 8 - length
    found = [_tensor(name, line, room) for name, line in value.items()]
    tensors = sorted((tensor for tensor in found if tensor), key=lambda tensor: name_order(tensor.name))
    return Header(tuple(tensors), _metadata(metadata), 8 + length, left_out=len(found) - len(tensors))


def _metadata(value: Any) -> tuple[tuple[str, str], ...]:
    items = list(value.items())[:_METADATA] if isinstance(value, dict) else []
    return tuple((name, str(item)[:_METADATA_VALUE]) for name, item in items if isinstance(item, str | int | float))


def _whole(value: Any, most: int = _MOST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < most


def _tensor(name: str, line: Any, room: int) -> Tensor | None:
    shape, dtype = (line.get("shape"), line.get("dtype")) if isinstance(line, dict) else (None, None)
    if not isinstance(shape, list) or len(shape) > _DIMENSIONS or not all(map(_whole, shape)):
        return None
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype) or math.prod(shape) >= _MOST:
        return None
    given = line.get("data_offsets")
    if not isinstance(given, list) or len(given) != 2 or not all(map(_whole, given)):
        return Tensor(name, dtype, tuple(shape), 0, 0, "has no place in the file")
    start, end = given
    return Tensor(name, dtype, tuple(shape), start, end, _problem(dtype, math.prod(shape), start, end, room))


def _problem(dtype: str, count: int, start: int, end: int, room: int) -> str:
    if not start <= end <= room:
        return "lies outside the file"
    bits = _BITS.match(dtype)
    if bits and (count * int(bits[1]) + 7) // 8 != end - start:
        return "does not have the bytes of its shape"
    return ""
