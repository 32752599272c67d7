"""Discussions and pull requests over HTTP."""

from __future__ import annotations

import sqlite3
from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.server.discussions import shown
from hubkit.server.git import Git, MovedError
from hubkit.server.grants import DISCUSS
from hubkit.server.http import Call, Refusal, whole
from hubkit.server.routes.common import api, find_repo, forbidden, need_files, need_user, need_write, repo_type
from hubkit.server.routes.refs import stale
from hubkit.server.store import Repo

_PAGE = 50


def _need(call: Call) -> tuple[Repo, sqlite3.Row]:
    repo = find_repo(call)
    need_files(call, repo)
    row = call.hub.discussions.row(repo, whole(call.params["num"], 0))
    if row is None:
        raise Refusal(404, "This discussion does not exist.")
    return repo, row


def _need_voice(call: Call) -> str:
    need_user(call)
    assert call.actor is not None
    params = call.params
    repo = repo_type(params["kind"]), f"{params['ns']}/{params['name']}"
    if not call.actor.holds(DISCUSS, params["ns"], repo):
        raise forbidden(call, params["ns"])
    return call.actor.name


def _need_author(call: Call, repo: Repo, author: str) -> str:
    name = _need_voice(call)
    if name != author:
        need_write(call, repo)
    return name


def listing(call: Call) -> Response:
    """Discussions, newest first; ``type``, ``status`` and ``author`` narrow the list."""
    repo = find_repo(call)
    need_files(call, repo)
    kind, status, author = (call.query.get(key, "") for key in ("type", "status", "author"))
    rows = [
        row
        for row in call.hub.discussions.listed(repo)
        if (kind in {"", "all"} or (kind == "pull_request") == bool(row["pull"]))
        and (status in {"", "all"} or (row["status"] in {"open", "draft"}) == (status == "open"))
        and (not author or row["author"] == author)
    ]
    start = whole(call.query.get("p"), 0, most=10**6) * _PAGE
    page = [shown(repo, row) for row in rows[start : start + _PAGE]]
    return JSONResponse({"count": len(rows), "start": start, "discussions": page, "numClosedDiscussions": 0})


def details(call: Call) -> Response:
    """One discussion with its events; a pull request with its difference from the base."""
    repo, row = _need(call)
    number = row["num"]
    value = shown(repo, row) | {"events": call.hub.discussions.events(repo, number)}
    if row["pull"]:
        git = call.hub.store.git(repo)
        value |= {"changes": {"base": row["base"], "mergeCommitId": row["merged"]}, "filesWithConflicts": []}
        base, head = git.target(row["base"]), git.target(f"refs/pr/{number}")
        if base and head:
            fork = git.common(base, head)
            if row["merged"] is None:
                value["filesWithConflicts"] = git.conflicts(base, head)
            if call.flag("diff"):
                value["diff"] = git.diff(fork or base, head)
    return JSONResponse(value)


def create(call: Call) -> Response:
    """A new discussion, or a draft pull request at the head of ``main``."""
    repo = find_repo(call)
    need_files(call, repo)
    author = _need_voice(call)
    pull = call.fields().get("pullRequest") is True
    git = call.hub.store.git(repo)
    with call.hub.store.lock(repo):
        head = git.target("refs/heads/main")
        number = call.hub.discussions.open(
            repo, call.text("title"), call.text("description", ""), author,
            pull=pull, base="refs/heads/main" if pull else None, status="draft" if pull else "open",
        )  # fmt: skip
        if pull and head:
            git.move(f"refs/pr/{number}", head, None)
    return JSONResponse({"num": number, "url": f"{call.base}/{repo.web}/discussions/{number}", "pullRequest": pull})


def comment(call: Call) -> Response:
    """Say something."""
    repo, row = _need(call)
    event = call.hub.discussions.add_comment(repo, row["num"], _need_voice(call), call.text("comment"))
    return JSONResponse({"newMessage": event})


def _comment_author(call: Call, repo: Repo, number: int) -> str:
    for event in call.hub.discussions.events(repo, number):
        if event["id"] == call.params["event"]:
            return str(event["author"]["name"])
    raise Refusal(404, "This comment does not exist.")


def _changed(event: dict[str, Any] | None) -> Response:
    if event is None:
        raise Refusal(404, "This comment does not exist.")
    return JSONResponse({"updatedComment": event})


def edit(call: Call) -> Response:
    """Change one's comment."""
    repo, row = _need(call)
    _need_author(call, repo, _comment_author(call, repo, row["num"]))
    discussions, text = call.hub.discussions, call.text("content")
    return _changed(discussions.edit_comment(repo, row["num"], call.params["event"], text=text))


def hide(call: Call) -> Response:
    """Hide a comment for good."""
    repo, row = _need(call)
    _need_author(call, repo, _comment_author(call, repo, row["num"]))
    return _changed(call.hub.discussions.edit_comment(repo, row["num"], call.params["event"], hide=True))


def title(call: Call) -> Response:
    """Rename a discussion."""
    repo, row = _need(call)
    name = _need_author(call, repo, row["author"])
    new = call.text("title")
    call.hub.discussions.change(repo, row["num"], title=new)
    event = call.hub.discussions.add_event(repo, row["num"], "title-change", name, {"from": row["title"], "to": new})
    return JSONResponse({"newTitle": event})


def status(call: Call) -> Response:
    """Open or close a discussion."""
    repo, row = _need(call)
    name = _need_author(call, repo, row["author"])
    new = call.text("status")
    with call.hub.store.lock(repo):
        row = call.hub.discussions.row(repo, row["num"]) or row
        if new not in {"open", "closed"} or row["status"] == "merged":
            raise Refusal(400, "A discussion can be 'open' or 'closed'; a merged one stays merged.")
        if said := call.fields().get("comment"):
            call.hub.discussions.add_comment(repo, row["num"], name, str(said))
        call.hub.discussions.change(repo, row["num"], status=new)
    event = call.hub.discussions.add_event(repo, row["num"], "status-change", name, {"status": new})
    return JSONResponse({"newStatus": event})


def merge(call: Call) -> Response:
    """Merge a pull request into its base, as one commit."""
    repo, row = _need(call)
    need_write(call, repo)
    assert call.actor is not None
    number, base = row["num"], row["base"]
    git = call.hub.store.git(repo)
    with call.hub.store.lock(repo):
        row = call.hub.discussions.row(repo, number) or row
        if not row["pull"] or row["status"] not in {"open", "draft"}:
            raise Refusal(400, "Only an open pull request can be merged.")
        merged = _merge(call, git, base, number, row["title"])
        call.hub.discussions.change(repo, number, status="merged", merged=merged)
        call.hub.discussions.add_event(repo, number, "status-change", call.actor.name, {"status": "merged"})
    call.hub.spaces.changed(repo, base)
    return JSONResponse({"commitOid": merged})


def _merge(call: Call, git: Git, base: str, number: int, subject: str) -> str:
    assert call.actor is not None
    ours, theirs = git.target(base), git.target(f"refs/pr/{number}")
    if ours is None or theirs is None:
        raise Refusal(409, "The branch of this pull request is gone.")
    tree = git.merged_tree(ours, theirs)
    if tree is None:
        raise Refusal(409, "The pull request conflicts with its base.")
    commit = git.write_commit(tree, [ours, theirs], f"{subject} (#{number})", call.actor.name)
    try:
        git.move(base, commit, ours)
    except MovedError:
        raise stale() from None
    return commit


SPECS = [
    api("GET", "/discussions", listing),
    api("POST", "/discussions", create, "json"),
    api("GET", "/discussions/{num}", details),
    api("POST", "/discussions/{num}/comment", comment, "json"),
    api("POST", "/discussions/{num}/comment/{event}/edit", edit, "json"),
    api("POST", "/discussions/{num}/comment/{event}/hide", hide, "json"),
    api("POST", "/discussions/{num}/title", title, "json"),
    api("POST", "/discussions/{num}/status", status, "json"),
    api("POST", "/discussions/{num}/merge", merge, "json"),
]
