"""Branches, tags, commits, squashing."""

from __future__ import annotations

import html
import time
from itertools import islice
from typing import Any

import pygit2
from starlette.responses import JSONResponse, Response

from hubkit.core.names import ref_problem
from hubkit.server.http.access import find_readable_repo, find_repo, locked, require_write
from hubkit.server.http.bodies import SMALL_LIMIT, TEXT_LIMIT
from hubkit.server.http.exceptions import HTTPException, revision_not_found
from hubkit.server.http.parsing import parse_int, require_valid
from hubkit.server.http.request import Request
from hubkit.server.http.revisions import creating, move_ref, require_branch, require_commit, valid_message
from hubkit.server.http.routing import api_route
from hubkit.server.repos.git import Commit, Git, split_message
from hubkit.server.repos.history import Lengths
from hubkit.server.repos.objects import DamagedError
from hubkit.server.storage.database import stamp

_LENGTHS, _COUNT_SECONDS = Lengths(), 2.0


def refs(request: Request) -> Response:
    """Every branch and tag; pull requests when asked for."""
    repo = find_readable_repo(request)
    kinds: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": []}
    if request.flag("include_prs"):
        kinds["pullRequests"] = []
    for ref, commit in sorted(request.hub.store.git(repo).refs()):
        _, family, short = ref.split("/", 2)
        where = {"heads": "branches", "convert": "converts", "tags": "tags", "pr": "pullRequests"}[family]
        if where in kinds:
            name = ref if family in {"convert", "pr"} else short
            kinds[where].append({"name": name, "ref": ref, "targetCommit": commit})
    return JSONResponse(kinds)


def create_branch(request: Request) -> Response:
    """A branch at ``startingPoint``, or at ``main``."""
    repo = find_repo(request)
    actor = require_write(request, repo)
    branch = require_valid(ref_problem, request.path_params["branch"])
    start = request.json_string("startingPoint", "main") if request.json_body is not None else "main"
    ref = f"refs/heads/{branch}"
    with locked(request, repo, require_write), request.hub.store.writing(repo) as git, creating(ref):
        if git.target(ref):
            raise HTTPException(409, f"Reference {ref} already exists")
        commit = require_commit(git, start)
        if request.json_body and request.json_body.get("emptyBranch"):
            tree = git.write_tree(None, [])
            commit = git.write_commit(tree, [], "initial commit", actor.name)
        git.move(ref, commit, None)
    request.hub.events.content(repo, ref, None, commit, request.origin)
    return JSONResponse({})


def delete_branch(request: Request) -> Response:
    """Remove a branch; ``main`` stays."""
    repo = find_repo(request)
    require_write(request, repo)
    branch = request.path_params["branch"]
    if branch == "main":
        raise HTTPException(403, "Cannot delete refs/heads/main")
    git = request.hub.store.git(repo)
    with locked(request, repo, require_write):
        old = None if ref_problem(branch) else git.target(f"refs/heads/{branch}")
        if old is None:
            raise revision_not_found(branch)
        git.delete_ref(f"refs/heads/{branch}")
    request.hub.events.content(repo, f"refs/heads/{branch}", old, None, request.origin)
    return JSONResponse({})


def create_tag(request: Request) -> Response:
    """A tag at a revision; with a message an annotated one."""
    repo = find_repo(request)
    actor = require_write(request, repo)
    commit = require_commit(request.hub.store.git(repo), request.path_params["rev"])
    tag = require_valid(ref_problem, request.json_string("tag"))
    message = valid_message(_message(request))
    with locked(request, repo, require_write), request.hub.store.writing(repo) as git, creating(f"refs/tags/{tag}"):
        if git.target(f"refs/tags/{tag}"):
            raise HTTPException(409, f"Tag reference refs/tags/{tag} already exists")
        git.tag(tag, commit, message, actor.name)
    request.hub.events.content(repo, f"refs/tags/{tag}", None, commit, request.origin)
    return JSONResponse({})


def delete_tag(request: Request) -> Response:
    """Remove a tag."""
    repo = find_repo(request)
    require_write(request, repo)
    tag = request.path_params["tag"]
    git = request.hub.store.git(repo)
    with locked(request, repo, require_write):
        old = None if ref_problem(tag) else git.target(f"refs/tags/{tag}")
        if old is None:
            raise revision_not_found(tag)
        git.delete_ref(f"refs/tags/{tag}")
    request.hub.events.content(repo, f"refs/tags/{tag}", old, None, request.origin)
    return JSONResponse({})


def commits(request: Request) -> Response:
    """The history of a revision, newest first."""
    repo = find_readable_repo(request)
    git = request.hub.store.git(repo)
    commit = require_commit(git, request.path_params["rev"])
    page, count = parse_int(request.query_params.get("p"), 0, most=10**6), request.page_size(50, 1000)
    history = list(islice(git.history(commit), page * count, (page + 1) * count + 1))
    formatted = "formatted" in request.expand()
    items = [_commit_item(item, formatted) for item in history[:count]]
    headers = request.next_page(p=str(page + 1)) if len(history) > count else {}
    # This is how @huggingface/hub counts; a list need not wait for a walk to the first commit.
    if count == 1 and (total := _length(git, commit)) is not None:
        headers["X-Total-Count"] = str(total)
    return JSONResponse(items, headers=headers)


def _length(git: Git, commit: str) -> int | None:
    """How many commits a list of all would have; None when one is damaged, or the walk takes long."""
    until = time.monotonic() + _COUNT_SECONDS
    try:
        return _LENGTHS.of(git, commit, lambda: time.monotonic() > until)
    except DamagedError:
        return None


def _commit_item(item: Commit, formatted: bool) -> dict[str, Any]:
    title, rest = split_message(item.message)
    value: dict[str, Any] = {
        "id": item.id, "title": title, "message": rest, "authors": [{"user": item.author, "avatar": ""}],
        "date": stamp(item.time),
    }  # fmt: skip
    if formatted:
        value["formatted"] = {"title": _escaped(title), "message": _escaped(rest)}
    return value


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def super_squash(request: Request) -> Response:
    """Replace the history of a branch by one commit with the same files."""
    repo = find_repo(request)
    actor = require_write(request, repo)
    branch = request.path_params["rev"]
    message = _message(request) if request.json_body is not None else ""
    message = valid_message(message or f"Super-squash branch '{branch}'")
    with locked(request, repo, require_write), request.hub.store.writing(repo) as git:
        ref, old = require_branch(git, branch)
        new = git.write_commit(pygit2.Oid(hex=git.commit(old).tree), [], message, actor.name)
        move_ref(git, ref, new, old)
    request.hub.spaces.changed(repo, ref)
    request.hub.events.content(repo, ref, old, new, request.origin)
    return JSONResponse({"commitOid": new})


def _message(request: Request) -> str:
    """The ``message`` of the JSON body, which may be missing or null."""
    return request.json_string("message", "") if request.json_object().get("message") is not None else ""


ROUTES = [
    api_route("GET", "/refs", refs),
    api_route("POST", "/branch/{branch}", create_branch, "json", limit=SMALL_LIMIT),
    api_route("DELETE", "/branch/{branch}", delete_branch),
    api_route("POST", "/tag/{rev}", create_tag, "json", limit=TEXT_LIMIT),
    api_route("DELETE", "/tag/{tag}", delete_tag),
    api_route("GET", "/commits/{rev}", commits),
    api_route("POST", "/super-squash/{rev}", super_squash, "json", limit=TEXT_LIMIT),
]
