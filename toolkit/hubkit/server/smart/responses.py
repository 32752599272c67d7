"""The answers of git's services: made in turns, in the event loop, with a child that ends when nobody reads on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hubkit.server.http.exceptions import HTTPException, repo_damaged
from hubkit.server.smart.children import GitMissingError, end_group, environment, start
from hubkit.server.smart.turns import Turns

log = logging.getLogger("hubkit.server")
_FETCHES, _PUSHES = Turns(8, 3, 60.0, strangers=4, long=4), Turns(4, 2, 60.0, long=2)
_LISTS = Turns(4, 2, 60.0)
"""Lists of refs before a push are short: neither a clone nor a push that lasts long keeps others from asking."""
_PUSH_THREADS = CapacityLimiter(6)
"""Pushes have threads of their own: one may take minutes, and others need theirs."""
_PIECE, _IDLE = 2**16, 120.0
_NOT_ASKED_RIGHT = re.compile(
    r"^(BUG: |fatal: (git upload-pack: )?(protocol error|the remote end hung up|no command requested|command '|"
    r"(unknown|invalid|mismatched) (capability|command|object format|shallow|deepen|filter)|'argument' token|"
    r"unexpected line|ambiguous deepen|deepen and|expected |sparse:|unsupported filter))",
    re.MULTILINE | re.IGNORECASE,
)
"""What `git upload-pack` says of a request that is not one; all else is about the repo."""
NEVER_CACHED = {"Cache-Control": "no-cache, max-age=0, must-revalidate", "Expires": "Fri, 01 Jan 1980 00:00:00 GMT"}


def turns() -> dict[str, tuple[int, int]]:
    """For fetches, pushes and the lists of refs before them, how many are at work and how many wait."""
    return {"fetch": _FETCHES.counts(), "push": _PUSHES.counts(), "push-refs": _LISTS.counts()}


def git_missing() -> HTTPException:
    """501: this Hub has no git to read and write packs with."""
    return HTTPException(501, "Git is not installed on this Hub's machine: clone and push need it there.")


@dataclass
class Patience:
    """How long a client is waited for: at its slowest ``rate`` bytes a second, late by ``late`` seconds at most.

    In all it is waited for ``longest`` seconds. What git itself takes does not count.
    """

    rate: float = 16_384.0
    late: float = 60.0
    longest: float = 3600.0
    waited: float = 0.0
    read: int = 0

    async def wait(self, sending: Awaitable[None], size: int) -> None:
        """Wait until ``size`` bytes are sent. TimeoutError."""
        begun = time.monotonic()
        left = min(self.late + self.read / self.rate, self.longest) - self.waited
        await asyncio.wait_for(sending, max(0.0, left))
        self.waited += time.monotonic() - begun
        self.read += size


class FetchResponse(Response):
    """What ``git upload-pack`` writes about ``repo`` to what ``given`` asks; it is closed at the end.

    ``check`` is called before, in a thread, when it is the caller's turn.
    """

    def __init__(
        self, repo: Path, name: str, words: list[str], given: IO[bytes], *, caller: str, media_type: str,
        protocol: str = "", prefix: bytes = b"", check: Callable[[], object],
    ) -> None:  # fmt: skip
        super().__init__(None, media_type=media_type, headers=NEVER_CACHED)
        del self.headers["content-length"]
        self._words = ["upload-pack", "--stateless-rpc", "--strict", *words, str(repo)]
        self._variables = environment(repo, protocol=protocol)
        self._name, self._given, self._caller, self._prefix, self._check = name, given, caller, prefix, check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        with self._given:
            async with _FETCHES.turn(self._caller):
                await run_sync(self._check)
                try:
                    child = await start(self._words, self._variables, self._given)
                except GitMissingError:
                    raise git_missing() from None
                gone = asyncio.ensure_future(_disconnected(receive))
                errors = asyncio.ensure_future(_tail(child.stderr))
                try:
                    await self._send(child, send, gone, errors)
                finally:
                    gone.cancel()
                    if child.returncode is None:
                        end_group(child.pid)
                    await child.wait()
                    errors.cancel()

    async def _send(
        self, child: asyncio.subprocess.Process, send: Send, gone: asyncio.Future[None], errors: asyncio.Future[bytes]
    ) -> None:
        assert child.stdout is not None
        begun, patience = False, Patience()
        while not gone.done():
            reading = asyncio.ensure_future(child.stdout.read(_PIECE))
            waited: set[asyncio.Future[Any]] = {reading, gone}
            await asyncio.wait(waited, timeout=_IDLE, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():  # nobody reads on, or git has stopped
                reading.cancel()
                return
            piece = reading.result()
            if not piece:
                break
            if not begun:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                begun, piece = True, self._prefix + piece
            try:
                await patience.wait(send(_body(piece)), len(piece))
            except TimeoutError:
                log.warning("a client of %s reads too slowly", self._name)
                return
        if gone.done():
            return
        text = ""
        if code := await child.wait():
            text = (await errors).decode("utf-8", "replace")
            log.warning("upload-pack of %s ended with status %s: %s", self._name, code, text)
        if not begun:
            if not code or _NOT_ASKED_RIGHT.search(text):  # it says nothing to a request that asks for nothing
                raise HTTPException(400, "This is not a fetch: git cannot read what it asks for.")
            raise repo_damaged(self._name)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class PushResponse(Response):
    """What ``work`` returns, done in a thread when it is the caller's turn; ``given`` is closed at the end."""

    def __init__(self, work: Callable[[], Response], given: IO[bytes], *, caller: str) -> None:
        super().__init__(None)
        self._work, self._given, self._caller = work, given, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the work and send its response."""
        with self._given:
            async with _PUSHES.turn(self._caller):
                response = await run_sync(self._work, limiter=_PUSH_THREADS)
        await response(scope, receive, send)


class RefsResponse(Response):
    """What ``work`` returns, which reads the refs before a push in a thread when it is the caller's turn."""

    def __init__(self, work: Callable[[], Response], *, caller: str) -> None:
        super().__init__(None)
        self._work, self._caller = work, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read them and send the response."""
        async with _LISTS.turn(self._caller):
            response = await run_sync(self._work)
        await response(scope, receive, send)


def _body(piece: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": piece, "more_body": True}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _tail(stream: asyncio.StreamReader | None) -> bytes:
    """The end of what a child writes about itself; it is read all the time, so that the child never waits."""
    assert stream is not None
    text = b""
    with contextlib.suppress(asyncio.CancelledError):
        while piece := await stream.read(_PIECE):
            text = (text + piece)[-2000:]
    return text
