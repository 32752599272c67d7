"""Reading request bodies: within a limit, within a time, into memory or to disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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
_FREE = 2**16
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
    """A body on disk: its path, its size in bytes, its sha256."""

    path: Path
    size: int
    sha256: str


async def stream_body(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body piece by piece: 413 beyond ``limit`` bytes, 408 when no byte arrives for a minute."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "Compressed bodies are not accepted.", headers=_CLOSE)
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limit:
        raise HTTPException(413, f"The body may have {numbers.count(limit)} bytes at most.", headers=_CLOSE)
    stream, total = request.stream(), 0
    while True:
        try:
            piece = await asyncio.wait_for(anext(stream), IDLE_SECONDS)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise HTTPException(408, "The body stopped arriving.", headers=_CLOSE) from None
        except ClientDisconnect:
            raise HTTPException(400, "The client closed the connection.") from None
        total += len(piece)
        if total > limit:
            raise HTTPException(413, f"The body may have {numbers.count(limit)} bytes at most.", headers=_CLOSE)
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


async def spool_body(request: Request, folder: Path, limit: int) -> SpooledBody:
    """The body in a new file below ``folder``, flushed to disk, with its sha256."""
    digest, size, buffer = hashlib.sha256(), 0, bytearray()
    handle, name = tempfile.mkstemp(dir=folder)

    def write(piece: bytes) -> None:
        digest.update(piece)
        file.write(piece)

    def finish() -> None:
        file.flush()
        os.fsync(file.fileno())

    with os.fdopen(handle, "wb") as file:
        try:
            async for piece in stream_body(request, limit):
                buffer += piece
                size += len(piece)
                if len(buffer) >= _WRITE_SIZE:
                    await run_in_threadpool(write, bytes(buffer))
                    buffer.clear()
            await run_in_threadpool(write, bytes(buffer))
            await run_in_threadpool(finish)
        except OSError as error:
            Path(name).unlink(missing_ok=True)
            # 507 and not 503: clients would retry at once, which cannot work until there is room.
            raise HTTPException(507, f"The Hub cannot store the body: {error.strerror}.") from error
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    return SpooledBody(Path(name), size, digest.hexdigest())
