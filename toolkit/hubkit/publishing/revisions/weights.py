"""Tensors of two revisions compared, read from the Hub piece by piece: memory is bounded, whatever the model's size.

Only files whose digests differ are read. Their headers give names, dtypes and shapes; the numbers are read in
the order in which they lie in the files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hubkit.checks.source import RepoSource
from hubkit.core.errors import RefusedError
from hubkit.models.tensors import DTYPE_BITS, Header, Tensor, header_length, parse_header

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

LIMIT = 2_000_000_000
"""Bytes of tensors that are read, both revisions together, unless more is asked for."""
_AHEAD = 8 * 2**20
_HEADER_AHEAD = 2**16
_NUMBERS = 2**20
"""Numbers of a tensor that are compared at a time."""


@dataclass
class _File:
    """A safetensors file at a place, read through one window that moves forward."""

    source: RepoSource
    path: str
    fetched: int = 0
    _start: int = 0
    _held: bytes = b""

    def read(self, start: int, length: int, ahead: int = _AHEAD) -> bytes:
        if not (self._start <= start and start + length <= self._start + len(self._held)):
            size = self.source.files()[self.path].size
            self._held = b""  # two windows at once would be twice the memory
            self._held = self.source.part(self.path, start, min(max(length, ahead), size - start))
            self._start, self.fetched = start, self.fetched + len(self._held)
        return self._held[start - self._start : start - self._start + length]

    def header(self) -> Header:
        """RefusedError when it is not sound."""
        size = self.source.files()[self.path].size
        length = header_length(self.read(0, min(8, size), _HEADER_AHEAD) if size else b"", size, self.path)
        return parse_header(self.read(8, length, _HEADER_AHEAD), size, self.path)


@dataclass(frozen=True)
class TensorChange:
    """A tensor that differs; ``before`` or ``after`` is None when it is on one side only.

    ``difference`` is the Frobenius norm of after - before, and ``relative`` that divided by the norm of before. Both
    are None when the tensor was not read, when the shapes differ, or for numbers that are not finite; ``relative``
    also when before is all zeros.
    """

    name: str
    file: str
    before: Tensor | None
    after: Tensor | None
    difference: float | None = None
    relative: float | None = None
    read: bool = False

    def to_json(self) -> dict[str, Any]:
        """The change as plain values: dtype and shape of both sides, and the norms."""
        sides = {
            name: {"dtype": tensor.dtype, "shape": list(tensor.shape)} if tensor else None
            for name, tensor in (("before", self.before), ("after", self.after))
        }
        norms = {"difference": self.difference, "relative": self.relative, "read": self.read}
        return {"name": self.name, "file": self.file, **sides, **norms}


@dataclass
class WeightChanges:
    """The tensors in the files that differ: the changes, how many are equal, what was not read."""

    changes: list[TensorChange] = field(default_factory=list)
    same: int = 0
    unread: int = 0
    unread_bytes: int = 0
    fetched: int = 0
    same_files: int = 0
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values; sizes in bytes."""
        return {
            "changes": [change.to_json() for change in self.changes],
            "same": self.same,
            "same_files": self.same_files,
            "unread": self.unread,
            "unread_bytes": self.unread_bytes,
            "bytes_read": self.fetched,
        }


def compare_weights(before: RepoSource, after: RepoSource, limit: int | None = LIMIT) -> WeightChanges:
    """The tensors that differ between two revisions; at most ``limit`` bytes of tensors are read (None: all)."""
    found = WeightChanges()
    old, new = _files_that_differ(before, after, found)
    if find_spec("numpy") is None:
        found.notes.append("The numbers in the tensors were not compared: numpy is not installed.")
        limit = 0
    sides = ({path: _File(before, path) for path in old}, {path: _File(after, path) for path in new})
    pairs = list(_pairs(_headers(sides[0], found), _headers(sides[1], found)))
    left = math.inf if limit is None else limit
    for name, one, other in pairs:
        if (
            one is None
            or other is None
            or one[1].shape != other[1].shape
            or not {one[1].dtype, other[1].dtype} <= KNOWN
        ):
            _note_unmeasured(name, one, other, found)
            continue
        cost = one[1].size + other[1].size
        if cost > left:
            found.unread, found.unread_bytes = found.unread + 1, found.unread_bytes + cost
            if one[1].dtype != other[1].dtype:
                found.changes.append(TensorChange(name, other[0], one[1], other[1]))
            continue
        left -= cost
        distance = _distance((sides[0][one[0]], one[1]), (sides[1][other[0]], other[1]))
        if distance is None:
            found.same += 1
        else:
            found.changes.append(TensorChange(name, other[0], one[1], other[1], *distance, read=True))
    found.fetched = sum(file.fetched for side in sides for file in side.values())
    return found


def _files_that_differ(before: RepoSource, after: RepoSource, found: WeightChanges) -> tuple[list[str], list[str]]:
    """The safetensors files of both sides, without those that the other side also has, under any name."""
    old = [path for path in before.files() if path.endswith(".safetensors")]
    new = [path for path in after.files() if path.endswith(".safetensors")]
    for path in sorted(old):
        twins = [path] if path in new else [name for name in new if _folder(name) == _folder(path)]
        twin = next((name for name in twins if before.files()[path].same(after.files()[name])), None)
        if twin is not None:
            old.remove(path)
            new.remove(twin)
            found.same_files += 1
    return sorted(old), sorted(new)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _headers(files: Mapping[str, _File], found: WeightChanges) -> dict[str, Header]:
    headers = {}
    for path, file in files.items():
        try:
            headers[path] = file.header()
        except RefusedError as error:
            found.notes.append(f"{error.message} Its tensors were left out ({file.source.revision}).")
    return headers


_Found = tuple[str, Tensor]
"""A tensor and the file in which it lies."""


def _pairs(
    before: Mapping[str, Header], after: Mapping[str, Header]
) -> Iterator[tuple[str, _Found | None, _Found | None]]:
    """Each tensor with its partner: of the same name in the same file, else in another file of the same folder."""
    alone: dict[tuple[str, str], list[_Found]] = {}
    for path, header in after.items():
        for name, tensor in header.tensors.items():
            if path not in before or name not in before[path].tensors:
                alone.setdefault((_folder(path), name), []).append((path, tensor))
    for path, header in before.items():
        for name, tensor in header.tensors.items():
            if path in after and name in after[path].tensors:
                yield name, (path, tensor), (path, after[path].tensors[name])
            else:
                partners = alone.get((_folder(path), name))
                yield name, (path, tensor), partners.pop(0) if partners else None
    for (_, name), rest in alone.items():
        for item in rest:
            yield name, None, item


def _note_unmeasured(name: str, one: _Found | None, other: _Found | None, found: WeightChanges) -> None:
    """Tensors that have no distance: one is missing, their shapes differ, or the dtype is not supported."""
    if one and other and one[1].shape == other[1].shape:
        found.unread, found.unread_bytes = found.unread + 1, found.unread_bytes + one[1].size + other[1].size
        found.notes.append(f"{name} was not compared: {one[1].dtype} and {other[1].dtype} cannot be compared.")
        return
    place = other or one
    assert place is not None
    found.changes.append(TensorChange(name, place[0], one and one[1], other and other[1]))


def _distance(one: tuple[_File, Tensor], other: tuple[_File, Tensor]) -> tuple[float | None, float | None] | None:
    """Norm of the difference and the same relative to the first; None when the bytes are the same.

    Summed in float64 over pieces of :data:`_NUMBERS` numbers.
    """
    import numpy as np

    apart = reference = 0.0
    same = one[1].dtype == other[1].dtype
    with np.errstate(all="ignore"):
        for first in range(0, one[1].count, _NUMBERS):
            last = min(first + _NUMBERS, one[1].count)
            raw, new = _piece(*one, first, last), _piece(*other, first, last)
            same = same and raw == new
            old_numbers, new_numbers = _numbers(raw, one[1].dtype), _numbers(new, other[1].dtype)
            gap = new_numbers - old_numbers
            apart += float(np.dot(gap, gap))
            reference += float(np.dot(old_numbers, old_numbers))
    if same:
        return None
    difference, norm = math.sqrt(apart), math.sqrt(reference)
    return (
        difference if math.isfinite(difference) else None,
        difference / norm if norm and math.isfinite(difference / norm) else None,
    )


def _piece(file: _File, tensor: Tensor, first: int, last: int) -> bytes:
    width = DTYPE_BITS[tensor.dtype] // 8
    return file.read(tensor.start + first * width, (last - first) * width)


_PLAIN = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4",
    "I16": "<i2", "U16": "<u2", "I8": "i1", "U8": "u1", "BOOL": "?",
}  # fmt: skip
KNOWN = frozenset({*_PLAIN, "BF16", "F8_E5M2", "F8_E4M3"})
"""The dtypes whose numbers can be compared."""


def _numbers(raw: bytes, dtype: str) -> NDArray[numpy.float64]:
    """The numbers in ``raw`` as float64. bfloat16 is the upper half of float32, float8_e5m2 that of float16."""
    import numpy as np

    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    if dtype == "F8_E5M2":
        return (np.frombuffer(raw, "u1").astype("<u2") << 8).view("<f2").astype(np.float64)
    if dtype == "F8_E4M3":
        return _e4m3(np.frombuffer(raw, "u1"))
    return np.frombuffer(raw, _PLAIN[dtype]).astype(np.float64)


def _e4m3(raw: NDArray[numpy.uint8]) -> NDArray[numpy.float64]:
    """float8_e4m3fn: sign, 4 bits of exponent (bias 7), 3 of fraction; no infinity, all ones are no number.

    Source: Micikevicius et al., "FP8 Formats for Deep Learning", arXiv 2209.05433, table 1.
    """
    import numpy as np

    bits = np.arange(256)
    exponent, fraction = (bits >> 3) & 15, (bits & 7) / 8
    value = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7))
    value[(bits & 127) == 127] = np.nan
    return np.where(bits & 128, -value, value)[raw]
