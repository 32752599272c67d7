"""Git over HTTP: the addresses that `git clone`, `fetch`, `pull` and `push` use. A token is the password."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pygit2
from starlette.responses import PlainTextResponse, Response

from hubkit.server.accounts.accounts import Actor
from hubkit.server.http.access import find_again, find_readable_repo, find_repo, forbidden, require_read, require_user
from hubkit.server.http.bodies import COMMIT_LIMIT
from hubkit.server.http.exceptions import HTTPException, repo_damaged
from hubkit.server.http.request import Request
from hubkit.server.http.routing import repo_routes
from hubkit.server.repos import references
from hubkit.server.repos.lfs import LARGE_BYTES
from hubkit.server.repos.objects import DamagedError
from hubkit.server.repos.store import Repo
from hubkit.server.smart.children import GitFailedError, GitMissingError
from hubkit.server.smart.packets import FLUSH, ProtocolError, PushRequest, advertisement, packet, read_push, report
from hubkit.server.smart.receiving import Outcome, Receiver
from hubkit.server.smart.responses import NEVER_CACHED, FetchResponse, PushResponse, RefsResponse, git_missing
from hubkit.server.smart.turns import STRANGER

log = logging.getLogger("hubkit.server")
FETCH, PUSH = "git-upload-pack", "git-receive-pack"
FETCH_LIMIT = 2**24
"""Bytes of what a fetch asks for: the commits that a client wants and has, 50 bytes each."""
_GIT = re.compile(r"/([^/]+/){2,3}(info/refs|git-(upload|receive)-pack)")
_ROOM = 2**20
_PUSHED = re.compile(r"refs/(heads|tags|pr)/.+")


def is_git(path: str) -> bool:
    """Whether a path is one of git's own."""
    return bool(_GIT.fullmatch(path))


def plain_error(error: HTTPException) -> Response:
    """An error as text, which git shows to its user."""
    response = error.response()
    headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
    return PlainTextResponse(f"{error.detail}\n", error.status_code, headers)


def info_refs(request: Request) -> Response:
    """The refs of a repo, before a fetch or a push."""
    service = request.query_params.get("service")
    if service == PUSH:
        pushed_to = _pushable(request)[0]

        def work() -> Response:
            find_again(request, pushed_to)
            _pushable(request)
            refs = [(name, oid) for name, oid in _refs(request, pushed_to) if _PUSHED.fullmatch(name)]
            return Response(
                advertisement(PUSH, refs), media_type=f"application/x-{PUSH}-advertisement", headers=NEVER_CACHED
            )

        return RefsResponse(work, caller=_caller(request))
    repo = find_readable_repo(request)
    if service != FETCH:
        raise HTTPException(400, "This Hub speaks git's smart protocol only: use git 1.6.6 or newer.")
    protocol = request.headers.get("git-protocol", "")
    prefix = b"" if protocol == "version=2" else packet(f"# service={FETCH}\n") + FLUSH
    git = request.hub.store.git(repo)
    return _fetch(request, repo, ["--advertise-refs"], "advertisement", prefix, check=git.check_for_git)


def _refs(request: Request, repo: Repo) -> list[tuple[str, str]]:
    path = request.hub.store.path(repo)
    names, packed = list(references.names(path)), references.packed(path)
    return [(name, oid) for name in names if (oid := references.read(path, name, known=packed))]


def _fetch(
    request: Request, repo: Repo, words: list[str], kind: str, prefix: bytes = b"",
    check: Callable[[], object] | None = None,
) -> Response:  # fmt: skip
    given = (request.spooled.file if request.spooled else Path(os.devnull)).open("rb")

    def checked() -> None:
        require_read(request, find_again(request, repo))
        if check:
            check()

    return FetchResponse(
        request.hub.store.path(repo), repo.id, words, given, caller=_caller(request), prefix=prefix, check=checked,
        media_type=f"application/x-{FETCH}-{kind}", protocol=request.headers.get("git-protocol", ""),
    )  # fmt: skip


def _caller(request: Request) -> str:
    """Whose turn it is: an account, or for callers without a token an address."""
    if request.actor:
        return f"account {request.actor.name}"
    address = request.client.host if request.client else ""
    if request.scope.get("public"):  # through the proxy, which says for whom it asks
        address = request.headers.get("x-forwarded-for", address).rpartition(",")[2].strip()[:100]
    return f"{STRANGER}{address}"


def check_fetch(request: Request) -> None:
    """Refuse a fetch before its body is read."""
    find_readable_repo(request)
    _require_type(request, f"application/x-{FETCH}-request")


def upload_pack(request: Request) -> Response:
    """The objects that a client asks for."""
    return _fetch(request, find_readable_repo(request), [], "result")


def _require_type(request: Request, media_type: str) -> None:
    if request.headers.get("content-type") != media_type:
        raise HTTPException(415, f"The body must be {media_type}.", headers={"Connection": "close"})


def _pushable(request: Request) -> tuple[Repo, Actor]:
    """The repo that the path names, and the caller, if it may push to anything there."""
    repo, permissions = find_repo(request), request.hub.permissions
    actor = require_user(request)
    require_read(request, repo)
    if not permissions.may_write(actor, repo) and not permissions.may_propose(actor, repo):
        raise forbidden(actor, repo.namespace)
    return repo, actor


def check_push(request: Request) -> None:
    """Refuse a push before its body is read."""
    _pushable(request)
    _require_type(request, f"application/x-{PUSH}-request")


def receive_pack(request: Request) -> Response:
    """Take a push: all of its refs move, or none does."""
    repo, actor = _pushable(request)
    assert request.spooled is not None
    file, hub = request.spooled.file.open("rb"), request.hub
    receiver = Receiver(hub, repo, actor, LARGE_BYTES, COMMIT_LIMIT)

    def work() -> Response:
        try:
            asked = read_push(file)
        except ProtocolError as error:
            raise HTTPException(400, f"This is not a push: {error}.") from None
        if not asked.commands:  # git asks so whether its credentials are right
            return _pushed(b"")
        try:
            outcome = receiver.receive(asked, file)
        except GitMissingError:
            raise git_missing() from None
        except (DamagedError, OSError, pygit2.GitError, sqlite3.Error, GitFailedError) as error:
            outcome = _failed(repo, asked, error, free=shutil.disk_usage(hub.folder.root).free)
        for move in outcome.moved:
            hub.spaces.changed(repo, move.ref)
            hub.events.content(repo, move.ref, move.old, move.new, request.origin)
        return _pushed(report(asked, outcome.unpacked, outcome.refused, outcome.messages))

    return PushResponse(work, file, caller=_caller(request))


def _failed(repo: Repo, asked: PushRequest, error: Exception, *, free: int) -> Outcome:
    """What a user is told when the Hub itself could not take a push; the log says why."""
    log.error("a push to %s failed: %s", repo.web, error)
    words = str(repo_damaged(repo.id).detail)
    # On a full disk git has no room for its words, and SQLite and libgit2 have words of their own.
    full = free < _ROOM and not isinstance(error, DamagedError)
    if full or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        words = "The disk of the Hub is full. Nothing was changed."
    elif not isinstance(error, DamagedError):
        words = "The Hub could not store the push; see its log. Nothing was changed."
    refused = {command.ref: "the Hub failed, see above" for command in asked.commands}
    return Outcome(refused=refused, unpacked="failed", messages=[words])


def _pushed(content: bytes) -> Response:
    return Response(content, media_type=f"application/x-{PUSH}-result", headers=NEVER_CACHED)


ROUTES = [
    route
    for end in (".git", "")
    for route in (
        *repo_routes("GET", f"{end}/info/refs", info_refs),
        *repo_routes(
            "POST", f"{end}/git-upload-pack", upload_pack, "file", anonymous=True, limit=FETCH_LIMIT,
            before=check_fetch, gzip=True,
        ),
        *repo_routes(
            "POST", f"{end}/git-receive-pack", receive_pack, "file", limit=COMMIT_LIMIT, before=check_push, gzip=True
        ),
    )
]  # fmt: skip
