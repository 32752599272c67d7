"""The two ends of an upload: preupload says how each file travels, commit makes the commit."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.core.names import path_problem
from hubkit.server.git import Change, Git, MovedError
from hubkit.server.grants import DISCUSS, WRITE
from hubkit.server.http import COMMIT_LIMIT, Call, Refusal, parsed
from hubkit.server.ignore import ignored
from hubkit.server.objects import OID, Pointer
from hubkit.server.routes.common import api, find_repo, forbidden, guarded, need_commit, need_user, need_write
from hubkit.server.routes.refs import branch_ref, commit_message, stale
from hubkit.server.store import Repo

LARGE_BYTES = 10 * 2**20
_LINE_LIMIT = 32 * 2**20
_LONG_LINE = 10**6
_STRINGS, _BETWEEN = 100, 4096
# Never goes back, and takes a string without an end up to the end: one pass whatever comes.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_OPERATIONS = 50_000
_PROPOSAL = re.compile(r"refs/pr/([0-9]{1,9})")


def need_propose(call: Call, repo: Repo) -> None:
    """Who may read a repo may propose a change to it, with a token that may write or discuss."""
    need_user(call)
    assert call.actor is not None
    place = repo.namespace, (repo.type, repo.id)
    if not (call.actor.holds(DISCUSS, *place) or call.actor.holds(WRITE, *place)):
        raise forbidden(call, repo.namespace)


def _need_right(call: Call, repo: Repo) -> bool:
    """Check the right to commit; True when the commit is to open a pull request."""
    proposed = call.flag("create_pr")
    (need_propose if proposed or _is_own_proposal(call, repo) else need_write)(call, repo)
    return proposed


def _is_own_proposal(call: Call, repo: Repo) -> bool:
    """Whether the revision is a pull request that the caller opened: its author may go on with it."""
    found = _PROPOSAL.fullmatch(call.params["rev"])
    row = call.hub.discussions.row(repo, int(found[1])) if found else None
    return row is not None and call.actor is not None and row["author"] == call.actor.name


def preupload(call: Call) -> Response:
    """For each file: by which way it travels, whether it is ignored, and what lies there now."""
    repo = find_repo(call)
    _need_right(call, repo)
    git = call.hub.store.git(repo)
    commit = need_commit(git, call.params["rev"])
    files = call.fields().get("files")
    if not isinstance(files, list) or len(files) > 1000:
        raise Refusal(400, "'files' must be a list of at most 1,000 files.")
    rules = call.fields().get("gitIgnore")
    if not isinstance(rules, str):
        entry = git.entry(commit, ".gitignore")
        small = entry is not None and not entry.folder and entry.size < 2**16
        rules = git.blob(entry.oid).decode("utf-8", "replace") if entry and small else ""
    return JSONResponse({"files": [_mode(git, commit, item, rules) for item in files], "commitOid": commit})


def _mode(git: Git, commit: str, item: Any, rules: str) -> dict[str, Any]:
    path, size = (item.get("path"), item.get("size")) if isinstance(item, dict) else (None, None)
    if not isinstance(path, str) or not isinstance(size, int):
        raise Refusal(400, "Each file needs a 'path' and a 'size'.")
    guarded(path_problem, path, 422)
    try:
        sample = base64.b64decode(item.get("sample") or "", validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise Refusal(400, "A 'sample' must be base64.") from None
    large = size > 0 and (git.is_large(commit, path) or size > LARGE_BYTES or b"\0" in sample)
    entry = git.entry(commit, path)
    answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": ignored(path, rules)}
    if entry and not entry.folder:
        answer["oid"] = entry.etag
    return answer


@dataclass
class Submission:
    """A commit as a client describes it."""

    message: str = ""
    parent: str | None = None
    changes: list[Change] = field(default_factory=list)
    objects: dict[str, str] = field(default_factory=dict)
    """The large objects that it names, by path."""


def lines(path: Path) -> Iterator[Any]:
    """The JSON values of an ndjson file, one in memory at a time."""
    with path.open("rb") as file:
        while line := file.readline(_LINE_LIMIT + 1):
            if len(line) > _LINE_LIMIT:
                raise Refusal(413, "A file in the commit is too large to travel inline; upload it through LFS.")
            if len(line) > _LONG_LINE and not _few_values(line):
                raise Refusal(400, "A line of a commit may be long for the content of a file only.")
            if line.strip():
                yield parsed(line)


def _few_values(line: bytes) -> bool:
    """Whether a line is long for its strings: many small values take many times their bytes once they are read."""
    between = len(line)
    for number, found in enumerate(_STRING.finditer(line)):
        if number >= _STRINGS:
            return False
        between -= found.end() - found.start()
    return between <= _BETWEEN


def read_submission(call: Call, repo: Repo, git: Git) -> Submission:
    """Read the ndjson body; blobs are stored at once (nothing refers to them yet)."""
    assert call.spooled is not None
    found, header = Submission(), False
    for number, line in enumerate(lines(call.spooled.path)):
        if number > _OPERATIONS:
            raise Refusal(413, f"A commit has {_OPERATIONS:,} operations at most.")
        key, value = (line.get("key"), line.get("value")) if isinstance(line, dict) else (None, None)
        if not isinstance(value, dict):
            raise Refusal(400, "Each line of a commit is an object with a 'key' and a 'value'.")
        if key == "header":
            header = True
            _read_header(found, value)
            continue
        path = value.get("path")
        if not isinstance(path, str):
            raise Refusal(400, "An operation needs a 'path'.")
        path = path.rstrip("/") if key == "deletedFolder" else path
        guarded(path_problem, path, 422)
        if key == "file":
            found.changes.append(Change(path, git.write_blob(_content(value))))
        elif key == "lfsFile":
            pointer = _pointer(call, repo, value)
            found.objects[path] = pointer.oid
            found.changes.append(Change(path, git.write_blob(pointer.text())))
        elif key in ("deletedFile", "deletedFolder"):
            found.changes.append(Change(path, None, key == "deletedFolder"))
        else:
            raise Refusal(400, f"{str(key)[:40]!r} is not an operation of a commit.")
    if not header:
        raise Refusal(400, "The commit has no header.")
    return found


def _read_header(found: Submission, value: dict[str, Any]) -> None:
    summary, description, parent = value.get("summary"), value.get("description") or "", value.get("parentCommit")
    if not isinstance(summary, str) or not summary.strip():
        raise Refusal(400, "The commit needs a summary.")
    if not isinstance(description, str) or not isinstance(parent, str | None):
        raise Refusal(400, "'description' and 'parentCommit' must be strings.")
    found.message = commit_message(f"{summary}\n\n{description}" if description else summary)
    found.parent = parent


def _content(value: dict[str, Any]) -> bytes:
    content = value.get("content")
    if not isinstance(content, str):
        raise Refusal(400, "A file needs a 'content'.")
    if value.get("encoding", "utf-8") == "base64":
        try:
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            raise Refusal(400, "The content is not base64.") from None
    return content.encode("utf-8", "replace")


def _pointer(call: Call, repo: Repo, value: dict[str, Any]) -> Pointer:
    """The pointer to an uploaded object, or to one that the caller can read elsewhere (a server-side copy)."""
    oid = value.get("oid")
    if not isinstance(oid, str) or not OID.fullmatch(oid) or value.get("algo", "sha256") != "sha256":
        raise Refusal(400, "An LFS file needs the sha256 of its content as 'oid'.")
    size = call.hub.claim_object(repo, oid, call.actor)
    if size is None:
        raise _not_uploaded(oid, str(value.get("path")))
    given = value.get("size")
    if given is not None and given != size:
        raise Refusal(400, f"The LFS object {oid} has {size} bytes, not {given}.")
    return Pointer(oid, size)


def _not_uploaded(oid: str, path: str) -> Refusal:
    return Refusal(400, f"The LFS object {oid} of {path} was not uploaded.")


def check_commit(call: Call) -> None:
    """Refuse who may not commit here before the body is read."""
    need_user(call)
    _need_right(call, find_repo(call))


def commit(call: Call) -> Response:
    """Make a commit on a branch, or on a new pull request. Objects first; the ref moves last, if nobody moved it."""
    repo = find_repo(call)
    proposed = _need_right(call, repo)
    git, hub = call.hub.store.git(repo), call.hub
    revision = call.params["rev"]
    if proposed and (git.target(branch_ref(revision))) is None:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    ref = branch_ref(revision)
    if git.target(ref) is None:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    submission = read_submission(call, repo, git)
    assert call.actor is not None
    with hub.store.lock(repo):
        head = git.target(ref)
        if head is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if submission.parent is not None and not proposed and submission.parent != head:
            raise stale()
        # Checked again: since they were read, somebody may have deleted objects from the repo.
        for path, object_id in submission.objects.items():
            if not hub.objects.has(repo.uid, object_id):
                raise _not_uploaded(object_id, path)
        base = submission.parent if proposed and submission.parent else head
        if proposed and git.resolve(base) != base:
            raise Refusal(404, f"Invalid rev id: {base}", "RevisionNotFound")
        try:
            tree = git.write_tree(base, submission.changes)
        except FileNotFoundError as error:
            raise Refusal(404, f"A file with this name doesn't exist: {error}", "EntryNotFound") from None
        oid = git.write_commit(tree, [base], submission.message, call.actor.name)
        answer = {
            "success": True,
            "commitOid": oid,
            "commitUrl": f"{call.base}/{repo.web}/commit/{oid}",
            "hookOutput": "",
        }
        if proposed:
            title, _, text = submission.message.partition("\n\n")
            number = hub.discussions.open(repo, title, text, call.actor.name, pull=True, base=ref, status="open")
            git.move(f"refs/pr/{number}", oid, None)
            hub.discussions.add_event(repo, number, "commit", call.actor.name, {"subject": title, "oid": oid})
            answer["pullRequestUrl"] = f"{call.base}/{repo.web}/discussions/{number}"
        else:
            try:
                git.move(ref, oid, head)
            except MovedError:
                raise stale() from None
            hub.discussions.note_commit(repo, ref, submission.message.partition("\n")[0], oid, call.actor.name)
    if not proposed:
        hub.spaces.changed(repo, ref)
    return JSONResponse(answer)


SPECS = [
    api("POST", "/preupload/{rev}", preupload, "json"),
    api("POST", "/commit/{rev}", commit, "file", limit=COMMIT_LIMIT, before=check_commit),
]
