"""Commits: operations on the files of a repo, sent as one change of a branch. :mod:`hubkit.hub.uploads` goes first.

The request is written here, not by huggingface_hub's ``create_commit``, which decides by answers of the Hub what it
sends: it leaves out a file that the Hub calls ignored or unchanged, and to copy a small file it downloads it and sends
whatever came. What is sent here is what the caller has, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hubkit.core.errors import ConflictError
from hubkit.core.files import Digests, walk
from hubkit.hub.connection import Connection, RepoType
from hubkit.hub.errors import malformed

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PULL_REQUEST = re.compile(r".*/discussions/([0-9]{1,9})")


@dataclass(frozen=True)
class Deletion:
    """Remove the file ``path``."""

    path: str


@dataclass(frozen=True)
class Content:
    """Write ``content`` to ``path``, as a file that git keeps itself."""

    path: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class LargeFile:
    """Let ``path`` be the LFS file with this digest, which the Hub has. ``size`` in bytes, when it is to be checked."""

    path: str
    sha256: str
    size: int | None = None


Operation = Deletion | Content | LargeFile


@dataclass(frozen=True)
class Addition:
    """The file ``local``, to be added as ``path``; ``known`` are its digests.

    ``in_lfs``: whether it must be kept in LFS; None when the Hub decides.
    """

    path: str
    local: Path
    known: Digests
    in_lfs: bool | None = None

    def content(self) -> bytes:
        """The bytes of the file. ConflictError when they are not those whose digest is known."""
        content = self.local.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.known.sha256:
            raise _changed(self.local)
        return content


def addition(path: str, local: Path, known: Digests, *, in_lfs: bool | None = None) -> Addition:
    """Add the file ``local`` as ``path``. ConflictError when the file has another size than is known."""
    if local.stat().st_size != known.size:
        raise _changed(local)
    return Addition(path, local, known, in_lfs)


def _changed(local: Path) -> ConflictError:
    return ConflictError(f"{local} changed after its digest was computed.", hint="Run with --fresh.")


class CommitCalls(Connection):
    """The requests that commit, as methods of a connection."""

    def create_commit(
        self,
        repo: str,
        branch: str,
        operations: Sequence[Operation],
        *,
        parent: str,
        title: str,
        repo_type: RepoType = "model",
    ) -> str:
        """Send one commit to ``branch``, whose head must be ``parent``; returns the id that the Hub answers with.

        Sent once: read the branch to see the outcome. Deletions are sent first, so that a folder may take the place of
        a file.
        """
        answer = self._commit(repo, branch, operations, {"summary": title, "parentCommit": parent}, repo_type)
        oid = answer.get("commitOid")
        if not isinstance(oid, str) or not _COMMIT.fullmatch(oid):
            raise malformed(self.endpoint, "the answer to a commit has no commit id")
        return oid

    def open_pull_request(
        self, repo: str, operations: Sequence[Operation], *, parent: str, title: str, text: str
    ) -> int:
        """Open a pull request of one commit on ``parent``, a commit of ``main``; returns the number that was answered.

        The Hub accepts no other base.
        """
        header = {"summary": title, "description": text, "parentCommit": parent}
        answer = self._commit(repo, "main", operations, header, create_pr=True)
        match = _PULL_REQUEST.fullmatch(str(answer.get("pullRequestUrl")))
        if match is None:
            raise malformed(self.endpoint, "the answer to a pull request has no number")
        return int(match[1])

    def upload_folder(self, repo: str, folder: Path, *, title: str, repo_type: RepoType = "model") -> None:
        """Commit every file of ``folder`` to ``main``."""
        from huggingface_hub import CommitOperationAdd

        operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in walk(folder)]
        self.send(
            lambda: self.api.create_commit(repo, operations, commit_message=title, repo_type=repo_type), repo=repo
        )

    def _commit(
        self,
        repo: str,
        branch: str,
        operations: Sequence[Operation],
        header: dict[str, str],
        repo_type: RepoType = "model",
        *,
        create_pr: bool = False,
    ) -> dict[str, Any]:
        """The answer of the Hub to one commit."""
        lines: Iterator[Any] = iter(
            [
                {"key": "header", "value": {"description": "", **header}},
                *map(_line, deletions_first(operations)),
            ]
        )
        body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        path = f"api/{repo_type}s/{repo}/commit/{quote(branch, safe='')}"
        answer = self.send(
            lambda: self.requested(
                "POST",
                path,
                content=body,
                headers={"content-type": "application/x-ndjson"},
                params={"create_pr": "1"} if create_pr else None,
            ),
            repo=repo,
            revision=branch,
        )
        if not isinstance(answer, dict):
            raise malformed(self.endpoint, "the answer to a commit is not an object")
        return answer


def _line(operation: Operation) -> dict[str, Any]:
    """One operation as the Hub's commit route takes it."""
    if isinstance(operation, Deletion):
        return {"key": "deletedFile", "value": {"path": operation.path}}
    if isinstance(operation, Content):
        content = base64.b64encode(operation.content).decode("ascii")
        return {"key": "file", "value": {"content": content, "path": operation.path, "encoding": "base64"}}
    size = {} if operation.size is None else {"size": operation.size}
    return {"key": "lfsFile", "value": {"path": operation.path, "algo": "sha256", "oid": operation.sha256, **size}}


def deletions_first(operations: Sequence[Operation]) -> list[Operation]:
    """``operations`` with deletions before the others, in a stable order."""
    return sorted(operations, key=lambda operation: not isinstance(operation, Deletion))
