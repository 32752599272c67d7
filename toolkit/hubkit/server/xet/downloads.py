"""What a download by Xet gets: which xorbs a file consists of, and these xorbs, made of the stored file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from hubkit.server.xet import chunk_list, xorbs
from hubkit.server.xet.index import Index, Part
from hubkit.server.xet.store import XetStore

_PIECE = 2**20


@dataclass(frozen=True)
class Span:
    """Chunks ``first`` to ``last`` of a part: which bytes of the file they are, and which of the part as a xorb."""

    part: Part
    first: int
    last: int
    offset: int
    length: int
    start: int
    end: int


def spans(index: Index, name: str, start: int, end: int) -> list[Span]:
    """Where the bytes of a file from ``start`` to ``end`` are."""
    return [
        _span(index, name, part, start, end)
        for part in index.parts(name)
        if part.offset < end and part.offset + part.length > start
    ]


def _span(index: Index, name: str, part: Part, start: int, end: int) -> Span:
    lengths = (length for _, length in chunk_list.read(index.listing(name), part.first, part.last))
    ends = list(accumulate(lengths, initial=part.offset))
    count = len(ends) - 1
    first = next(number for number in range(count) if ends[number + 1] > start)
    last = next((number for number in range(1, count + 1) if ends[number] >= end), count)
    length, before = ends[last] - ends[first], chunk_list.framed(ends[first] - part.offset, first)
    after = before + chunk_list.framed(length, last - first)
    return Span(part, first, last, ends[first], length, before, after)


def as_xorb(xet: XetStore, name: str, oid: str, part: Part, start: int, end: int) -> Iterator[bytes]:
    """Bytes ``start`` to ``end`` of a part of a stored file in the form of a xorb. DamagedError."""
    chunks = list(chunk_list.read(xet.index.listing(name), part.first, part.last))
    places = list(accumulate((xorbs.HEAD + length for _, length in chunks), initial=0))
    first = next((number for number in range(len(chunks)) if places[number + 1] > start), len(chunks))
    last = next((number for number in range(first, len(chunks)) if places[number] >= end), len(chunks))
    offset = part.offset + places[first] - xorbs.HEAD * first
    frames = _frames(xet.read(oid, offset, chunks[first:last]))
    return _cut(frames, start - places[first], end - start)


def _frames(contents: Iterator[bytes]) -> Iterator[bytes]:
    """Chunks with their heads, in few pieces: each costs a change of threads."""
    waiting: list[bytes] = []
    size = 0
    for content in contents:
        waiting += (xorbs.head(len(content)), content)
        size += len(content)
        if size >= _PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def _cut(pieces: Iterator[bytes], skip: int, length: int) -> Iterator[bytes]:
    """The bytes of ``pieces`` after the first ``skip``, ``length`` of them. ``skip`` ends in the first piece."""
    for piece in pieces:
        some = piece[skip : skip + length]
        skip, length = 0, length - len(some)
        yield some
        if length == 0:
            return
