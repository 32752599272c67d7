"""Scripted faults, for tests of those who talk to a Hub. Off unless the server was started with ``--faults``.

A fault names a route (a regular expression over ``METHOD path``), from which matching request on it strikes,
how often, and what happens:

- ``status``: answer ``status`` with ``headers`` and ``body``; the request does not reach the Hub;
- ``drop-before``: close the connection; the request does not reach the Hub;
- ``drop-after``: let the Hub do it, then close the connection without an answer;
- ``drop-upload``: close the connection once ``after`` bytes of the body have arrived;
- ``stall-upload``: take no more of the body once ``after`` bytes have arrived, for ``seconds`` at most;
- ``slow-upload``: take the body piece by piece with a pause of ``seconds`` after each;
- ``rewrite``: change ``find`` in the request's body to ``body`` before the Hub reads it;
- ``truncate``: send only the first ``after`` bytes of the answer's body, then close the connection;
- ``hang``: accept and never answer, for ``seconds`` at most.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubkit.server.http import Refusal

ACTIONS = frozenset(
    ["status", "drop-before", "drop-after", "drop-upload", "stall-upload", "slow-upload", "rewrite", "truncate", "hang"]
)


@dataclass
class Fault:
    """One scripted fault. ``nth`` counts from 1; ``count`` 0 means for ever. ``seen`` and ``struck`` are counted."""

    route: str
    action: str
    nth: int = 1
    count: int = 1
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = '{"error": "scripted fault"}'
    find: str = ""
    after: int = 0
    seconds: float = 3600.0
    seen: int = 0
    struck: int = 0

    @classmethod
    def of(cls, value: Any) -> Fault:
        """A fault from JSON; 400 says what is wrong with it."""
        try:
            fault = cls(**value)
            re.compile(fault.route)
        except (TypeError, re.error) as error:
            raise Refusal(400, f"Not a fault: {error}.") from None
        if fault.action not in ACTIONS:
            raise Refusal(400, f"{fault.action!r} is not an action: {', '.join(sorted(ACTIONS))}.")
        return fault

    def strikes(self, line: str) -> bool:
        """Count a request; True when the fault strikes it."""
        if not re.search(self.route, line):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.count and self.struck >= self.count):
            return False
        self.struck += 1
        return True


class Faults:
    """The script, and the middleware that plays it. Requests to ``/api/hubkit/`` are never struck."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._lock = app, threading.Lock()
        self._script: list[Fault] = []
        self._requests: list[str] = []
        self._times: list[float] = []

    def set(self, script: list[Fault]) -> None:
        """Replace the script and forget the requests seen."""
        with self._lock:
            self._script, self._requests, self._times = script, [], []

    def shown(self) -> dict[str, Any]:
        """The script with its counts, and the requests since it was set with their times (seconds)."""
        with self._lock:
            script = [asdict(fault) for fault in self._script]
            return {"faults": script, "requests": list(self._requests), "times": list(self._times)}

    def _fault_for(self, line: str) -> Fault | None:
        with self._lock:
            if len(self._requests) < 100_000:
                self._requests.append(line)
                self._times.append(time.monotonic())
            struck = [fault for fault in self._script if fault.strikes(line)]
            return struck[0] if struck else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or let a fault strike it."""
        path = scope.get("raw_path", b"").decode("ascii", "replace")
        if scope["type"] != "http" or path.startswith("/api/hubkit/"):
            await self._app(scope, receive, send)
            return
        fault = self._fault_for(f"{scope['method']} {path}")
        if fault is None:
            await self._app(scope, receive, send)
            return
        await _strike(fault, self._app, scope, receive, send)


def _hang_up(receive: Receive) -> None:
    """Close the connection at once. uvicorn's ``receive`` is a method of the cycle that owns the transport."""
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is None:
        raise RuntimeError("This HTTP server gives no access to its connections.")
    transport.abort()


async def _strike(fault: Fault, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    if fault.action == "status":
        headers = [(key.lower().encode(), value.encode("latin-1")) for key, value in fault.headers.items()]
        # The rest of the request is not read, so the connection cannot be used again.
        headers += [(b"connection", b"close"), (b"content-length", str(len(fault.body.encode())).encode())]
        await send({"type": "http.response.start", "status": fault.status, "headers": headers})
        await send({"type": "http.response.body", "body": fault.body.encode()})
    elif fault.action == "drop-before":
        _hang_up(receive)
    elif fault.action == "hang":
        await _hang(fault.seconds, receive)
    elif fault.action == "drop-after":

        async def silent(message: Message) -> None:
            return None

        await app(scope, receive, silent)
        _hang_up(receive)
    elif fault.action == "drop-upload":
        await app(scope, _cut_upload(fault.after, receive), send)
    elif fault.action == "stall-upload":
        await app(scope, _cut_upload(fault.after, receive, fault.seconds), send)
    elif fault.action == "slow-upload":
        await app(scope, _slow(fault.seconds, receive), send)
    elif fault.action == "rewrite":
        await app(*await _rewritten(fault, scope, receive), send)
    else:
        await app(scope, receive, _cut_answer(fault.after, receive, send))


async def _hang(seconds: float, receive: Receive) -> None:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    try:
        await asyncio.wait_for(gone(), seconds)
    except TimeoutError:
        _hang_up(receive)


def _cut_upload(after: int, receive: Receive, seconds: float = 0.0) -> Receive:
    """End the body after so many bytes; before that, take nothing for ``seconds``: the sender's bytes stop moving."""
    arrived = 0

    async def cut() -> Message:
        nonlocal arrived
        message = await receive()
        arrived += len(message.get("body", b""))
        if arrived >= after:
            if seconds:
                await asyncio.sleep(seconds)
            _hang_up(receive)
            return {"type": "http.disconnect"}
        return message

    return cut


def _slow(seconds: float, receive: Receive) -> Receive:
    async def slow() -> Message:
        await asyncio.sleep(seconds)
        return await receive()

    return slow


async def _rewritten(fault: Fault, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    body = body.replace(fault.find.encode(), fault.body.encode())
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}, again


def _cut_answer(after: int, receive: Receive, send: Send) -> Send:
    sent = 0

    async def cut(message: Message) -> None:
        nonlocal sent
        if message["type"] != "http.response.body":
            await send(message)
            return
        body = message.get("body", b"")[: max(0, after - sent)]
        sent += len(body)
        await send({"type": "http.response.body", "body": body, "more_body": True})
        if sent >= after:
            # Let the bytes reach the socket before it is closed.
            await asyncio.sleep(0)
            transport = getattr(getattr(receive, "__self__", None), "transport", None)
            if transport is None:
                raise RuntimeError("This HTTP server gives no access to its connections.")
            transport.close()

    return cut
