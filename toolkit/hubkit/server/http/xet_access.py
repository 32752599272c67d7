"""Who sends a request to the Xet part of the Hub: the token is one of its own (:mod:`hubkit.server.xet.grants`)."""

from __future__ import annotations

from hubkit.server.accounts.accounts import Actor
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.request import Request
from hubkit.server.repos.store import Repo
from hubkit.server.xet.grants import Grant, Scope
from hubkit.server.xet.intake import Sender

_NO_TOKEN = "This address needs a token for Xet, or the one sent has expired."


def authenticate_xet(request: Request, *, cookie: bool) -> Actor | None:
    """The caller that a Xet token was issued to, None for one that was issued to nobody; 401 without one."""
    _, _, actor = _grant(request)
    return actor


def granted_repo(request: Request, scope: Scope) -> Repo:
    """The repo that the token is for; 403 when it may only be read and ``scope`` is to write."""
    repo, grant, _ = _grant(request)
    if scope == "write" and grant.scope != "write":
        raise HTTPException(403, "This token may only read.")
    return repo


def sender_of(request: Request) -> Sender:
    """The caller as somebody who uploads."""
    repo, hub = granted_repo(request, "write"), request.hub
    digest = request.actor.digest if request.actor else ""
    return Sender(hub.xet.owner(digest), repo.uid, lambda uid: may_read(request, uid))


def may_read(request: Request, uid: str) -> bool:
    """Whether the caller may read a repo, by its internal id."""
    repo = request.hub.store.by_uid(uid)
    return repo is not None and request.hub.permissions.may_read(request.actor, repo)


def token_headers(request: Request, repo: Repo, scope: Scope) -> dict[str, str]:
    """A new token for the caller, as the headers by which clients get it. What it allows, the route has checked."""
    xet, actor = request.hub.xet, request.actor
    token, expires = xet.grants.issue(scope, repo, actor)
    address = xet.index.address(actor.digest if actor else "-")
    return {
        "X-Xet-Cas-Url": f"{request.origin}/api/xet/{address}",
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
    }


def _grant(request: Request) -> tuple[Repo, Grant, Actor | None]:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    hub = request.hub
    grant = hub.xet.grants.read(token.strip()) if scheme.lower() == "bearer" else None
    repo = hub.store.by_uid(grant.repo) if grant else None
    actor = hub.accounts.numbered(grant.number) if grant and grant.number else None
    if grant and repo and (actor is not None or grant.number == 0) and hub.xet.grants.is_signed(grant, repo, actor):
        may = hub.permissions.may_propose if grant.scope == "write" else hub.permissions.may_read
        if may(actor, repo):
            return repo, grant, actor
    raise HTTPException(401, _NO_TOKEN)
