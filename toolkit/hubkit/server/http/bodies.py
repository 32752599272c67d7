"""Reading request bodies: within a limit, within a time, into memory or to disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import ClientDisconnect, Request

from hubkit.core import numbers
from hubkit.server.http.exceptions import HTTPException

SMALL_LIMIT = 2**16
"""Bytes of a body with a few names, texts and switches."""
BATCH_LIMIT = 2**18
"""Bytes of a list of large files: git-lfs sends 100 at a time, huggingface_hub 256 (some 110 bytes each) or 1,000."""
TEXT_LIMIT = 2**20
"""Bytes of a body with a long text or many paths: a card, a comment, samples of 256 files, 1,000 paths."""
COMMIT_LIMIT = 2**30
IDLE_SECONDS = 60.0
_WRITE_SIZE = 2**20
_FORM_FIELDS = 2_000
_CLOSE = {"Connection": "close"}
SHORT = _FREE = 2**16
_BUSY = "The Hub is receiving too many large bodies at once; send this one again."


class BodyMemory:
    """Counts the bytes of the bodies that are in memory, for one group of callers. Used in the event loop only.

    A body's first 64 KiB are not counted, so that small requests are answered whatever others send.
    """

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0

    @contextmanager
    def reserve(self) -> Iterator[Callable[[int], None]]:
        """A function to call with the size that a body has so far; 503 when all bodies together are too large."""
        own = 0

        def grow(size: int) -> None:
            nonlocal own
            more = max(0, size - _FREE) - own
            if more > 0 and self._taken + more > self._most:
                raise HTTPException(503, _BUSY, headers={"Retry-After": "1", **_CLOSE})
            own, self._taken = own + more, self._taken + more

        try:
            yield grow
        finally:
            self._taken -= own


@dataclass(frozen=True)
class SpooledBody:
    """A body on disk, or a short one in memory where the route allows that: its path or its content, its size in
    bytes, its sha256 if the route asks for it.
    """

    path: Path | None
    size: int
    sha256: str
    content: bytes = b""

    @property
    def file(self) -> Path:
        """Its path, of a route that has it on disk."""
        assert self.path is not None
        return self.path

    def open(self) -> BinaryIO:
        """A file to read the body from."""
        return BytesIO(self.content) if self.path is None else self.path.open("rb")

    def remove(self) -> None:
        """Remove its file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def comes_at_once(request: Request) -> bool:
    """Whether a client with a token sends a body of at most 64 KiB, and does not wait to be told that it may."""
    headers = request.headers
    length = headers.get("content-length", "")
    return (
        length.isdigit() and len(length) <= len(str(_FREE)) and int(length) <= _FREE
        and "authorization" in headers and "expect" not in headers
        and "transfer-encoding" not in headers  # which counts, and not the length
    )  # fmt: skip


async def stream_body(request: Request, limit: int, *, gzip: bool = False) -> AsyncIterator[bytes]:
    """The body piece by piece: 413 beyond ``limit`` bytes, 408 when no byte arrives for a minute.

    ``gzip``: it may be compressed; the limit is of what it holds.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding in {"gzip", "x-gzip"} and gzip:
        total = 0
        async for piece in _inflated(stream_body_as_sent(request, limit)):
            if (total := total + len(piece)) > limit:
                raise _too_large(limit)
            yield piece
        return
    if encoding != "identity":
        raise HTTPException(415, "Compressed bodies are not accepted.", headers=_CLOSE)
    async for piece in stream_body_as_sent(request, limit):
        yield piece


async def _inflated(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What a gzip stream holds, at most 1 MiB at a time; 400 when it is not one, or is cut off."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        async for piece in pieces:
            while piece and not unpacker.eof:
                content = unpacker.decompress(piece, _WRITE_SIZE)
                piece = unpacker.unconsumed_tail
                yield content
                await asyncio.sleep(0)  # others have their turn
    except zlib.error:
        raise HTTPException(400, "The compressed body cannot be read.", headers=_CLOSE) from None
    if not unpacker.eof:
        raise HTTPException(400, "The compressed body is cut off.", headers=_CLOSE)


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"The body may have {numbers.count(limit)} bytes at most.", headers=_CLOSE)


async def stream_body_as_sent(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body piece by piece as it was sent, compressed or not."""
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limit:
        raise _too_large(limit)
    stream, total = request.stream(), 0
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise HTTPException(408, "The body stopped arriving.", headers=_CLOSE) from None
        except ClientDisconnect:
            raise HTTPException(400, "The client closed the connection.") from None
        total += len(piece)
        if total > limit:
            raise _too_large(limit)
        yield piece


async def read_body(request: Request, limit: int, grow: Callable[[int], None]) -> bytes:
    """The body in memory; ``grow`` is told its size while it arrives and may refuse it."""
    content = bytearray()
    async for piece in stream_body(request, limit):
        grow(len(content) + len(piece))
        content += piece
    return bytes(content)


def parse_form(content: bytes) -> FormData:
    """The fields of an ``application/x-www-form-urlencoded`` body; 400 when it cannot be parsed."""
    try:
        fields = parse_qs(content.decode("ascii"), keep_blank_values=True, max_num_fields=_FORM_FIELDS, errors="strict")
    except ValueError as error:
        raise HTTPException(400, f"The form cannot be parsed: {error}.") from None
    return FormData([(key, value) for key, values in fields.items() for value in values])


async def spool_body(
    request: Request, folder: Path, limit: int, *, gzip: bool = False, hashed: bool = False, short: bool = False
) -> SpooledBody:
    """The body in a new file below ``folder``; if ``hashed``, with its sha256. ``short``: 64 KiB may stay in memory.

    It is not flushed to disk: whoever keeps it does that.
    """
    buffer, pieces = bytearray(), stream_body(request, limit, gzip=gzip)
    if short:
        async for piece in pieces:
            buffer += piece
            if len(buffer) > _FREE:
                break
        else:
            return SpooledBody(None, len(buffer), "", bytes(buffer))
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            size, sha256 = await _write(pieces, buffer, file, hashed=hashed)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            # 507 and not 503: clients would retry at once, which cannot work until there is room.
            raise HTTPException(507, f"The Hub cannot store the body: {error.strerror}.") from error
        raise
    return SpooledBody(Path(name), size, sha256)


async def _write(pieces: AsyncIterator[bytes], buffer: bytearray, file: FileIO, *, hashed: bool) -> tuple[int, str]:
    """Write what is in ``buffer``, then what comes, to a file, in threads. Its size, and its sha256 if ``hashed``."""
    digest, size = hashlib.sha256(), len(buffer)

    def write(piece: bytearray) -> None:
        if hashed:
            digest.update(piece)
        left = memoryview(piece)
        while left:
            left = left[file.write(left) :]

    async for piece in pieces:
        buffer += piece
        size += len(piece)
        if len(buffer) >= _WRITE_SIZE:
            await run_in_threadpool(write, buffer)
            buffer = bytearray()
    if buffer:
        await run_in_threadpool(write, buffer)
    return size, digest.hexdigest() if hashed else ""
