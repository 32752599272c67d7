"""What files there are: tree, paths-info, large files."""

from __future__ import annotations

import base64
import binascii
from itertools import islice
from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.server.database import stamp
from hubkit.server.git import Change, Entry, Git, moment, title_and_rest
from hubkit.server.http import SMALL_LIMIT, Call, Refusal
from hubkit.server.info import file_item
from hubkit.server.objects import OID
from hubkit.server.routes.common import api, find_repo, need_commit, need_files, need_write
from hubkit.server.store import Repo

_PAGE, _PAGE_EXPANDED = 1000, 100
_PATHS = 1000


def tree(call: Call) -> Response:
    """The entries below a folder, page by page. Later pages show the commit that the first one saw."""
    repo = find_repo(call)
    need_files(call, repo)
    git = call.hub.store.git(repo)
    start, commit = 0, None
    if cursor := call.query.get("cursor"):
        commit, start = _cursor(git, cursor)
    commit = commit or need_commit(git, call.params["rev"])
    expand = call.flag("expand")
    entries = git.walk(commit, call.params.get("path", "").strip("/"), recursive=call.flag("recursive"))
    if entries is None:
        raise _no_entry(call, commit, f'{call.params.get("path")} does not exist on "{call.params["rev"]}"')
    count = call.limit(_PAGE_EXPANDED if expand else _PAGE, _PAGE)
    found = list(islice(entries, start, start + count + 1))
    headers = {"X-Repo-Commit": commit}
    if len(found) > count:
        mark = base64.urlsafe_b64encode(f"{commit}:{start + count}".encode()).decode()
        headers |= call.next_page(cursor=mark)
    return JSONResponse(_items(git, commit, found[:count], expand), headers=headers)


def _cursor(git: Git, cursor: str) -> tuple[str, int]:
    try:
        commit, _, start = base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii").partition(":")
        number = int(start)
    except (ValueError, binascii.Error, UnicodeError):
        raise Refusal(400, "The cursor is not one of ours.") from None
    found = git.resolve(commit) if len(commit) == 40 else None
    if found is None or not 0 <= number < 2**31:
        raise Refusal(400, "The cursor is not one of ours.")
    return found, number


def _items(git: Git, commit: str, entries: list[Entry], expand: bool) -> list[dict[str, Any]]:
    items = [file_item(entry) for entry in entries]
    if expand:
        last = git.last_changes(commit, [entry.path for entry in entries])
        for item in items:
            if change := last.get(item["path"]):
                title, _ = title_and_rest(change.message)
                item["lastCommit"] = {"id": str(change.id), "title": title, "date": stamp(moment(change))}
    return items


def _no_entry(call: Call, commit: str, message: str) -> Refusal:
    return Refusal(404, message, "EntryNotFound", headers={"X-Repo-Commit": commit})


def paths_info(call: Call) -> Response:
    """What is known of the paths in a form (or JSON) body; those that are missing are left out."""
    repo = find_repo(call)
    need_files(call, repo)
    git = call.hub.store.git(repo)
    commit = need_commit(git, call.params["rev"])
    paths = [str(path) for path in call.form.getlist("paths")]
    if isinstance(call.value, dict):
        given = call.value.get("paths", [])
        paths = [path for path in given if isinstance(path, str)] if isinstance(given, list) else []
    if len(paths) > _PATHS:
        raise Refusal(413, f"At most {_PATHS} paths at once.")
    if any("\0" in path for path in paths):
        raise Refusal(400, "A path holds a NUL character.")
    entries = [entry for path in paths if (entry := git.entry(commit, path.strip("/")))]
    expand = call.flag("expand") or bool(isinstance(call.value, dict) and call.value.get("expand"))
    return JSONResponse(_items(git, commit, entries, expand))


def lfs_files(call: Call) -> Response:
    """The large objects that the repo holds, newest first."""
    repo = find_repo(call)
    need_files(call, repo)
    git = call.hub.store.git(repo)
    names: dict[str, tuple[str, str]] = {}
    for ref, commit in git.refs():
        for entry in git.walk(commit) or ():
            if entry.pointer:
                names.setdefault(entry.pointer.oid, (entry.path, ref))
    items = []
    for item in call.hub.objects.listed(repo.uid):
        name, ref = names.get(str(item["oid"]), ("", ""))
        value = {
            "fileOid": item["oid"], "oid": item["oid"], "filename": name, "size": item["size"],
            "pushedAt": item["pushed"],
        }  # fmt: skip
        items.append(value | ({"ref": ref} if ref else {}))
    return JSONResponse(items)


def delete_lfs_files(call: Call) -> Response:
    """Forget large objects of the repo for good."""
    repo = find_repo(call)
    need_write(call, repo)
    deletions = call.fields().get("deletions")
    oids = deletions.get("sha") if isinstance(deletions, dict) else None
    if not isinstance(oids, list) or not all(isinstance(oid, str) and OID.fullmatch(oid) for oid in oids):
        raise Refusal(400, "'deletions.sha' must be a list of sha256 digests.")
    assert call.actor is not None
    with call.hub.store.lock(repo):
        _drop_pointers(call, repo, set(oids), call.actor.name)
        call.hub.objects.withdraw(repo.uid, oids)
    call.hub.objects.collect(oids)
    call.hub.spaces.changed(repo)
    return JSONResponse({})


def _drop_pointers(call: Call, repo: Repo, oids: set[str], author: str) -> None:
    """One commit on each branch that removes the files whose content goes. History keeps their pointers."""
    git = call.hub.store.git(repo)
    for ref, head in list(git.refs()):
        if not ref.startswith("refs/heads/"):
            continue
        gone = [entry.path for entry in git.walk(head) or () if entry.pointer and entry.pointer.oid in oids]
        if gone:
            tree = git.write_tree(head, [Change(path, None) for path in gone])
            git.move(ref, git.write_commit(tree, [head], f"Delete {len(gone)} LFS files", author), head)


SPECS = [
    api("GET", "/tree/{rev}", tree),
    api("GET", "/tree/{rev}/{path:path}", tree),
    api("POST", "/paths-info/{rev}", paths_info, "form", anonymous=True, limit=SMALL_LIMIT),
    api("GET", "/lfs-files", lfs_files),
    api("POST", "/lfs-files/batch", delete_lfs_files, "json"),
]
