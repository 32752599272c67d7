"""Commits: operations on the files of a repo, sent as one change of a branch. :mod:`hubkit.hub.uploads` goes first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hubkit.core.errors import ConflictError
from hubkit.core.files import Digests, walk
from hubkit.hub.connection import Connection, RepoType

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    Addition = CommitOperationAdd
    Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete


def addition(path: str, local: Path, known: Digests) -> CommitOperationAdd:
    """Add the file ``local`` as ``path``. The client is given the known digest, so that it reads a large file once.

    ConflictError when the file has another size than is known.
    """
    from huggingface_hub import CommitOperationAdd

    operation = CommitOperationAdd(path, local)
    if operation.upload_info.size != known.size:
        raise ConflictError(f"{local} changed after its digest was computed.", hint="Run with --fresh.")
    operation.upload_info.sha256 = bytes.fromhex(known.sha256)
    return operation


def deletion(path: str) -> CommitOperationDelete:
    """Remove the file ``path``."""
    from huggingface_hub import CommitOperationDelete

    return CommitOperationDelete(path, is_folder=False)


def copy(path: str, revision: str) -> CommitOperationCopy:
    """Copy the file ``path`` from ``revision`` of the same repo, on the server."""
    from huggingface_hub import CommitOperationCopy

    return CommitOperationCopy(path, path, revision)


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
    ) -> None:
        """Send one commit to ``branch``, whose head must be ``parent``. Sent once: read the branch to see the outcome.

        Deletions are sent first, so that a folder may take the place of a file.
        """
        self.send(
            lambda: self.api.create_commit(
                repo,
                deletions_first(operations),
                commit_message=title,
                revision=branch,
                parent_commit=parent,
                repo_type=repo_type,
            ),
            repo=repo,
            revision=branch,
        )

    def open_pull_request(
        self, repo: str, operations: Sequence[Operation], *, parent: str, title: str, text: str
    ) -> None:
        """Open a pull request of one commit on ``parent``, a commit of ``main``: the Hub accepts no other."""
        self.send(
            lambda: self.api.create_commit(
                repo,
                deletions_first(operations),
                commit_message=title,
                commit_description=text,
                parent_commit=parent,
                create_pr=True,
            ),
            repo=repo,
        )

    def upload_folder(self, repo: str, folder: Path, *, title: str, repo_type: RepoType = "model") -> None:
        """Commit every file of ``folder`` to ``main``."""
        from huggingface_hub import CommitOperationAdd

        operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in walk(folder)]
        self.send(
            lambda: self.api.create_commit(repo, operations, commit_message=title, repo_type=repo_type), repo=repo
        )


def deletions_first(operations: Sequence[Operation]) -> list[Operation]:
    """``operations`` with deletions before the others, in a stable order."""
    from huggingface_hub import CommitOperationDelete

    return sorted(operations, key=lambda operation: not isinstance(operation, CommitOperationDelete))
