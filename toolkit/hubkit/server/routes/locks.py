"""Locks of large files over HTTP: what `git lfs lock`, `locks` and `unlock` use, and each push of git-lfs."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.core.names import path_problem
from hubkit.server.http.access import find_readable_repo, find_repo, require_propose, require_write
from hubkit.server.http.bodies import SMALL_LIMIT
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import parse_int, require_valid
from hubkit.server.http.request import Request
from hubkit.server.http.routing import repo_routes
from hubkit.server.repos.lfs import MEDIA
from hubkit.server.repos.locks import LockedError

_PAGE = 1000


def show(request: Request) -> Response:
    """The locks of a repo: ``path`` and ``id`` choose, ``cursor`` and ``limit`` page through them."""
    repo, query = find_readable_repo(request), request.query_params
    if key := query.get("id"):
        lock = request.hub.locks.find(repo, key)
        return _json({"locks": [lock] if lock else []})
    found, cursor = _page(request, query.get("cursor"), query.get("limit"), query.get("path"))
    return _json({"locks": found} | cursor)


def verify(request: Request) -> Response:
    """The locks of the caller and those of others, which git-lfs asks for before each push."""
    actor = require_propose(request, find_repo(request))
    body = request.json_object()
    found, cursor = _page(request, _text(body.get("cursor")), _text(body.get("limit")), None)
    own = [lock for lock in found if lock["owner"]["name"] == actor.name]
    return _json({"ours": own, "theirs": [lock for lock in found if lock not in own]} | cursor)


def _text(value: Any) -> str | None:
    return str(value) if value else None


def _page(
    request: Request, cursor: str | None, limit: str | None, path: str | None
) -> tuple[list[Any], dict[str, str]]:
    start, most = parse_int(cursor, 0), parse_int(limit, _PAGE, least=1, most=_PAGE)
    found = request.hub.locks.listed(find_repo(request), start=start, most=most + 1, path=path)
    return found[:most], {"next_cursor": str(start + most)} if len(found) > most else {}


def create(request: Request) -> Response:
    """``{path}``: lock a file; 409 when it is locked."""
    repo = find_repo(request)
    actor = require_write(request, repo)
    path = require_valid(path_problem, request.json_string("path"))
    try:
        return _json({"lock": request.hub.locks.add(repo, path, actor.name)}, 201)
    except LockedError as error:
        owner = error.lock["owner"]["name"]
        return _json({"lock": error.lock, "message": f"{path} is locked by {owner}."}, 409)


def unlock(request: Request) -> Response:
    """``{force?}``: remove a lock; one of somebody else with ``force`` only."""
    repo = find_repo(request)
    actor = require_write(request, repo)
    lock = request.hub.locks.find(repo, request.path_params["lock"])
    if lock is None:
        raise HTTPException(404, "There is no such lock.")
    if lock["owner"]["name"] != actor.name and request.json_object().get("force") is not True:
        raise HTTPException(403, f"{lock['path']} is locked by {lock['owner']['name']}; use --force to unlock it.")
    request.hub.locks.remove(lock["id"])
    return _json({"lock": lock})


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(value, status, media_type=MEDIA)


LOCKS = ".git/info/lfs/locks"
ROUTES = [
    *repo_routes("GET", LOCKS, show),
    *repo_routes("POST", LOCKS, create, "json", limit=SMALL_LIMIT),
    *repo_routes("POST", f"{LOCKS}/verify", verify, "json", limit=SMALL_LIMIT),
    *repo_routes("POST", f"{LOCKS}/{{lock}}/unlock", unlock, "json", limit=SMALL_LIMIT),
]
