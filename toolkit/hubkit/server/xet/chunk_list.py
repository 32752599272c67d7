"""Lists of chunks on disk: the hash and the length of each, 36 bytes; read in part or piece by piece, never whole."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast, overload

from hubkit.server.xet.xorbs import HEAD, MOST_CONTENT

_RECORD = struct.Struct("<32sI")
_AT_ONCE = 4096
_MOST_CHUNKS = 2**10
Chunk = tuple[bytes, int]


def pack(digest: bytes, length: int) -> bytes:
    """One chunk as a list holds it."""
    return _RECORD.pack(digest, length)


def read(path: Path, start: int = 0, end: int | None = None) -> Iterator[Chunk]:
    """The chunks from number ``start`` to ``end``, the last not included. OSError."""
    with path.open("rb") as file:
        file.seek(start * _RECORD.size)
        left = path.stat().st_size // _RECORD.size - start if end is None else end - start
        while left > 0 and (piece := file.read(min(left, _AT_ONCE) * _RECORD.size)):
            whole = len(piece) - len(piece) % _RECORD.size
            left -= whole // _RECORD.size
            yield from _RECORD.iter_unpack(piece[:whole])


class Chunks(Sequence[Chunk]):
    """The chunks of a list that was read whole: a slice of it costs what the slice has."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw[: len(raw) - len(raw) % _RECORD.size]

    def __len__(self) -> int:
        return len(self._raw) // _RECORD.size

    @overload
    def __getitem__(self, place: int) -> Chunk: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Chunk]: ...
    def __getitem__(self, place: int | slice) -> Chunk | Sequence[Chunk]:
        if isinstance(place, int):
            return cast(Chunk, _RECORD.unpack_from(self._raw, range(len(self))[place] * _RECORD.size))
        start, end, _ = place.indices(len(self))
        return list(_RECORD.iter_unpack(self._raw[start * _RECORD.size : end * _RECORD.size]))


def count(path: Path) -> int:
    """How many chunks a list has. OSError."""
    return path.stat().st_size // _RECORD.size


def groups(chunks: Iterator[Chunk]) -> Iterator[list[Chunk]]:
    """Chunks in groups that are no larger than a xorb may be."""
    group: list[Chunk] = []
    size = 0
    for chunk in chunks:
        if len(group) == _MOST_CHUNKS or size + chunk[1] > MOST_CONTENT:
            yield group
            group, size = [], 0
        group.append(chunk)
        size += chunk[1]
    if group:
        yield group


def framed(length: int, chunks: int) -> int:
    """Bytes of uncompressed chunks with their heads."""
    return length + HEAD * chunks
