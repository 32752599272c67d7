"""Routes: Starlette's, each with what its handler needs done before it runs.

A handler is a plain function from :class:`Request` to a Starlette response. It runs in a thread, after the caller
was authenticated and the body was read as the route declares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Literal

import starlette.requests
import starlette.routing
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import URLPath
from starlette.responses import Response
from starlette.routing import Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from hubkit.core import numbers
from hubkit.server.accounts.accounts import Actor
from hubkit.server.http import convertors as _registered  # noqa: F401
from hubkit.server.http.authentication import authenticate
from hubkit.server.http.bodies import SHORT, BodyMemory, comes_at_once, parse_form, read_body, spool_body
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import decode_path_params, parse_json
from hubkit.server.http.request import Request

Handler = Callable[[Request], Response]
Body = Literal["none", "json", "form", "file"]
FORM = "application/x-www-form-urlencoded"
# What is sent without a token cannot keep out those who have one.
_MEMORY, _MEMORY_OF_ANYBODY = BodyMemory(64 * 2**20), BodyMemory(8 * 2**20)


_MOST_PARTS = 20
_LARGE_BYTES = 2**20
# Reading a large commit takes many times the memory of its longest line, and threads that others need.
_LARGE = CapacityLimiter(4)


class Route(starlette.routing.Route):
    """One line of the route table.

    ``body`` says how the body is read: ``json`` into ``request.json_body``, ``form`` into ``request.form_data`` (JSON
    is accepted too), ``file`` to disk (``request.spooled``); at most ``limit`` bytes, which each route with a body
    states. Whoever sends one needs a token, unless ``anonymous``. ``before`` refuses what can be refused before the
    body is read. ``path_params`` are path parameters that the path does not spell out. ``cookie``: a browser's login
    counts here, for GET and HEAD. ``gzip``: a body of a ``file`` may be compressed; ``hashed``: it gets its sha256;
    ``short``: one of up to 64 KiB stays in memory, and is read before its sender is looked up.
    ``identify`` says who the caller is. ``turn`` waits for the caller's turn, where the handler costs much.
    """

    def __init__(
        self, method: str, path: str, handler: Handler, body: Body = "none", *, anonymous: bool = False,
        path_params: Mapping[str, str] | None = None, limit: int = 0,
        before: Callable[[Request], None] | None = None, cookie: bool = False, gzip: bool = False,
        hashed: bool = False, short: bool = False, identify: Callable[..., Actor | None] = authenticate,
        turn: Callable[[str], AbstractAsyncContextManager[None]] | None = None,
    ) -> None:  # fmt: skip
        if (body == "none") != (limit == 0):
            raise ValueError(f"{method} {path}: a route with a body, and no other, has a limit.")
        if short and (body != "file" or anonymous or gzip or hashed or turn):
            raise ValueError(f"{method} {path}: a short body is a file of somebody known, and waits for nothing.")
        self.handler, self.body, self.limit, self.before = handler, body, limit, before
        self.anonymous, self.cookie, self.identify = anonymous, cookie, identify
        self.gzip, self.hashed, self.short, self.turn = gzip, hashed, short, turn
        self.fixed_params = dict(path_params or {})
        super().__init__(path, self.respond, methods=[method], name=handler.__name__)

    async def respond(self, incoming: starlette.requests.Request) -> Response:
        """Authenticate, read the body, run the handler in a thread. Exceptions go to the application's handlers."""
        incoming.scope["path_params"] = decode_path_params(incoming.path_params) | self.fixed_params
        request = Request(incoming.scope, incoming.receive, hub=incoming.app.state.hub)
        try:
            if self.short and comes_at_once(request):
                limit = min(self.limit, SHORT)
                request.spooled = await spool_body(request, request.hub.folder.spool, limit, short=True)
                return await run_sync(self._admit_and_run, request)
            await run_in_threadpool(self._admit, request)
            if self.body == "file":
                limit = self.limit if request.body_limit is None else request.body_limit
                spool = request.hub.folder.spool
                request.spooled = await spool_body(
                    request, spool, limit, gzip=self.gzip, hashed=self.hashed, short=self.short
                )
            with (_MEMORY if request.actor else _MEMORY_OF_ANYBODY).reserve() as grow:
                content = await read_body(request, self.limit, grow) if self.body in {"json", "form"} else b""
                large = request.spooled is not None and request.spooled.size > _LARGE_BYTES
                caller = request.actor.account.id if request.actor else ""
                async with self.turn(caller) if self.turn else nullcontext():
                    limiter = _LARGE if large and not self.turn else None
                    return await run_sync(self._handle, request, content, limiter=limiter)
        finally:
            for end in request.at_end:
                end()
            if request.spooled:
                request.spooled.remove()

    def _admit(self, request: Request) -> None:
        """Find out who sent the request, and refuse what can be refused before its body is read."""
        request.actor = self.identify(request, cookie=self.cookie)
        request.state.actor = request.actor  # for the page of an error
        if self.before:
            self.before(request)
        if self.body != "none" and request.actor is None and not self.anonymous:
            raise HTTPException(401, "Invalid username or password.")

    def _admit_and_run(self, request: Request) -> Response:
        """As :meth:`_admit` and :meth:`_handle`, of a short body that is there: in one thread, and without a pause in
        which a token could be revoked.
        """
        self._admit(request)
        if request.spooled and request.body_limit is not None and request.spooled.size > request.body_limit:
            raise HTTPException(413, f"The body may have {numbers.count(request.body_limit)} bytes at most.")
        return self._run(request, b"")

    def _handle(self, request: Request, content: bytes) -> Response:
        """Parse the body and run the handler, in a thread: neither may hold up the event loop.

        A body may take hours to arrive, so the token of its sender is looked up again: it may have been revoked.
        """
        if self.body != "none":
            request.actor = request.state.actor = self.identify(request, cookie=self.cookie)
        return self._run(request, content)

    def _run(self, request: Request, content: bytes) -> Response:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if self.body == "form" and media_type == FORM:
            request.form_data = parse_form(content)
        elif content:
            request.json_body = parse_json(content)
        return self.handler(request)


class Table(starlette.routing.BaseRoute):
    """Many routes as one, which looks at few for each request: those with as many parts as the path, whose first part
    is the path's or a parameter. The first that matches is taken, as Starlette does.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes
        self._first = {first for route in routes if "{" not in (first := _parts(route.path)[0])}
        self._by_shape: dict[tuple[str, int], list[Route]] = {}
        """The routes to look at, by the first part of a path and how many parts it has."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """The route that a request is for."""
        other: tuple[Match, Scope] = (Match.NONE, {})
        for route in self._candidates(scope["path"]):
            match, found = route.matches(scope)
            if match == Match.FULL:
                return match, {**found, "hubkit.route": route}
            if match == Match.PARTIAL and other[0] == Match.NONE:
                other = match, {**found, "hubkit.route": route}
        return other

    def _candidates(self, path: str) -> list[Route]:
        parts = _parts(path)
        key = (parts[0] if parts[0] in self._first else "", min(len(parts), _MOST_PARTS))
        if key not in self._by_shape:
            self._by_shape[key] = [route for route in self._routes if _may_match(_parts(route.path), *key)]
        return self._by_shape[key]

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the route answer."""
        await scope["hubkit.route"].handle(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """No address is made of a route's name here."""
        raise NoMatchFound(name, path_params)


def _parts(path: str) -> list[str]:
    return path.removeprefix("/").split("/")


def _may_match(pattern: list[str], first: str, count: int) -> bool:
    if "{" not in pattern[0] and pattern[0] != first:
        return False
    return ":path}" in pattern[-1] or len(pattern) == count


def api_route(
    method: str, tail: str, handler: Handler, body: Body = "none", *, anonymous: bool = False, limit: int = 0,
    before: Callable[[Request], None] | None = None, short: bool = False,
) -> Route:  # fmt: skip
    """A route for ``/api/<models|datasets|spaces|kernels>/namespace/name`` + ``tail``."""
    path = "/api/{kind:kind}/{ns}/{name}" + tail
    return Route(method, path, handler, body, anonymous=anonymous, limit=limit, before=before, short=short)


def repo_routes(
    method: str, tail: str, handler: Handler, body: Body = "none", *, anonymous: bool = False, cookie: bool = False,
    limit: int = 0, before: Callable[[Request], None] | None = None, gzip: bool = False,
) -> list[Route]:  # fmt: skip
    """Routes below the addresses of repos: ``/ns/name``, ``/datasets/ns/name``, and so on, + ``tail``."""
    prefixes = {kind: f"/{kind}/{{ns}}/{{name}}" for kind in ("datasets", "spaces", "kernels")}
    prefixes["models"] = "/{ns}/{name}"

    def route(kind: str, prefix: str) -> Route:
        path, params = prefix + tail, {"kind": kind}
        return Route(
            method, path, handler, body, anonymous=anonymous, path_params=params, limit=limit, cookie=cookie,
            before=before, gzip=gzip,
        )  # fmt: skip

    return [route(kind, prefix) for kind, prefix in prefixes.items()]
