"""Two versions of a safetensors file compared by the names of their tensors, in bounded time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hubkit.server.repos.safetensors import Header, Tensor, header_at, name_order
from hubkit.server.storage.cache import ResultCache

_PIECE, _MOST, _SECONDS = 2**22, 2**30, 3.0
"""Bytes compared at a time, bytes read of both files together, seconds that it may take."""
_ROWS = 300
_CACHE_LIMIT = 2**23


@dataclass(frozen=True)
class TensorChange:
    """A tensor that differs: ``status`` is added, removed, shape, type, values, or unknown (not compared)."""

    name: str
    status: str
    before: Tensor | None
    after: Tensor | None


@dataclass(frozen=True)
class WeightChanges:
    """What differs between two files: how many tensors of each status (``same`` too), and the first of the others."""

    counts: dict[str, int]
    rows: tuple[TensorChange, ...]
    problem: str = ""

    @property
    def more(self) -> int:
        """Tensors that differ and are not in ``rows``."""
        return sum(count for status, count in self.counts.items() if status != "same") - len(self.rows)


def compare(old: Path | None, new: Path | None) -> WeightChanges:
    """What differs between two files that never change; None is a file that is not there. BusyError."""
    return _compared.get((old, new), lambda: _compare(old, new))


def _compare(old: Path | None, new: Path | None) -> WeightChanges:
    before, after = (header_at(path) if path else Header() for path in (old, new))
    if problem := before.problem or after.problem:
        return WeightChanges({}, (), problem)
    values = _Values(old, new, before, after)
    counts: Counter[str] = Counter()
    rows: list[TensorChange] = []
    with values:
        for name, was, now in _pairs(before.tensors, after.tensors):
            status = _status(was, now, values)
            counts[status] += 1
            if status != "same" and len(rows) < _ROWS:
                rows.append(TensorChange(name, status, was, now))
    return WeightChanges(dict(counts), tuple(rows))


def _pairs(
    before: Iterable[Tensor], after: Iterable[Tensor]
) -> Iterable[tuple[str, Tensor | None, Tensor | None]]:  # fmt: skip
    old, new = ({tensor.name: tensor for tensor in side} for side in (before, after))
    for name in sorted({*old, *new}, key=name_order):
        yield name, old.get(name), new.get(name)


def _status(was: Tensor | None, now: Tensor | None, values: _Values) -> str:
    if was is None or now is None:
        return "removed" if now is None else "added"
    if was.shape != now.shape:
        return "shape"
    if was.dtype != now.dtype:
        return "type"
    return values.status(was, now)


class _Values:
    """The bytes of two files, read side by side as long as there is time."""

    def __init__(self, old: Path | None, new: Path | None, before: Header, after: Header) -> None:
        self._paths = (old, new)
        self._first = (before.first_byte, after.first_byte)
        self._files: list[IO[bytes]] = []
        self._left, self._end = _MOST, time.monotonic() + _SECONDS

    def __enter__(self) -> _Values:
        if all(self._paths):
            self._files = [path.open("rb") for path in self._paths if path]
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def status(self, was: Tensor, now: Tensor) -> str:
        """``same``, ``values`` when a byte differs, or ``unknown``."""
        if was.problem or now.problem or was.bytes != now.bytes:
            return "unknown"
        for file, first, tensor in zip(self._files, self._first, (was, now), strict=True):
            file.seek(first + tensor.start)
        left = was.bytes
        while left > 0:
            if self._left <= 0 or time.monotonic() > self._end:
                return "unknown"
            pieces = [file.read(min(_PIECE, left)) for file in self._files]
            if not pieces[0]:
                return "unknown"
            if pieces[0] != pieces[1]:
                return "values"
            left -= len(pieces[0])
            self._left -= 2 * len(pieces[0])
        return "same"


def _length(found: WeightChanges) -> int:
    return 1000 + sum(200 + len(row.name) for row in found.rows)


_compared: ResultCache[WeightChanges] = ResultCache(_CACHE_LIMIT, _length)
