"""POST /preupload (how each file is to be uploaded) and POST /commit."""

from __future__ import annotations

import base64
import binascii
import re
import time
from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.core.names import path_problem
from hubkit.server.accounts.accounts import Actor
from hubkit.server.http.access import find_again, find_repo, require_propose, require_user, require_write
from hubkit.server.http.bodies import COMMIT_LIMIT, TEXT_LIMIT
from hubkit.server.http.commit_payload import CommitPayload, read_payload
from hubkit.server.http.exceptions import HTTPException, revision_not_found
from hubkit.server.http.parsing import require_valid
from hubkit.server.http.request import Request
from hubkit.server.http.revisions import branch_moved, require_branch, require_commit
from hubkit.server.http.routing import api_route
from hubkit.server.repos.git import Git
from hubkit.server.repos.gitignore import ignored
from hubkit.server.repos.lfs import LARGE_BYTES
from hubkit.server.repos.store import Repo

_PREUPLOAD_SECONDS = 2.0
_PULL_REQUEST = re.compile(r"refs/pr/([0-9]{1,9})")


def _require_commit_right(request: Request, repo: Repo) -> Actor:
    """The caller, if it may commit to the revision, or open a pull request when the commit is to do that."""
    if request.flag("create_pr") or _is_own_pull_request(request, repo):
        return require_propose(request, repo)
    return require_write(request, repo)


def _is_own_pull_request(request: Request, repo: Repo) -> bool:
    """Whether the revision is a pull request that the caller opened: its author may add commits to it."""
    match = _PULL_REQUEST.fullmatch(request.path_params["rev"])
    row = request.hub.discussions.row(repo, int(match[1])) if match else None
    return row is not None and request.actor is not None and request.actor.wrote(row["author"], row["created"])


def preupload(request: Request) -> Response:
    """For each file: whether it goes through LFS, whether it is ignored, and the oid of the file at its path."""
    repo = find_repo(request)
    _require_commit_right(request, repo)
    git = request.hub.store.git(repo)
    commit = require_commit(git, request.path_params["rev"])
    files = request.json_object().get("files")
    if not isinstance(files, list) or len(files) > 1000:
        raise HTTPException(400, "'files' must be a list of at most 1,000 files.")
    rules = request.json_object().get("gitIgnore")
    if not isinstance(rules, str):
        entry = git.entry(commit, ".gitignore")
        small = entry is not None and not entry.folder and entry.size < 2**16
        rules = git.blob(entry.oid).decode("utf-8", "replace") if entry and small else ""
    results, until = [], time.thread_time() + _PREUPLOAD_SECONDS
    for item in files:
        results.append(_upload_mode(git, commit, item, rules))
        if time.thread_time() > until:
            raise HTTPException(413, "These rules of .gitignore take too long for so many files; send fewer at once.")
    return JSONResponse({"files": results, "commitOid": commit})


def _upload_mode(git: Git, commit: str, item: Any, rules: str) -> dict[str, Any]:
    path, size = (item.get("path"), item.get("size")) if isinstance(item, dict) else (None, None)
    if not isinstance(path, str) or not isinstance(size, int):
        raise HTTPException(400, "Each file needs a 'path' and a 'size'.")
    require_valid(path_problem, path, 422)
    try:
        sample = base64.b64decode(item.get("sample") or "", validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise HTTPException(400, "A 'sample' must be base64.") from None
    large = size > 0 and (git.is_large(commit, path) or size > LARGE_BYTES or b"\0" in sample)
    entry = git.entry(commit, path)
    result = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": ignored(path, rules)}
    if entry and not entry.folder:
        result["oid"] = entry.etag
    return result


def check_commit(request: Request) -> None:
    """Refuse callers who may not commit, before the body is read."""
    require_user(request)
    _require_commit_right(request, find_repo(request))


def commit(request: Request) -> Response:
    """Create a commit on a branch, or on a new pull request. Blobs first; the ref moves last, unless it moved since."""
    repo, hub = find_repo(request), request.hub
    actor = _require_commit_right(request, repo)
    revision, proposed = request.path_params["rev"], request.flag("create_pr")
    require_branch(hub.store.git(repo), revision)
    with hub.store.writing(repo) as git:
        payload = read_payload(request, repo, git)
        payload.flush_objects(hub.lfs)
        with hub.store.lock(repo):
            repo = find_again(request, repo)
            actor = _require_commit_right(request, repo)
            ref, head = require_branch(git, revision)
            if payload.parent is not None and not proposed and payload.parent != head:
                raise branch_moved()
            payload.require_objects(hub.lfs, repo)
            base = payload.parent if proposed and payload.parent else head
            oid = _write(git, payload, base, actor.name)
            result: dict[str, Any] = {
                "success": True, "commitOid": oid, "commitUrl": f"{request.origin}/{repo.web}/commit/{oid}",
                "hookOutput": "",
            }  # fmt: skip
            if proposed:
                title, _, text = payload.message.partition("\n\n")
                number = hub.pulls.open(
                    git, repo, oid, actor.name, title=title, text=text, base=ref, status="open", subject=title
                )
                result["pullRequestUrl"] = f"{request.origin}/{repo.web}/discussions/{number}"
            else:
                subject = payload.message.partition("\n")[0]
                hub.pulls.commit(git, repo, ref, oid, head, subject=subject, author=actor.name)
    if proposed:
        hub.events.discussion(repo, number, "create", request.origin)
    else:
        hub.spaces.changed(repo, ref)
        hub.events.content(repo, ref, head, oid, request.origin)
    return JSONResponse(result)


def _write(git: Git, payload: CommitPayload, base: str, author: str) -> str:
    """The id of a new commit on the commit ``base``, with the changes of the payload."""
    if git.resolve(base) != base:
        raise revision_not_found(base)
    try:
        tree = git.write_tree(base, payload.changes)
    except FileNotFoundError as error:
        raise HTTPException(404, f"A file with this name doesn't exist: {error}", "EntryNotFound") from None
    return git.write_commit(tree, [base], payload.message, author)


ROUTES = [
    api_route("POST", "/preupload/{rev}", preupload, "json", limit=TEXT_LIMIT),
    api_route("POST", "/commit/{rev}", commit, "file", limit=COMMIT_LIMIT, before=check_commit, short=True),
]
