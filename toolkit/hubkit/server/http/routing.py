"""Routes: Starlette's, each with what its handler needs done before it runs.

A handler is a plain function from :class:`Request` to a Starlette response. It runs in a thread, after the caller
was authenticated and the body was read as the route declares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import starlette.requests
import starlette.routing
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from hubkit.server.http import convertors as _registered  # noqa: F401
from hubkit.server.http.authentication import authenticate
from hubkit.server.http.bodies import BodyMemory, parse_form, read_body, spool_body
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import decode_path_params, parse_json
from hubkit.server.http.request import Request

Handler = Callable[[Request], Response]
Body = Literal["none", "json", "form", "file"]
FORM = "application/x-www-form-urlencoded"
# What is sent without a token cannot keep out those who have one.
_MEMORY, _MEMORY_OF_ANYBODY = BodyMemory(64 * 2**20), BodyMemory(8 * 2**20)


_LARGE_BYTES = 2**20
# Reading a large commit takes many times the memory of its longest line, and threads that others need.
_LARGE = CapacityLimiter(4)


class Route(starlette.routing.Route):
    """One line of the route table.

    ``body`` says how the body is read: ``json`` into ``request.json_body``, ``form`` into ``request.form_data`` (JSON
    is accepted too), ``file`` to disk (``request.spooled``); at most ``limit`` bytes, which each route with a body
    states. Whoever sends one needs a token, unless ``anonymous``. ``before`` refuses what can be refused before the
    body is read. ``path_params`` are path parameters that the path does not spell out. ``cookie``: a browser's login
    counts here, for GET and HEAD.
    """

    def __init__(
        self, method: str, path: str, handler: Handler, body: Body = "none", *, anonymous: bool = False,
        path_params: Mapping[str, str] | None = None, limit: int = 0,
        before: Callable[[Request], None] | None = None, cookie: bool = False,
    ) -> None:  # fmt: skip
        if (body == "none") != (limit == 0):
            raise ValueError(f"{method} {path}: a route with a body, and no other, has a limit.")
        self.handler, self.body, self.limit, self.before = handler, body, limit, before
        self.anonymous, self.cookie = anonymous, cookie
        self.fixed_params = dict(path_params or {})
        super().__init__(path, self.respond, methods=[method], name=handler.__name__)

    async def respond(self, incoming: starlette.requests.Request) -> Response:
        """Authenticate, read the body, run the handler in a thread. Exceptions go to the application's handlers."""
        incoming.scope["path_params"] = decode_path_params(incoming.path_params) | self.fixed_params
        request = Request(incoming.scope, incoming.receive, hub=incoming.app.state.hub)
        request.actor = await run_in_threadpool(authenticate, request, cookie=self.cookie)
        request.state.actor = request.actor  # for the page of an error
        try:
            if self.before:
                await run_in_threadpool(self.before, request)
            if self.body != "none" and request.actor is None and not self.anonymous:
                raise HTTPException(401, "Invalid username or password.")
            if self.body == "file":
                limit = self.limit if request.body_limit is None else request.body_limit
                request.spooled = await spool_body(request, request.hub.folder.spool, limit)
            with (_MEMORY if request.actor else _MEMORY_OF_ANYBODY).reserve() as grow:
                content = await read_body(request, self.limit, grow) if self.body in {"json", "form"} else b""
                large = request.spooled is not None and request.spooled.size > _LARGE_BYTES
                return await run_sync(self._handle, request, content, limiter=_LARGE if large else None)
        finally:
            for end in request.at_end:
                end()
            if request.spooled:
                request.spooled.path.unlink(missing_ok=True)

    def _handle(self, request: Request, content: bytes) -> Response:
        """Parse the body and run the handler, in a thread: neither may hold up the event loop.

        A body may take hours to arrive, so the token of its sender is looked up again: it may have been revoked.
        """
        if self.body != "none":
            request.actor = request.state.actor = authenticate(request, cookie=self.cookie)
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if self.body == "form" and media_type == FORM:
            request.form_data = parse_form(content)
        elif content:
            request.json_body = parse_json(content)
        return self.handler(request)


def api_route(
    method: str, tail: str, handler: Handler, body: Body = "none", *, anonymous: bool = False, limit: int = 0,
    before: Callable[[Request], None] | None = None,
) -> Route:  # fmt: skip
    """A route for ``/api/<models|datasets|spaces>/namespace/name`` + ``tail``."""
    path = "/api/{kind:kind}/{ns}/{name}" + tail
    return Route(method, path, handler, body, anonymous=anonymous, limit=limit, before=before)


def repo_routes(
    method: str, tail: str, handler: Handler, body: Body = "none", *, anonymous: bool = False, cookie: bool = False,
    limit: int = 0,
) -> list[Route]:  # fmt: skip
    """Routes below the addresses of repos: ``/ns/name``, ``/datasets/ns/name``, ``/spaces/ns/name`` + ``tail``."""
    prefixes = {"datasets": "/datasets/{ns}/{name}", "spaces": "/spaces/{ns}/{name}", "models": "/{ns}/{name}"}

    def route(kind: str, prefix: str) -> Route:
        path, params = prefix + tail, {"kind": kind}
        return Route(method, path, handler, body, anonymous=anonymous, path_params=params, limit=limit, cookie=cookie)

    return [route(kind, prefix) for kind, prefix in prefixes.items()]
