"""The Hub put together: what it holds, its route table, and the edge that every request passes."""

from __future__ import annotations

import base64
import binascii
import errno
import logging
import re
import sqlite3
import uuid
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qs

import pygit2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubkit.core.errors import UsageError
from hubkit.server.accounts import Accounts, Actor
from hubkit.server.database import Database
from hubkit.server.discussions import Discussions
from hubkit.server.faults import Faults
from hubkit.server.folder import Folder
from hubkit.server.git import Change
from hubkit.server.http import Call, Refusal, Spec, decoded, parsed, read_all, read_to_disk
from hubkit.server.objects import Objects
from hubkit.server.pages.sessions import Sessions
from hubkit.server.pages.site import refused
from hubkit.server.routes import (
    admin,
    discussions,
    identity,
    lfs,
    oauth,
    pages,
    refs,
    repos,
    resolve,
    spaces,
    tree,
    upload,
)
from hubkit.server.spacedata import SpaceData
from hubkit.server.spaces import Spaces
from hubkit.server.store import Repo, Store

log = logging.getLogger("hubkit.server")
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_TRACE = re.compile(r"[A-Za-z0-9._=;:-]{1,128}")
# The pages come last: `/{namespace}/{name}` must not stand before what has a name of its own.
_MODULES = (admin, identity, oauth, spaces, repos, refs, tree, upload, lfs, resolve, discussions, pages)


class _Kind(Convertor[str]):
    """``models``, ``datasets`` or ``spaces`` in an address (``kernels`` gets a clear refusal)."""

    regex = "models|datasets|spaces|kernels"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("kind", _Kind())


class Hub:
    """Everything that one data folder holds."""

    def __init__(self, data: Path) -> None:
        self.folder = Folder(data)
        self.folder.create()
        self.database = Database(self.folder.database)
        self.accounts = Accounts(self.database)
        self.objects = Objects(self.folder, self.database)
        self.store = Store(self.folder, self.database, self.accounts, self.objects)
        self.discussions = Discussions(self.database)
        self.spaces = Spaces(self.folder, SpaceData(self.database), self.store, self.objects)
        self.sessions = Sessions(self.accounts)
        self.faults: Faults | None = None
        self.accounts.ensure_owner(self.folder)

    def close(self) -> None:
        """End what runs and close what is open."""
        self.spaces.close()
        self.database.close()

    def claim_object(self, repo: Repo, oid: str, actor: Actor | None) -> int | None:
        """The size of an object that ``repo`` has, or gets now because the actor can read it elsewhere; else None."""
        if self.objects.has(repo.uid, oid):
            return self.objects.size(oid)
        for uid in self.objects.holders(oid):
            other = self.store.by_uid(uid)
            if other and self.store.open_to(other, actor):
                return self.objects.give(repo.uid, oid)
        return None

    def copy_files(self, source: Repo, target: Repo, author: str) -> None:
        """One commit on the target's ``main`` that makes its files those of the source's ``main``."""
        git, other = self.store.git(source), self.store.git(target)
        head, ours = git.target("refs/heads/main"), other.target("refs/heads/main")
        if head is None or ours is None:
            return
        changes = []
        for entry in git.walk(head) or ():
            if entry.folder:
                continue
            if entry.pointer and self.objects.has(source.uid, entry.pointer.oid):
                self.objects.give(target.uid, entry.pointer.oid)
            changes.append(Change(entry.path, other.write_blob(git.blob(entry.oid))))
        commit = other.write_commit(other.write_tree(None, changes), [ours], f"Duplicate from {source.id}", author)
        other.move("refs/heads/main", commit, ours)


def _authenticate(hub: Hub, request: Request, spec: Spec) -> Actor | None:
    """The sender. A token that is not known is refused everywhere, even where none is needed.

    A browser's login counts where the route says so, and for reading only.
    """
    header = request.headers.get("authorization")
    if not header:
        return hub.sessions.actor(request) if spec.cookie and request.method in {"GET", "HEAD"} else None
    scheme, _, rest = header.partition(" ")
    token = rest.strip()
    if scheme.lower() == "basic":
        token = _basic_password(token)
    elif scheme.lower() != "bearer":
        token = ""
    actor = hub.accounts.identify(token) if token else None
    if actor is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return actor


def _basic_password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


async def _read(spec: Spec, call: Call) -> None:
    """Read the body as the route wants it."""
    request = call.request
    if spec.body == "file":
        limit = spec.limit if call.most is None else call.most
        call.spooled = await read_to_disk(request, call.hub.folder.spool, limit)
        return
    content = await read_all(request, spec.limit)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if spec.body == "form" and kind == "application/x-www-form-urlencoded":
        try:
            pairs = parse_qs(content.decode("ascii"), keep_blank_values=True, max_num_fields=20_000, errors="strict")
        except ValueError as error:
            raise Refusal(400, f"The form cannot be read: {error}.") from None
        call.form = FormData([(key, value) for key, values in pairs.items() for value in values])
    elif content:
        call.value = parsed(content)


def _disk_is_full(error: Exception) -> bool:
    """Whether a write failed for want of room. Not a 5xx that clients retry: 507 stays until there is room."""
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    text = str(error).lower()
    known = ("no space left", "file too large", "disk is full", "disk quota exceeded")
    return isinstance(error, pygit2.GitError | sqlite3.Error) and any(word in text for word in known)


def _route(hub: Hub, spec: Spec) -> Route:
    """A Starlette route that reads, authenticates, and runs the handler in a thread."""

    async def serve(request: Request) -> Response:
        call = actor = None
        try:
            params = decoded(request.path_params) | dict(spec.fixed)
            actor = await run_in_threadpool(_authenticate, hub, request, spec)
            call = Call(hub, request, params, actor)
            if spec.before:
                await run_in_threadpool(spec.before, call)
            if spec.body != "none":
                if actor is None and not spec.anonymous:
                    raise Refusal(401, "Invalid username or password.")
                await _read(spec, call)
            return await run_in_threadpool(spec.handler, call)
        except Refusal as refusal:
            return refused(request, refusal, actor)
        except UsageError as error:
            return refused(request, admin.usage_refusal(error), actor)
        except Exception as error:
            if _disk_is_full(error):
                log.error("%s %s: no room: %s", request.method, request.scope["path"], error)
                return Refusal(507, f"The Hub cannot store this: {error}.").response()
            log.exception("%s %s failed", request.method, request.scope["path"])
            return refused(request, Refusal(500, "The embedded Hub failed at this; its log says why."), actor)
        finally:
            if call and call.spooled:
                call.spooled.path.unlink(missing_ok=True)

    return Route(spec.path, serve, methods=[spec.method])


async def _unknown(request: Request, error: Exception) -> Response:
    """No such address. Below ``/api/models/`` and the like a client wants to hear of a missing repo."""
    about_repo = re.match(r"/(api/(models|datasets|spaces|kernels)/|([^/]+/){1,3}resolve/)", request.scope["path"])
    code = "RepoNotFound" if about_repo else None
    return refused(request, Refusal(404, "There is nothing at this address.", code), None)


async def _wrong_method(request: Request, error: Exception) -> Response:
    return Refusal(405, "This address does not take that method.").response()


def _from_a_page(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a page of another origin sent a request: a browser says so, and no other client sends these headers.

    ``Origin`` must be this Hub's own address, as the request's Host names it. ``Sec-Fetch-Site`` must not be
    ``cross-site`` or ``same-site`` (pages of other ports of this machine are same-site, and just as foreign), with
    one exception: a person who follows a link to the Hub. That is a GET whose mode is ``navigate`` and whose
    destination is a whole ``document``; the page with the link cannot read the answer. Frames, images and
    scripts of other pages are refused, as is a form that another page posts.
    """
    origin = headers.get(b"origin")
    if origin is not None and origin.lower() != b"http://" + headers.get(b"host", b"").lower():
        return True
    if headers.get(b"sec-fetch-site", b"none").lower() not in {b"cross-site", b"same-site"}:
        return False
    follows = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    return not (method == "GET" and follows)


class Edge:
    """Checks the Host header (so that no web page can reach the Hub by another name), keeps percent escapes.

    What other web pages send is refused.

    Routes match the address as it was sent: ``refs%2Fpr%2F1`` is one path parameter.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not _LOOPBACK.fullmatch(headers.get(b"host", b"").decode("latin-1")):
            refusal = Refusal(421, "This Hub answers to 127.0.0.1 and localhost only.", headers={"Connection": "close"})
            await refusal.response()(scope, receive, send)
            return
        if _from_a_page(scope["method"], headers):
            refusal = Refusal(403, "This Hub takes no requests from other web pages.", headers={"Connection": "close"})
            await refusal.response()(scope, receive, send)
            return
        sent = headers.get(b"x-amzn-trace-id", headers.get(b"x-request-id", b"")).decode("latin-1")
        trace = sent if _TRACE.fullmatch(sent) else uuid.uuid4().hex

        async def traced(message: Message) -> None:
            if message["type"] == "http.response.start":
                # uvicorn's own Date lags by up to a second; readers of a Space's log stop at what is later than it.
                date = formatdate(usegmt=True).encode()
                message["headers"] = [*message["headers"], (b"x-request-id", trace.encode()), (b"date", date)]
            await send(message)

        raw = scope["raw_path"].decode("latin-1")
        await self._app({**scope, "path": raw}, receive, traced)


def build(hub: Hub, *, faults: bool = False) -> ASGIApp:
    """The ASGI application that serves ``hub``; with ``faults`` it can be told to fail."""
    routes = [_route(hub, spec) for module in _MODULES for spec in module.SPECS]
    inner = Starlette(routes=routes, exception_handlers={404: _unknown, 405: _wrong_method})
    inner.router.redirect_slashes = False
    edge = Edge(inner)
    if faults:
        hub.faults = Faults(edge)
        return hub.faults
    return edge
