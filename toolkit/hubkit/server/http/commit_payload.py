"""The body of a commit request: lines of JSON, a header and one operation each."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hubkit.core import numbers
from hubkit.core.names import path_problem
from hubkit.server.http.bodies import SpooledBody
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import parse_json, require_valid
from hubkit.server.http.request import Request
from hubkit.server.http.revisions import valid_message
from hubkit.server.repos.git import Change, Git
from hubkit.server.repos.lfs import OID, LfsStore, Pointer
from hubkit.server.repos.store import Repo

_LINE_LIMIT = 16 * 2**20  # clients send files of up to 10 MiB inline, as Base64
_LINE_VALUES = 1000
_OPERATIONS = 50_000


@dataclass
class CommitPayload:
    """A commit as a client describes it: its message, the commit it is based on, its changes."""

    message: str = ""
    parent: str | None = None
    changes: list[Change] = field(default_factory=list)
    objects: dict[str, str] = field(default_factory=dict)
    """The LFS objects that it names, by path."""

    def flush_objects(self, lfs: LfsStore) -> None:
        """Make the objects survive a power cut: afterwards the commit may be acknowledged. 400 when one is damaged."""
        if damaged := lfs.flush(self.objects.values()):
            path = next(path for path, oid in self.objects.items() if oid == damaged[0])
            raise _not_uploaded(damaged[0], path)

    def require_objects(self, lfs: LfsStore, repo: Repo) -> None:
        """400 when an object is missing: it may have been deleted from the repo since the payload was read."""
        for path, oid in self.objects.items():
            if not lfs.has(repo.uid, oid):
                raise _not_uploaded(oid, path)
        self.flush_objects(lfs)  # again: one may have been deleted and uploaded anew


def lines(body: SpooledBody) -> Iterator[Any]:
    """The JSON values of an ndjson body, one in memory at a time."""
    with body.open() as file:
        while line := file.readline(_LINE_LIMIT + 1):
            if len(line) > _LINE_LIMIT:
                raise HTTPException(413, "A file in the commit is too large to send inline; upload it through LFS.")
            if line.strip():
                yield parse_json(line, _LINE_VALUES)


def read_payload(request: Request, repo: Repo, git: Git) -> CommitPayload:
    """Read the ndjson body; blobs are stored at once (nothing refers to them yet)."""
    assert request.spooled is not None
    payload, header = CommitPayload(), False
    for number, line in enumerate(lines(request.spooled)):
        if number > _OPERATIONS:
            raise HTTPException(413, f"A commit has {numbers.count(_OPERATIONS)} operations at most.")
        key, value = (line.get("key"), line.get("value")) if isinstance(line, dict) else (None, None)
        if not isinstance(value, dict):
            raise HTTPException(400, "Each line of a commit is an object with a 'key' and a 'value'.")
        if key == "header":
            header = True
            _read_header(payload, value)
            continue
        path = value.get("path")
        if not isinstance(path, str):
            raise HTTPException(400, "An operation needs a 'path'.")
        path = path.rstrip("/") if key == "deletedFolder" else path
        require_valid(path_problem, path, 422)
        if key == "file":
            payload.changes.append(Change(path, git.write_blob(_content(value))))
        elif key == "lfsFile":
            pointer = _pointer(request, repo, value)
            payload.objects[path] = pointer.oid
            payload.changes.append(Change(path, git.write_blob(pointer.text())))
        elif key in ("deletedFile", "deletedFolder"):
            payload.changes.append(Change(path, None, key == "deletedFolder"))
        else:
            raise HTTPException(400, f"{str(key)[:40]!r} is not a valid commit operation.")
    if not header:
        raise HTTPException(400, "The commit has no header.")
    return payload


def _read_header(payload: CommitPayload, value: dict[str, Any]) -> None:
    summary, description, parent = value.get("summary"), value.get("description") or "", value.get("parentCommit")
    if not isinstance(summary, str) or not summary.strip():
        raise HTTPException(400, "The commit needs a summary.")
    if not isinstance(description, str) or not isinstance(parent, str | None):
        raise HTTPException(400, "'description' and 'parentCommit' must be strings.")
    payload.message = valid_message(f"{summary}\n\n{description}" if description else summary)
    payload.parent = parent


def _content(value: dict[str, Any]) -> bytes:
    content = value.get("content")
    if not isinstance(content, str):
        raise HTTPException(400, "A file needs a 'content'.")
    if value.get("encoding", "utf-8") == "base64":
        try:
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            raise HTTPException(400, "The content is not base64.") from None
    return content.encode("utf-8", "replace")


def _pointer(request: Request, repo: Repo, value: dict[str, Any]) -> Pointer:
    """The pointer to an uploaded object, or to one that the caller can read elsewhere (a server-side copy)."""
    oid = value.get("oid")
    if not isinstance(oid, str) or not OID.fullmatch(oid) or value.get("algo", "sha256") != "sha256":
        raise HTTPException(400, "An LFS file needs the sha256 of its content as 'oid'.")
    size = request.hub.claim_object(repo, oid, request.actor)
    if size is None:
        raise _not_uploaded(oid, str(value.get("path")))
    given = value.get("size")
    if given is not None and given != size:
        raise HTTPException(400, f"The LFS object {oid} has {size} bytes, not {given}.")
    return Pointer(oid, size)


def _not_uploaded(oid: str, path: str) -> HTTPException:
    return HTTPException(400, f"The LFS object {oid} of {path} was not uploaded.")
