"""Files on their way to a client: the kernel copies them from its cache to the connection.

What the disk has to bring into that cache first, threads read: the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import BinaryIO

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hubkit.server.repos.objects import DamagedError

SEND_FILE = "hubkit.send_file"
"""Key of a scope: the server's function that sends so many bytes of a file from an offset on."""
_WINDOW, _PIECE = 2**21, 2**18
"""Bytes that are read ahead of what is sent, and that one call sends; those that one call reads."""
_READERS = CapacityLimiter(16)
"""Threads of their own: a slow disk does not take those of other requests."""
SendFile = Callable[[BinaryIO, int, int], Awaitable[int]]
"""Returns how many bytes were sent: fewer than asked for when the client has gone."""


class FileResponse(Response):
    """Bytes ``start`` to ``end`` of an open file, which is closed at the end.

    With ``sha256`` the last piece is sent only when the whole file has that digest: else the connection breaks.
    """

    def __init__(
        self, file: BinaryIO, start: int, end: int, status: int, headers: Mapping[str, str], *, sha256: str = ""
    ) -> None:
        super().__init__(None, status, headers)
        self._file, self._start, self._end, self._sha256 = file, start, end, sha256
        self._digest = hashlib.sha256()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers, then the file. Nothing more is read when the client has gone."""
        with self._file:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if await self._send(scope.get(SEND_FILE) or _by_messages(send)):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send_file: SendFile) -> bool:
        """Send the file, each window while the next one is read; False when the client has gone. DamagedError."""
        reading = self._begin_reading(self._start)
        try:
            for start in range(self._start, self._end, _WINDOW):
                await reading
                count = min(_WINDOW, self._end - start)
                if start + count < self._end:
                    reading = self._begin_reading(start + count)
                elif self._sha256 and self._digest.hexdigest() != self._sha256:
                    raise DamagedError(f"the LFS object {self._sha256} is damaged")
                if await send_file(self._file, start, count) < count:
                    return False
            return True
        finally:  # a thread must not read of a file that is closed
            await asyncio.gather(reading, return_exceptions=True)

    def _begin_reading(self, start: int) -> asyncio.Future[None]:
        return asyncio.ensure_future(run_sync(self._read, start, limiter=_READERS))

    def _read(self, start: int) -> None:
        """Bring a window into the kernel's cache, and its bytes into the digest. DamagedError when some are missing."""
        end = min(start + _WINDOW, self._end)
        while start < end:
            piece = os.pread(self._file.fileno(), min(_PIECE, end - start), start)
            if not piece:
                raise DamagedError("a file became shorter while it was sent")
            if self._sha256:
                self._digest.update(piece)
            start += len(piece)


def _by_messages(send: Send) -> SendFile:
    """For a server that has no function to send files with."""

    async def send_file(file: BinaryIO, start: int, count: int) -> int:
        body = await run_sync(os.pread, file.fileno(), count, start, limiter=_READERS)
        await send({"type": "http.response.body", "body": body, "more_body": True})
        return len(body)

    return send_file
