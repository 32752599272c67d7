"""Gated repos: ask for access, and let in or turn away who asked."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.server.accounts.gates import STATUSES, AccessRequest, Status
from hubkit.server.http.access import find_repo, forbidden, require_manage, require_person
from hubkit.server.http.bodies import SMALL_LIMIT
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import parse_int
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Route, api_route, repo_routes
from hubkit.server.repos.store import Repo

_REASON_LIMIT = 1000


def ask(request: Request) -> Response:
    """Ask for access: granted at once when the repo is gated ``auto``. What else is in the body is kept as fields."""
    repo = _gated(request, find_repo(request))
    actor = require_person(request)
    if actor.role != "write" or actor.fine_grained is not None:
        raise forbidden(actor, repo.namespace)
    given = request.json_body if isinstance(request.json_body, dict) else dict(request.form_data)
    fields = {str(key): str(value) for key, value in given.items()}
    asked = request.hub.gates.ask(repo.uid, actor.account, "accepted" if repo.gated == "auto" else "pending", fields)
    return JSONResponse({"status": asked.status, "requestId": asked.id})


def listing(request: Request) -> Response:
    """The requests of one status, the latest first."""
    repo = find_repo(request)
    require_manage(request, repo)
    _gated(request, repo)
    status = _status(request.path_params["status"])
    start, count = parse_int(request.query_params.get("cursor"), 0), request.page_size(100, 1000)
    requests = request.hub.gates.listed(repo.uid, status)
    more = start + count < len(requests)
    page = [_shown(item) for item in requests[start : start + count]]
    return JSONResponse(page, headers=request.next_page(cursor=str(start + count)) if more else None)


def handle(request: Request) -> Response:
    """``{user|requestId, status, rejectionReason?}``: accept or reject a request, or make it pending again."""
    repo = find_repo(request)
    require_manage(request, repo)
    _gated(request, repo)
    status = _status(request.json_string("status"))
    reason = request.json_object().get("rejectionReason")
    if reason is not None and (not isinstance(reason, str) or len(reason) > _REASON_LIMIT):
        raise HTTPException(400, f"'rejectionReason' must be a string of at most {_REASON_LIMIT} characters.")
    found = _find(request, repo)
    if found.status == status:
        raise HTTPException(404, f"This request is {status} already.")
    request.hub.gates.set(repo.uid, found, status, reason if status == "rejected" else None)
    return JSONResponse({})


def grant(request: Request) -> Response:
    """``{user}``: give a user access without a request."""
    repo = find_repo(request)
    require_manage(request, repo)
    _gated(request, repo)
    name = request.json_string("user")
    account = request.hub.accounts.find(name)
    if account is None or account.kind != "user":
        raise HTTPException(404, f"User {name[:100]} does not exist.")
    if request.hub.gates.open_to(repo.uid, account):
        raise HTTPException(400, f"{account.name} has access to this repo already.")
    asked = request.hub.gates.ask(repo.uid, account, "accepted", None)
    if asked.status != "accepted":
        request.hub.gates.set(repo.uid, asked, "accepted")
    return JSONResponse({})


def _gated(request: Request, repo: Repo) -> Repo:
    if not repo.gated:
        raise HTTPException(400, f"{repo.id} is not gated: nobody has to ask for access.")
    return repo


def _status(text: str) -> Status:
    for status in STATUSES:
        if status == text:
            return status
    raise HTTPException(400, f"{text[:100]!r} is not a status: {', '.join(STATUSES)}.")


def _find(request: Request, repo: Repo) -> AccessRequest:
    """The request that the body names, by its id or by the user who made it."""
    body = request.json_object()
    key = "requestId" if body.get("requestId") is not None else "user"
    value = request.json_string(key)
    for item in request.hub.gates.listed(repo.uid):
        if value == item.id if key == "requestId" else value.lower() == item.account.name.lower():
            return item
    raise HTTPException(404, "There is no such access request.")


def _shown(item: AccessRequest) -> dict[str, Any]:
    user = {"user": item.account.name, "fullname": item.account.fullname, "avatarUrl": "", "email": None}
    return {
        "requestId": item.id, "user": user, "status": item.status, "timestamp": item.created, "fields": item.fields,
        "rejectionReason": item.reason,
    }  # fmt: skip


ROUTES: list[Route] = [
    *repo_routes("POST", "/ask-access", ask, "form", limit=SMALL_LIMIT),
    api_route("GET", "/user-access-request/{status}", listing),
    api_route("POST", "/user-access-request/handle", handle, "json", limit=SMALL_LIMIT),
    api_route("POST", "/user-access-request/grant", grant, "json", limit=SMALL_LIMIT),
]
