"""The ASGI application: the route table, the middleware, and what becomes of exceptions. Start reading here."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import sqlite3
from pathlib import Path

import pygit2
import starlette.exceptions
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from hubkit.core.errors import UsageError
from hubkit.server.faults import FaultScript
from hubkit.server.http.exceptions import HTTPException, repo_damaged
from hubkit.server.http.fault_middleware import FaultMiddleware
from hubkit.server.http.middleware import (
    LoopbackHostMiddleware,
    MetricsMiddleware,
    RawPathMiddleware,
    RequestIdMiddleware,
    SameOriginMiddleware,
)
from hubkit.server.http.revisions import branch_moved
from hubkit.server.http.routing import Table
from hubkit.server.hub import Hub
from hubkit.server.pages.responses import error_response
from hubkit.server.repos.git import MovedError, NameTakenError
from hubkit.server.repos.objects import DamagedError
from hubkit.server.routes import (
    admin,
    collections,
    commits,
    discussions,
    gates,
    git,
    identity,
    lfs,
    locks,
    metrics,
    oauth,
    pages,
    refs,
    repos,
    resolve,
    social,
    spaces,
    tree,
    unavailable,
    webhooks,
    weights,
    xet,
)
from hubkit.server.storage.database import is_busy

log = logging.getLogger("hubkit.server")
_ABOUT_A_REPO = re.compile(r"/(api/(models|datasets|spaces|kernels)/|([^/]+/){1,3}resolve/)")
_ROOM = 2**20
_READ_ONLY = os.strerror(errno.EROFS)
_FULL_DISK = ("no space left", "file too large", "disk is full", "disk quota exceeded")

ROUTES = [
    *admin.ROUTES,
    *metrics.ROUTES,
    *identity.ROUTES,
    *oauth.ROUTES,
    *unavailable.ROUTES,
    *webhooks.ROUTES,
    *weights.ROUTES,
    *social.ROUTES,
    *gates.ROUTES,
    *spaces.ROUTES,
    *collections.ROUTES,  # before `/api/{kind}`
    *repos.ROUTES,
    *refs.ROUTES,
    *tree.ROUTES,
    *commits.ROUTES,
    *lfs.ROUTES,
    *git.ROUTES,
    *locks.ROUTES,
    *xet.ROUTES,
    *resolve.ROUTES,
    *discussions.ROUTES,
    *pages.ROUTES,  # last: `/{namespace}/{name}` would match many of the paths above
]


def build(hub: Hub, *, faults: bool = False) -> ASGIApp:
    """The application that serves ``hub``; with ``faults`` tests can script failures."""
    starlette = Starlette(routes=[Table(ROUTES)], exception_handlers=EXCEPTION_HANDLERS)
    starlette.router.redirect_slashes = False
    starlette.state.hub = hub
    app: ASGIApp = starlette
    # Around Starlette and not inside, so that a response to an unexpected exception has a request id too.
    for middleware in (RawPathMiddleware, RequestIdMiddleware, SameOriginMiddleware, LoopbackHostMiddleware):
        app = middleware(app)
    app = MetricsMiddleware(app, hub.metrics)
    if faults:
        hub.faults = FaultScript()
        app = FaultMiddleware(app, hub.faults)
    return app


async def http_exception(request: Request, error: Exception) -> Response:
    """What a handler or its route raised."""
    assert isinstance(error, HTTPException)
    if git.is_git(request.scope["path"]):
        return git.plain_error(error)
    if ".git/info/lfs/" in request.scope["path"]:
        error.body.setdefault("message", error.detail)  # git-lfs shows this one
    return error_response(request, error)


async def usage_error(request: Request, error: Exception) -> Response:
    """400: what the Hub's parts cannot do with what a client sent."""
    return error_response(request, HTTPException(400, str(error)))


async def moved_error(request: Request, error: Exception) -> Response:
    """412: a branch was moved by another request since this one read it."""
    return error_response(request, branch_moved())


async def name_taken_error(request: Request, error: Exception) -> Response:
    """409: git cannot hold a ref beside another one."""
    return error_response(request, HTTPException(409, str(error)))


async def routing_error(request: Request, error: Exception) -> Response:
    """404 or 405 from Starlette's router. Of a path below ``/api/models/`` and the like clients expect RepoNotFound."""
    assert isinstance(error, starlette.exceptions.HTTPException)
    if error.status_code == 405:
        return HTTPException(405, "This URL does not support that method.").response()
    code = "RepoNotFound" if _ABOUT_A_REPO.match(request.scope["path"]) else None
    return error_response(request, HTTPException(404, "Page not found.", code))


async def storage_error(request: Request, error: Exception) -> Response:
    """507 when the disk is full or can only be read: clients retry a 500 or 503 at once, which cannot work until
    somebody makes room, or mounts it again.

    503 when another process holds the database: soon it will not.
    """
    if isinstance(error, sqlite3.Error) and is_busy(error):
        log.warning("%s %s: the database is in use by another process", request.method, request.scope["path"])
        words = "Another process is using the Hub's database; send the request again."
        return error_response(request, HTTPException(503, words, headers={"Retry-After": "1"}))
    read_only = _is_read_only(error)
    if not read_only and not _disk_is_full(error, request.app.state.hub.folder.root):
        if isinstance(error, pygit2.GitError):  # libgit2 could not write where it had to
            return await damaged_repo(request, error)
        raise error
    problem = "can only be read" if read_only else "is full"
    log.error("%s %s: the disk %s: %s", request.method, request.scope["path"], problem, error)
    reason = f"its disk can only be read ({_READ_ONLY})" if read_only else error
    return HTTPException(507, f"The Hub cannot store this: {reason}.").response()


async def damaged_repo(request: Request, error: Exception) -> Response:
    """520: what the request needs cannot be read. The log says what it is; a stranger need not know."""
    log.error("%s %s: the repo is damaged: %s", request.method, request.scope["path"], error)
    params = request.path_params
    name = f"{params['ns']}/{params['name']}" if {"ns", "name"} <= params.keys() else "This repository"
    return error_response(request, repo_damaged(name))


async def unexpected_error(request: Request, error: Exception) -> Response:
    """500. uvicorn logs the traceback and closes the connection, so the response announces it."""
    log.error("%s %s failed", request.method, request.scope["path"])
    message = "The embedded Hub failed to answer this request; see its log."
    return error_response(request, HTTPException(500, message, headers={"Connection": "close"}))


def _is_read_only(error: Exception) -> bool:
    """As a disk becomes that has failed, and a folder that somebody mounts so while the Hub runs."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.EROFS
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY
    return _READ_ONLY.lower() in str(error).lower()  # libgit2's errors have words and no number


def _disk_is_full(error: Exception, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    if getattr(error, "sqlite_errorcode", None) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}:
        return True
    # libgit2's errors have words and no number, and on a full disk sometimes words about something else.
    return any(words in str(error).lower() for words in _FULL_DISK) or shutil.disk_usage(folder).free < _ROOM


EXCEPTION_HANDLERS = {
    HTTPException: http_exception,
    UsageError: usage_error,
    starlette.exceptions.HTTPException: routing_error,
    MovedError: moved_error,
    NameTakenError: name_taken_error,
    DamagedError: damaged_repo,
    OSError: storage_error,
    pygit2.GitError: storage_error,
    sqlite3.Error: storage_error,
    Exception: unexpected_error,
}
