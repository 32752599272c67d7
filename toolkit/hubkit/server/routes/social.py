"""Likes, and the pages of users and organizations as the API shows them."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.server.accounts.accounts import Account
from hubkit.server.http.access import find_readable_repo, find_repo, repo_not_found, require_discuss
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import parse_int
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Route, api_route

_KINDS = ("model", "dataset", "space")


def like(request: Request) -> Response:
    """Like a repo, once."""
    repo = find_repo(request)
    actor = require_discuss(request, repo)
    request.hub.likes.add(repo, actor.account)
    return JSONResponse({})


def unlike(request: Request) -> Response:
    """Take the like back, if there is one."""
    repo = find_repo(request)
    actor = require_discuss(request, repo)
    request.hub.likes.remove(repo, actor.account)
    return JSONResponse({})


def likers(request: Request) -> Response:
    """The users who like a repo."""
    return _page(request, [_user(account) for account in request.hub.likes.likers(find_readable_repo(request))])


def likes(request: Request) -> Response:
    """The repos that a user likes, as far as the caller may know of them."""
    may_see = request.hub.permissions.may_see
    return _page(
        request,
        [
            {"createdAt": when, "repo": {"name": repo.id, "type": repo.type}}
            for repo, when in request.hub.likes.liked(_account(request, "user"))
            if may_see(request.actor, repo)
        ],
    )


def user_overview(request: Request) -> Response:
    """The public profile of a user."""
    account = _account(request, "user")
    orgs = [_named(org) for org, _ in request.hub.accounts.orgs_of(account)]
    value = {"user": account.name, "isPro": False, "isFollowing": False, "numUpvotes": 0, "orgs": orgs}
    return JSONResponse(_named(account) | value | _counts(request, account))


def org_overview(request: Request) -> Response:
    """The public profile of an organization."""
    account = _account(request, "org")
    value = {"numUsers": len(request.hub.accounts.members(account.name)), "isVerified": False, "details": ""}
    return JSONResponse(_named(account) | value | _counts(request, account))


def members(request: Request) -> Response:
    """The members of an organization."""
    account = _account(request, "org")
    return _page(request, [_user(member) for member, _ in request.hub.accounts.members(account.name)])


def nobody(request: Request) -> Response:
    """Followers: this Hub has none."""
    _account(request, str(request.path_params["which"]))
    return JSONResponse([])


def missing_repo(request: Request) -> Response:
    """404: a repo without a namespace, of which this Hub has none."""
    raise repo_not_found(request)


def _account(request: Request, kind: str) -> Account:
    account = request.hub.accounts.find(request.path_params["account"])
    if account is None or account.kind != kind:
        raise HTTPException(404, "This user or organization does not exist.")
    return account


def _named(account: Account) -> dict[str, Any]:
    return {
        "_id": account.id, "name": account.name, "fullname": account.fullname, "type": account.kind, "avatarUrl": "",
        "createdAt": account.created,
    }  # fmt: skip


def _user(account: Account) -> dict[str, Any]:
    return {"_id": account.id, "user": account.name, "fullname": account.fullname, "avatarUrl": "", "type": "user"}


def _counts(request: Request, account: Account) -> dict[str, int]:
    """How many repos of the account the caller may know of, and nothing about others."""
    hub = request.hub
    counts = {
        f"num{kind.capitalize()}s": sum(
            repo.namespace == account.name and hub.permissions.may_see(request.actor, repo)
            for repo in hub.store.all(kind)
        )
        for kind in _KINDS
    }
    liked = sum(hub.permissions.may_see(request.actor, repo) for repo, _ in hub.likes.liked(account))
    zeros = dict.fromkeys(("numDiscussions", "numPapers", "numFollowers", "numFollowing"), 0)
    return counts | {"numLikes": liked} | zeros


def _page(request: Request, items: list[dict[str, Any]]) -> Response:
    """One page of a list, with the address of the next."""
    start, count = parse_int(request.query_params.get("cursor"), 0), request.page_size(500, 1000)
    more = start + count < len(items)
    headers = request.next_page(cursor=str(start + count)) if more else None
    return JSONResponse(items[start : start + count], headers=headers)


def _profile(tail: str, kind: str) -> Route:
    plural = "users" if kind == "user" else "organizations"
    return Route("GET", f"/api/{plural}/{{account}}/{tail}", nobody, path_params={"which": kind})


ROUTES = [
    Route("GET", "/api/users/{account}/overview", user_overview),
    Route("GET", "/api/organizations/{account}/overview", org_overview),
    Route("GET", "/api/users/{account}/likes", likes),
    Route("GET", "/api/organizations/{account}/members", members),
    _profile("followers", "user"),
    _profile("following", "user"),
    _profile("followers", "org"),
    api_route("POST", "/like", like),
    api_route("DELETE", "/like", unlike),
    api_route("GET", "/likers", likers),
    Route("DELETE", "/api/{kind:kind}/{name}/like", missing_repo),
]
