"""Xorbs: up to 64 MiB of chunks in one body, each with a head of eight bytes, compressed or not."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hubkit.core.errors import UsageError
from hubkit.server.xet.hashes import chunk_hash

LONGEST_CHUNK, MOST_CHUNKS, MOST_CONTENT = 2**17, 2**13, 2**26
BODY_LIMIT = MOST_CONTENT + 2**22
"""Bytes of a body: content that does not compress, the heads of its chunks, and the list that may follow them."""
HEAD = 8
_FOOTER, _PAGES_EVERY = b"XETBLOB", 64


@dataclass(frozen=True)
class Chunk:
    """A chunk in a xorb: where its compressed bytes begin, how many there are, how, and how many they stand for."""

    start: int
    compressed: int
    scheme: int
    length: int


def heads(body: memoryview) -> Iterator[Chunk]:
    """The chunks of a xorb, in order, by their heads alone. UsageError when it is not one."""
    position, content, count = 0, 0, 0
    while position < len(body):
        if bytes(body[position : position + len(_FOOTER)]) == _FOOTER:
            break
        chunk = chunk_at(body, position)
        count, content, position = count + 1, content + chunk.length, chunk.start + chunk.compressed
        if not 0 < chunk.length <= LONGEST_CHUNK or position > len(body):
            raise UsageError("The xorb has a chunk that is empty, too long or cut off.")
        if count > MOST_CHUNKS or content > MOST_CONTENT:
            raise UsageError(f"A xorb may have {MOST_CHUNKS:,} chunks and 64 MiB of content at most.")
        yield chunk
        if count % _PAGES_EVERY == 0:
            drop_pages(body)
    drop_pages(body)
    if count == 0:
        raise UsageError("The xorb has no chunk.")


def chunk_at(body: memoryview, position: int) -> Chunk:
    """The chunk whose head is at ``position``. UsageError when there is none."""
    head = body[position : position + HEAD]
    if len(head) < HEAD or head[0] != 0:
        raise UsageError("The xorb has a chunk with a head of another version.")
    return Chunk(position + HEAD, int.from_bytes(head[1:4], "little"), head[4], int.from_bytes(head[5:8], "little"))


def drop_pages(body: memoryview) -> None:
    """Give back the memory of what was read of a body that is mapped: the file has it still."""
    if isinstance(body.obj, mmap.mmap):
        body.obj.madvise(mmap.MADV_DONTNEED)


def contents(body: memoryview, chunks: Iterable[Chunk]) -> Iterator[bytes]:
    """The content of chunks, one after another. UsageError."""
    for number, chunk in enumerate(chunks, 1):
        yield content_of(body, chunk)
        if number % _PAGES_EVERY == 0:
            drop_pages(body)


def content_of(body: memoryview, chunk: Chunk) -> bytes:
    """The content of a chunk. UsageError when it cannot be decompressed to just the length that its head says."""
    packed = bytes(body[chunk.start : chunk.start + chunk.compressed])
    if chunk.scheme == 0:
        content = packed
    elif chunk.scheme in (1, 2):
        content = _decompress(packed, chunk.length)
        content = _joined(content) if chunk.scheme == 2 else content
    else:
        raise UsageError("The xorb has a chunk that is compressed in an unknown way.")
    if len(content) != chunk.length:
        raise UsageError("The xorb has a chunk of another length than its head says.")
    return content


def named(body: memoryview) -> list[tuple[bytes, Chunk]]:
    """Every chunk of a xorb with its hash, once all are decompressed. UsageError."""
    return [(chunk_hash(content_of(body, chunk)), chunk) for chunk in heads(body)]


def head(length: int) -> bytes:
    """The head of an uncompressed chunk."""
    size = length.to_bytes(3, "little")
    return b"\0" + size + b"\0" + size


def _decompress(packed: bytes, length: int) -> bytes:
    import lz4.frame  # only where somebody uploads by Xet

    stream = lz4.frame.LZ4FrameDecompressor()
    try:
        content = bytes(stream.decompress(packed, max_length=length + 1))
        if not stream.eof and len(content) <= length:  # the end of the frame is still to be read
            content += bytes(stream.decompress(b"", max_length=1))
    except (RuntimeError, EOFError, ValueError) as error:
        raise UsageError("The xorb has a chunk that cannot be decompressed.") from error
    if not stream.eof:
        raise UsageError("The xorb has a chunk that is longer than its head says, or cut off.")
    return content


def _joined(groups: bytes) -> bytes:
    """Content whose bytes were sorted by their position in words of four, as it was."""
    content = bytearray(len(groups))
    start = 0
    for offset in range(4):
        count = (len(groups) - offset + 3) // 4
        content[offset::4] = groups[start : start + count]
        start += count
    return bytes(content)
