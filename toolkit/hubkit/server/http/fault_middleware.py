"""The middleware that plays the scripted faults of :mod:`hubkit.server.faults`."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubkit.server.faults import Fault, FaultScript
from hubkit.server.http.sending import SEND_FILE


class FaultMiddleware:
    """Lets the faults of ``script`` strike. Requests to ``/api/hubkit/`` are never struck."""

    def __init__(self, app: ASGIApp, script: FaultScript) -> None:
        self._app, self._script = app, script

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or let a fault strike it."""
        path = scope.get("raw_path", b"").decode("ascii", "replace")
        if scope["type"] != "http" or path.startswith("/api/hubkit/"):
            await self._app(scope, receive, send)
            return
        fault = self._script.record(f"{scope['method']} {path}")
        if fault is None:
            await self._app(scope, receive, send)
            return
        # Without the way past ``send``, which many faults replace.
        await _strike(fault, self._app, {**scope, SEND_FILE: None}, receive, send)


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
        await app(scope, receive, _cut_response(fault.after, receive, send))


async def _hang(seconds: float, receive: Receive) -> None:
    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    try:
        await asyncio.wait_for(disconnected(), seconds)
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
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}, again


def _cut_response(after: int, receive: Receive, send: Send) -> Send:
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
