"""uvicorn with a deadline for incomplete requests, a limit of connections, and a callback before it exits."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable
from types import FrameType
from typing import Any, BinaryIO

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hubkit.server.http.sending import SEND_FILE
from hubkit.server.repos.objects import DamagedError

_MOST_CONNECTIONS = 4000


class Server(uvicorn.Server):
    """uvicorn's server, which calls ``ending`` on the signal to exit, so that endless responses can end."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal to exit."""
        self._ending()
        super().handle_exit(sig, frame)


class PatientProtocol(H11Protocol):
    """Closes a connection that has sent no complete request head within ``HEAD_SECONDS`` of its first byte.

    uvicorn itself waits forever: a client that opens connections and sends nothing would keep all others out.
    A new connection has the same time from its start. Between requests uvicorn's keep-alive limit holds.
    """

    HEAD_SECONDS = 30.0
    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        app = self.app

        async def with_files(scope: Any, receive: Any, send: Any) -> None:
            scope[SEND_FILE] = self.send_file
            await app(scope, receive, send)

        self.app = with_files

    async def send_file(self, file: BinaryIO, start: int, count: int) -> int:
        """Send ``count`` bytes of the body from a file; the kernel copies them. DamagedError when it is shorter.

        Returns how many were sent: fewer when the client has gone.
        """
        if self.cycle.disconnected or self.transport.is_closing():
            self.cycle.disconnected = True
            return 0
        self.conn.send_with_data_passthrough(h11.Data(data=_Counted(count)))  # type: ignore[arg-type]
        file.seek(start)
        try:
            sent = await self.loop.sendfile(self.transport, file, start, count)
        except (ConnectionError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not self.transport.is_closing():
                raise
            self.cycle.disconnected = True
            self.transport.abort()
            return file.tell() - start
        if sent != count:
            raise DamagedError("a file became shorter while it was sent")
        return sent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Receive bytes; stop the clock when they complete a request head, start it when they begin one."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.HEAD_SECONDS, self._expired)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expired(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


class _Counted:
    """So many bytes that others send: all that h11 needs to know of them."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


def connections_allowed() -> int:
    """How many connections to hold at once, after raising this process's limit of open files as far as it goes.

    Half of the files stay for the repos; beyond the limit a request is answered 503, which clients try again.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS names a hard limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(_MOST_CONNECTIONS, soft // 2))
