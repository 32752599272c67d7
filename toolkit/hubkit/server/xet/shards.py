"""Shards: which files consist of which chunks of which xorbs. Clients send them, and get one when they ask for a chunk.

A shard is a list of records of 48 bytes after a head of the same length. The list of files comes first, and it is all
that is read of what a client sends: what is in the xorbs, the Hub has found out itself.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hubkit.core.errors import UsageError
from hubkit.server.xet.hashes import keyed, to_hex

BODY_LIMIT = 2**26 + 2**20
RECORD = 48
_TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
_HEAD, _FILE, _TERM = struct.Struct("<32sQQ"), struct.Struct("<32sIIQ"), struct.Struct("<32sIIII")
_FOOTER = struct.Struct("<9Q32s2Q48x4Q")
_END = b"\xff" * 32
_END_RECORD = _END + bytes(16)
_VERSION, _FOOTER_VERSION = 2, 1
_VERIFIED, _DESCRIBED = 2**31, 2**30


@dataclass(frozen=True)
class Term:
    """Chunks ``start`` to ``end`` of a xorb, the last not included: so many bytes of a file."""

    xorb: bytes
    length: int
    start: int
    end: int
    proof: bytes | None = None
    """The :func:`~hubkit.server.xet.hashes.range_hash` of the chunks, when the client sent it."""


@dataclass(frozen=True)
class FileRecord:
    """What a shard says of one file."""

    hash: bytes
    sha256: str | None
    count: int
    _terms: memoryview
    _proofs: memoryview | None

    def terms(self) -> Iterator[Term]:
        """The terms, in the order of the file. UsageError for one that names no chunk."""
        for number in range(self.count):
            xorb, _, length, start, end = _TERM.unpack_from(self._terms, number * RECORD)
            if end <= start:
                raise UsageError("The shard has a term without chunks.")
            place = number * RECORD
            proof = bytes(self._proofs[place : place + 32]) if self._proofs is not None else None
            yield Term(xorb, length, start, end, proof)


def files(shard: memoryview) -> Iterator[FileRecord]:
    """The files of a shard that a client sent. UsageError when it is not one."""
    if len(shard) < RECORD or _HEAD.unpack_from(shard)[:2] != (_TAG, _VERSION):
        raise UsageError("The body is no shard of version 2.")
    place = RECORD
    while True:
        if place + RECORD > len(shard):
            raise UsageError("The shard is cut off.")
        digest, flags, count, _ = _FILE.unpack_from(shard, place)
        place += RECORD
        if digest == _END:
            return
        terms, place = _records(shard, place, count)
        proofs = sha256 = None
        if flags & _VERIFIED:
            proofs, place = _records(shard, place, count)
        if flags & _DESCRIBED:
            described, place = _records(shard, place, 1)
            sha256 = to_hex(bytes(described[:32]))
        yield FileRecord(digest, sha256, count, terms, proofs)


def _records(shard: memoryview, place: int, count: int) -> tuple[memoryview, int]:
    end = place + count * RECORD
    if end > len(shard):
        raise UsageError("The shard is cut off.")
    return shard[place:end], end


def of_xorb(xorb: bytes, chunks: Iterable[tuple[bytes, int]], key: bytes, lives: int) -> bytes:
    """A shard that lists the chunks of one xorb, for clients that may use them again for ``lives`` seconds.

    The hashes are in the form of who knows ``key``, which is sent along: who has a chunk can find it in the shard, and
    nobody can read from it which chunks there are.
    """
    entries, position = [], 0
    for digest, length in chunks:
        entries.append(_TERM.pack(keyed(digest, key), position, length, 0, 0))
        position += length
    content = _TERM.pack(xorb, 0, len(entries), position, position) + b"".join(entries) + _END_RECORD
    files_at, xorbs_at, now = RECORD, 2 * RECORD, int(time.time())
    end = xorbs_at + len(content)
    footer = _FOOTER.pack(
        _FOOTER_VERSION, files_at, xorbs_at, end, 0, end, 0, end, 0, key, now, now + lives, position, 0, position, end
    )
    return _HEAD.pack(_TAG, _VERSION, len(footer)) + _END_RECORD + content + footer
