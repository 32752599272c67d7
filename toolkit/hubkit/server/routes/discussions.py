"""Discussions and pull requests over HTTP."""

from __future__ import annotations

import sqlite3
from typing import Any

import pygit2
from starlette.responses import JSONResponse, Response

from hubkit.server.accounts.accounts import Actor
from hubkit.server.http.access import find_readable_repo, locked, require_discuss, require_write
from hubkit.server.http.bodies import SMALL_LIMIT, TEXT_LIMIT
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import parse_int
from hubkit.server.http.request import Request
from hubkit.server.http.routing import api_route
from hubkit.server.repos import comparing
from hubkit.server.repos.discussions import summary
from hubkit.server.repos.git import Git
from hubkit.server.repos.store import Repo
from hubkit.server.storage.cache import BusyError

_PAGE = 50


def _find_discussion(request: Request) -> tuple[Repo, sqlite3.Row]:
    repo = find_readable_repo(request)
    row = request.hub.discussions.row(repo, parse_int(request.path_params["num"], 0))
    if row is None:
        raise HTTPException(404, "This discussion does not exist.")
    return repo, row


def _require_author(request: Request, repo: Repo, author: str, created: str) -> Actor:
    """The caller, if it is the author or may change the repo; else 401 or 403."""
    actor = require_discuss(request, repo)
    return actor if actor.wrote(author, created) else require_write(request, repo)


def listing(request: Request) -> Response:
    """Discussions, newest first; ``type``, ``status`` and ``author`` narrow the list."""
    repo = find_readable_repo(request)
    kind, status, author = (request.query_params.get(key, "") for key in ("type", "status", "author"))
    rows = [
        row
        for row in request.hub.discussions.listed(repo)
        if (kind in {"", "all"} or (kind == "pull_request") == bool(row["pull"]))
        and (status in {"", "all"} or (row["status"] in {"open", "draft"}) == (status == "open"))
        and (not author or row["author"] == author)
    ]
    start = parse_int(request.query_params.get("p"), 0, most=10**6) * _PAGE
    page = [summary(repo, row) for row in rows[start : start + _PAGE]]
    return JSONResponse({"count": len(rows), "start": start, "discussions": page, "numClosedDiscussions": 0})


def details(request: Request) -> Response:
    """One discussion with its events; a pull request with its difference from the base."""
    repo, row = _find_discussion(request)
    number = row["num"]
    value = summary(repo, row) | {"events": request.hub.discussions.events(repo, number)}
    if row["pull"]:
        git = request.hub.store.git(repo)
        value |= {"changes": {"base": row["base"], "mergeCommitId": row["merged"]}, "filesWithConflicts": []}
        base, head = git.target(row["base"]), git.target(f"refs/pr/{number}")
        if base and head:
            value |= _compared(request, git, base, head, merged=row["merged"] is not None)
    return JSONResponse(value)


def _compared(request: Request, git: Git, base: str, head: str, *, merged: bool) -> dict[str, Any]:
    """What the commits of a pull request and of its base make together; 503 when too many ask at once."""
    value: dict[str, Any] = {}
    try:
        if not merged:
            value["filesWithConflicts"] = comparing.conflicts(git, base, head)
        if request.flag("diff"):
            value["diff"] = comparing.diff(git, git.merge_base(base, head) or base, head)
    except BusyError:
        message = "Too many pull requests are being compared; try again."
        raise HTTPException(503, message, headers={"Retry-After": "2"}) from None
    return value


def create(request: Request) -> Response:
    """A new discussion, or a draft pull request at the head of ``main``."""
    repo = find_readable_repo(request)
    author = require_discuss(request, repo).name
    title, text = request.json_string("title"), request.json_string("description", "")
    pull = request.json_object().get("pullRequest") is True
    with locked(request, repo, require_discuss):
        if pull:
            git, base = request.hub.store.git(repo), "refs/heads/main"
            head = git.target(base)
            if head is None:
                raise HTTPException(409, "This repo has no branch main.")
            number = request.hub.pulls.open(git, repo, head, author, title=title, text=text, base=base, status="draft")
        else:
            number = request.hub.discussions.open(repo, title, text, author)
    request.hub.events.discussion(repo, number, "create", request.origin)
    return JSONResponse(
        {"num": number, "url": f"{request.origin}/{repo.web}/discussions/{number}", "pullRequest": pull}
    )


def comment(request: Request) -> Response:
    """Add a comment."""
    repo, row = _find_discussion(request)
    event = request.hub.discussions.add_comment(
        repo, row["num"], require_discuss(request, repo).name, request.json_string("comment")
    )
    request.hub.events.discussion(repo, row["num"], "create", request.origin, comment=event)
    return JSONResponse({"newMessage": event})


def _comment_author(request: Request, repo: Repo, number: int) -> tuple[str, str]:
    """Who wrote the comment, and when."""
    for event in request.hub.discussions.events(repo, number):
        if event["id"] == request.path_params["event"]:
            return str(event["author"]["name"]), str(event["createdAt"])
    raise HTTPException(404, "This comment does not exist.")


def _updated(request: Request, repo: Repo, number: int, event: dict[str, Any] | None) -> Response:
    if event is None:
        raise HTTPException(404, "This comment does not exist.")
    request.hub.events.discussion(repo, number, "update", request.origin, comment=event)
    return JSONResponse({"updatedComment": event})


def edit(request: Request) -> Response:
    """Change one's comment."""
    repo, row = _find_discussion(request)
    actor = _require_author(request, repo, *_comment_author(request, repo, row["num"]))
    discussions, text = request.hub.discussions, request.json_string("content")
    event = discussions.edit_comment(repo, row["num"], request.path_params["event"], by=actor.name, text=text)
    return _updated(request, repo, row["num"], event)


def hide(request: Request) -> Response:
    """Hide a comment for good: nobody can read its words again."""
    repo, row = _find_discussion(request)
    actor = _require_author(request, repo, *_comment_author(request, repo, row["num"]))
    event = request.hub.discussions.edit_comment(repo, row["num"], request.path_params["event"], by=actor.name)
    return _updated(request, repo, row["num"], event)


def title(request: Request) -> Response:
    """Rename a discussion."""
    repo, row = _find_discussion(request)
    actor = _require_author(request, repo, row["author"], row["created"])
    new = request.json_string("title")
    with request.hub.database.transaction():
        request.hub.discussions.change(repo, row["num"], title=new)
        event = request.hub.discussions.add_event(
            repo, row["num"], "title-change", actor.name, {"from": row["title"], "to": new}
        )
    request.hub.events.discussion(repo, row["num"], "update", request.origin)
    return JSONResponse({"newTitle": event})


def status(request: Request) -> Response:
    """Open or close a discussion."""
    repo, row = _find_discussion(request)
    actor = _require_author(request, repo, row["author"], row["created"])
    new = request.json_string("status")
    with request.hub.store.lock(repo), request.hub.database.transaction():
        row = request.hub.discussions.row(repo, row["num"]) or row
        if new not in {"open", "closed"} or row["status"] == "merged":
            raise HTTPException(400, "A discussion can be 'open' or 'closed'; a merged one stays merged.")
        if text := request.json_object().get("comment"):
            request.hub.discussions.add_comment(repo, row["num"], actor.name, str(text))
        event = request.hub.discussions.set_status(repo, row["num"], new, actor.name)
    request.hub.events.discussion(repo, row["num"], "update", request.origin)
    return JSONResponse({"newStatus": event})


def merge(request: Request) -> Response:
    """Merge a pull request into its base, as one commit."""
    repo, row = _find_discussion(request)
    actor = require_write(request, repo)
    number, base = row["num"], row["base"]
    with locked(request, repo, require_write), request.hub.store.writing(repo) as git:
        row = request.hub.discussions.row(repo, number) or row
        if not row["pull"] or row["status"] not in {"open", "draft"}:
            raise HTTPException(400, "Only an open pull request can be merged.")
        ours, merged = _merge(git, base, number, row["title"], actor.name)
        request.hub.pulls.merge(git, repo, number, base, merged, ours, actor.name)
        if text := (request.json_body or {}).get("comment"):
            request.hub.discussions.add_comment(repo, number, actor.name, str(text))
    request.hub.spaces.changed(repo, base)
    request.hub.events.content(repo, base, ours, merged, request.origin)
    request.hub.events.discussion(repo, number, "update", request.origin)
    return JSONResponse({"commitOid": merged})


def _merge(git: Git, base: str, number: int, subject: str, author: str) -> tuple[str, str]:
    """The commit of the base, and a new one that merges a pull request into it."""
    ours, theirs = git.target(base), git.target(f"refs/pr/{number}")
    if ours is None or theirs is None:
        raise HTTPException(409, "The branch of this pull request does not exist.")
    try:
        tree = comparing.merged_tree(git, ours, theirs)
    except comparing.TooLargeError:
        raise HTTPException(409, "The pull request takes too long to merge here; merge it with git.") from None
    if tree is None:
        raise HTTPException(409, "The pull request conflicts with its base.")
    return ours, git.write_commit(pygit2.Oid(hex=tree), [ours, theirs], f"{subject} (#{number})", author)


ROUTES = [
    api_route("GET", "/discussions", listing),
    api_route("POST", "/discussions", create, "json", limit=TEXT_LIMIT),
    api_route("GET", "/discussions/{num}", details),
    api_route("POST", "/discussions/{num}/comment", comment, "json", limit=TEXT_LIMIT),
    api_route("POST", "/discussions/{num}/comment/{event}/edit", edit, "json", limit=TEXT_LIMIT),
    api_route("POST", "/discussions/{num}/comment/{event}/hide", hide, "json", limit=SMALL_LIMIT),
    api_route("POST", "/discussions/{num}/title", title, "json", limit=SMALL_LIMIT),
    api_route("POST", "/discussions/{num}/status", status, "json", limit=TEXT_LIMIT),
    api_route("POST", "/discussions/{num}/merge", merge, "json", limit=SMALL_LIMIT),
]
