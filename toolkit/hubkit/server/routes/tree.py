"""The files of a repo: tree, paths-info, LFS objects."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import anyio.from_thread
from starlette.responses import JSONResponse, Response

from hubkit.server.http.access import (
    find_readable_repo,
    find_repo,
    locked,
    repo_not_found,
    repo_type,
    require_propose,
    require_write,
    visible_repo,
)
from hubkit.server.http.bodies import BATCH_LIMIT, TEXT_LIMIT
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.request import Request
from hubkit.server.http.revisions import require_commit
from hubkit.server.http.routing import api_route
from hubkit.server.repos.git import Change, Entry, Git, split_message
from hubkit.server.repos.info import file_item
from hubkit.server.repos.lfs import OID
from hubkit.server.repos.store import Repo
from hubkit.server.storage.database import stamp

_PAGE, _PAGE_EXPANDED = 1000, 100
_PATHS = 1000
_EXPAND_SECONDS, _ASK_SECONDS = 10.0, 0.2
"""Seconds for the last commits of one page of entries; those not found by then are left out. Seconds between looks."""


def tree(request: Request) -> Response:
    """The entries below a folder, page by page. Later pages show the commit that the first one saw."""
    repo = find_readable_repo(request)
    git = request.hub.store.git(repo)
    start, commit = 0, None
    if cursor := request.query_params.get("cursor"):
        commit, start = _cursor(git, cursor)
    commit = commit or require_commit(git, request.path_params["rev"])
    expand = request.flag("expand")
    entries = git.walk(commit, request.path_params.get("path", "").strip("/"), recursive=request.flag("recursive"))
    if entries is None:
        raise _no_entry(
            request, commit, f'{request.path_params.get("path")} does not exist on "{request.path_params["rev"]}"'
        )
    count = request.page_size(_PAGE_EXPANDED if expand else _PAGE, _PAGE)
    page = list(islice(entries, start, start + count + 1))
    headers = {"X-Repo-Commit": commit}
    if len(page) > count:
        mark = base64.urlsafe_b64encode(f"{commit}:{start + count}".encode()).decode()
        headers |= request.next_page(cursor=mark)
    return JSONResponse(_items(request, repo, git, commit, page[:count], expand), headers=headers)


def _cursor(git: Git, cursor: str) -> tuple[str, int]:
    try:
        commit, _, start = base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii").partition(":")
        number = int(start)
    except (ValueError, binascii.Error, UnicodeError):
        raise HTTPException(400, "The cursor was not issued by this Hub.") from None
    resolved = git.resolve(commit) if len(commit) == 40 else None
    if resolved is None or not 0 <= number < 2**31:
        raise HTTPException(400, "The cursor was not issued by this Hub.")
    return resolved, number


def _items(
    request: Request, repo: Repo, git: Git, commit: str, entries: list[Entry], expand: bool
) -> list[dict[str, Any]]:
    known = request.hub.xet.index.hashes_of(repo.uid, (entry.pointer.oid for entry in entries if entry.pointer))
    items = [file_item(entry, known.get(entry.pointer.oid) if entry.pointer else None) for entry in entries]
    if expand:
        last = git.last_changes(commit, [entry.path for entry in entries], _stop(request))
        for item in items:
            if change := last.get(item["path"]):
                title, _ = split_message(change.message)
                item["lastCommit"] = {"id": change.id, "title": title, "date": stamp(change.time)}
    return items


def _stop(request: Request) -> Callable[[], bool]:
    """Whether to look no further: the client has left, or it took long. Asked often, it finds out now and then."""
    end = asked = time.monotonic()
    end += _EXPAND_SECONDS

    def stop() -> bool:
        nonlocal asked
        if (moment := time.monotonic()) - asked < _ASK_SECONDS:
            return False
        asked = moment
        return moment > end or bool(anyio.from_thread.run(request.is_disconnected))

    return stop


def _no_entry(request: Request, commit: str, message: str) -> HTTPException:
    return HTTPException(404, message, "EntryNotFound", headers={"X-Repo-Commit": commit})


def paths_info(request: Request) -> Response:
    """What is known of the paths in a form (or JSON) body; those that are missing are left out."""
    repo = find_readable_repo(request)
    git = request.hub.store.git(repo)
    commit = require_commit(git, request.path_params["rev"])
    paths = [str(path) for path in request.form_data.getlist("paths")]
    if isinstance(request.json_body, dict):
        given = request.json_body.get("paths", [])
        paths = [path for path in given if isinstance(path, str)] if isinstance(given, list) else []
    if len(paths) > _PATHS:
        raise HTTPException(413, f"At most {_PATHS} paths per request.")
    if any("\0" in path for path in paths):
        raise HTTPException(400, "A path contains a NUL character.")
    entries = [entry for path in paths if (entry := git.entry(commit, path.strip("/")))]
    expand = request.flag("expand") or bool(isinstance(request.json_body, dict) and request.json_body.get("expand"))
    return JSONResponse(_items(request, repo, git, commit, entries, expand))


def lfs_files(request: Request) -> Response:
    """The LFS objects of the repo, newest first."""
    repo = find_readable_repo(request)
    git = request.hub.store.git(repo)
    names: dict[str, tuple[str, str]] = {}
    for ref, commit in git.refs():
        for entry in git.walk(commit) or ():
            if entry.pointer:
                names.setdefault(entry.pointer.oid, (entry.path, ref))
    items = []
    for item in request.hub.lfs.listed(repo.uid):
        name, ref = names.get(str(item["oid"]), ("", ""))
        value = {
            "fileOid": item["oid"], "oid": item["oid"], "filename": name, "size": item["size"],
            "pushedAt": item["pushed"],
        }  # fmt: skip
        items.append(value | ({"ref": ref} if ref else {}))
    return JSONResponse(items)


def delete_lfs_files(request: Request) -> Response:
    """Delete LFS objects of the repo."""
    repo = find_repo(request)
    actor = require_write(request, repo)
    deletions = request.json_object().get("deletions")
    oids = deletions.get("sha") if isinstance(deletions, dict) else None
    if not isinstance(oids, list) or not all(isinstance(oid, str) and OID.fullmatch(oid) for oid in oids):
        raise HTTPException(400, "'deletions.sha' must be a list of sha256 digests.")
    with locked(request, repo, require_write):
        _drop_pointers(request, repo, set(oids), actor.name)
        request.hub.lfs.withdraw(repo.uid, oids)
    request.hub.lfs.collect(oids)
    request.hub.spaces.changed(repo)
    return JSONResponse({})


def _drop_pointers(request: Request, repo: Repo, oids: set[str], author: str) -> None:
    """One commit on each branch that removes the files whose objects are deleted. History keeps their pointers."""
    with request.hub.store.writing(repo) as git:
        for ref, head in list(git.refs()):
            if not ref.startswith("refs/heads/"):
                continue
            removed = [entry.path for entry in git.walk(head) or () if entry.pointer and entry.pointer.oid in oids]
            if removed:
                tree = git.write_tree(head, [Change(path, None) for path in removed])
                git.move(ref, git.write_commit(tree, [head], f"Delete {len(removed)} LFS files", author), head)


def duplicate_lfs_files(request: Request) -> Response:
    """``{target: {type, name}, files: [{sha256}]}``: give large files of this repo to another one."""
    repo = find_readable_repo(request)
    target, files = request.json_object().get("target"), request.json_object().get("files")
    if not isinstance(target, dict) or not isinstance(files, list) or not all(isinstance(item, dict) for item in files):
        raise HTTPException(400, "The body must have a 'target' and a list of 'files'.")
    found = visible_repo(request, repo_type(f"{target.get('type')}s"), str(target.get("name")))
    if found is None:
        raise repo_not_found(request)
    require_propose(request, found)
    failed = []
    for oid in (str(item.get("sha256")) for item in files):
        if not OID.fullmatch(oid) or not request.hub.lfs.has(repo.uid, oid):
            failed.append({"sha256": oid, "error": f"{repo.id} has no such file."})
        else:
            request.hub.lfs.give(found.uid, oid)
    return JSONResponse({"failed": failed})


ROUTES = [
    api_route("GET", "/tree/{rev}", tree),
    api_route("GET", "/tree/{rev}/{path:path}", tree),
    api_route("POST", "/paths-info/{rev}", paths_info, "form", anonymous=True, limit=TEXT_LIMIT),
    api_route("GET", "/lfs-files", lfs_files),
    api_route("POST", "/lfs-files/batch", delete_lfs_files, "json", limit=BATCH_LIMIT),
    api_route("POST", "/lfs-files/duplicate", duplicate_lfs_files, "json", limit=TEXT_LIMIT),
]
