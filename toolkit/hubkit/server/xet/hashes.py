"""How Xet names things: chunks, groups of chunks (xorbs) and files, all by keyed BLAKE3.

The name of a group is the root of a tree over its chunks, whose nodes have two to nine children: a node ends after a
child whose hash is divisible by four. The name of a file is that root over all of its chunks, hashed once more.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from blake3 import blake3

HEX = re.compile(r"[0-9a-f]{64}")
_CHUNK_KEY = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
_NODE_KEY = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
_RANGE_KEY = bytes.fromhex("7f1857d6ce56ed66127ff913e7a5c3f3a4cd26d5b5db49e64124987f28fb94c3")
_NO_SALT = bytes(32)
_WORDS = struct.Struct("<4Q")
_FEWEST, _MOST = 3, 9
"""Children after which a node may end, and after which it does."""
DEDUPE_MODULUS = 1024
"""One chunk of so many is asked for by clients, to find out whether the Hub has what comes after it."""


def to_hex(digest: bytes) -> str:
    """How Xet writes a hash: four little-endian words, each in hexadecimal."""
    return "{:016x}{:016x}{:016x}{:016x}".format(*_WORDS.unpack(digest))


def from_hex(text: str) -> bytes:
    """The hash that :func:`to_hex` writes so. ValueError."""
    if not HEX.fullmatch(text):
        raise ValueError("a hash is 64 hexadecimal digits")
    return _WORDS.pack(*(int(text[start : start + 16], 16) for start in range(0, 64, 16)))


def chunk_hash(content: bytes | memoryview) -> bytes:
    """The hash of a chunk."""
    return blake3(content, key=_CHUNK_KEY).digest()


def keyed(digest: bytes, key: bytes) -> bytes:
    """A hash in the form of who knows ``key``."""
    return blake3(digest, key=key).digest()


def range_hash(hashes: Iterable[bytes]) -> bytes:
    """What a shard says of a run of chunks, to prove that its sender knows their hashes."""
    return blake3(b"".join(hashes), key=_RANGE_KEY).digest()


def xorb_hash(chunks: Iterable[tuple[bytes, int]]) -> bytes:
    """The name of a group of chunks, each with its hash and length. Zeros for none; that of one chunk is its own."""
    left = iter(chunks)
    start = list(islice(left, 2))
    if len(start) < 2:
        return start[0][0] if start else _NO_SALT
    level = list(_parents(chain(start, left)))
    while len(level) > 1:
        level = list(_parents(level))
    return level[0][0]


def file_hash(chunks: Iterable[tuple[bytes, int]]) -> bytes:
    """The name of a file. Zeros for an empty one."""
    left = iter(chunks)
    first = next(left, None)
    return _NO_SALT if first is None else keyed(xorb_hash(chain([first], left)), _NO_SALT)


def is_asked_for(chunk: bytes) -> bool:
    """Whether clients ask the Hub for this chunk wherever in a file it is."""
    return int.from_bytes(chunk[24:], "little") % DEDUPE_MODULUS == 0


def _parents(children: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    group: list[tuple[bytes, int]] = []
    for child in children:
        group.append(child)
        if len(group) == _MOST or (len(group) >= _FEWEST and child[0][24] % 4 == 0):
            yield _node(group)
            group = []
    if group:
        yield _node(group)


def _node(children: list[tuple[bytes, int]]) -> tuple[bytes, int]:
    text = "".join(f"{to_hex(digest)} : {size}\n" for digest, size in children)
    return blake3(text.encode(), key=_NODE_KEY).digest(), sum(size for _, size in children)
