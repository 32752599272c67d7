"""Middleware around the application: which hosts and pages may call it, request ids, undecoded paths."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Mapping
from email.utils import formatdate
from typing import BinaryIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubkit.core.errors import UsageError
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.sending import SEND_FILE
from hubkit.server.metrics import Metrics

_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
PUBLIC_URL = "HUBKIT_PUBLIC_URL"
_PUBLIC = re.compile(r"(https?)://([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?)/?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._=;:-]{1,128}")


def public_address() -> tuple[str, str] | None:
    """Scheme and host of ``HUBKIT_PUBLIC_URL``: how clients reach this Hub through a reverse proxy. UsageError."""
    value = os.environ.get(PUBLIC_URL)
    if not value:
        return None
    match = _PUBLIC.fullmatch(value.lower())
    if match is None:
        raise UsageError(f"{PUBLIC_URL} is {value!r}.", hint="Set it to an address such as https://hub.example.org.")
    return match[1], match[2]


class LoopbackHostMiddleware:
    """421 for any Host but this machine's own names, so that no web page can reach the Hub by another name.

    The host of the public address is one of its names; requests to it have the scheme of that address.
    Not Starlette's TrustedHostMiddleware: it answers 400 and cannot match ``[::1]:8750``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._public = app, public_address()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward or reject a request."""
        if scope["type"] == "http":
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            if self._public and host.lower() == self._public[1]:
                scope = {**scope, "scheme": self._public[0], "public": True}
            elif not _LOOPBACK.fullmatch(host):
                error = HTTPException(421, "Use 127.0.0.1 or localhost as the Host.", headers={"Connection": "close"})
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


class SameOriginMiddleware:
    """403 for requests that a page of another origin sends: :func:`is_cross_origin`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward or reject a request."""
        if scope["type"] == "http" and is_cross_origin(
            scope["method"], dict(scope["headers"]), scope.get("scheme", "http")
        ):
            error = HTTPException(403, "Cross-origin requests are not allowed.", headers={"Connection": "close"})
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def is_cross_origin(method: str, headers: Mapping[bytes, bytes], scheme: str = "http") -> bool:
    """Whether a page of another origin sent a request: browsers send these headers, and no other client does.

    ``Origin`` must be this Hub's own address, as the request's Host names it. ``Sec-Fetch-Site`` must not be
    ``cross-site`` or ``same-site`` (pages of other ports of this machine are same-site, and just as foreign), with
    one exception: a person who follows a link to the Hub. That is a GET whose mode is ``navigate`` and whose
    destination is a ``document``; the page with the link cannot read the response. Frames, images and
    scripts of other pages are refused, as is a form that another page posts.
    """
    origin = headers.get(b"origin")
    if origin is not None and origin.lower() != f"{scheme}://".encode() + headers.get(b"host", b"").lower():
        return True
    if headers.get(b"sec-fetch-site", b"none").lower() not in {b"cross-site", b"same-site"}:
        return False
    follows_link = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    return not (method == "GET" and follows_link)


class RequestIdMiddleware:
    """Adds ``X-Request-Id`` (the client's own, or a new one) and ``Date`` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, and complete the headers of its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        sent = headers.get(b"x-amzn-trace-id", headers.get(b"x-request-id", b"")).decode("latin-1")
        request_id = sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                # uvicorn's own Date lags by up to a second; readers of a Space's log stop at what is later than it.
                date = formatdate(usegmt=True).encode()
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), (b"date", date)]
            await send(message)

        await self._app(scope, receive, send_with_id)


class RawPathMiddleware:
    """Routes match the path as it was sent, percent escapes included: ``refs%2Fpr%2F1`` is one path parameter."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request with its undecoded path."""
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await self._app(scope, receive, send)


class MetricsMiddleware:
    """Counts every request, how long it took and what was sent."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, sent, begun = 0, 0, time.perf_counter()

        async def count(message: Message) -> None:
            nonlocal status, sent
            status = message.get("status", status)
            sent += len(message.get("body", b""))
            await send(message)

        async def count_file(file: BinaryIO, start: int, size: int) -> int:
            nonlocal sent
            done: int = await scope[SEND_FILE](file, start, size)
            sent += done
            return done

        self._metrics.begin()
        try:
            await self._app({**scope, SEND_FILE: count_file if scope.get(SEND_FILE) else None}, receive, count)
        finally:
            seconds = time.perf_counter() - begun
            self._metrics.end(scope["method"], scope["path"], status, seconds, sent)
