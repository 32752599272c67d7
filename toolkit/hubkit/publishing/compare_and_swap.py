"""Commit to a branch by compare-and-swap, so that it holds the old tree or the new one, and the caller knows which.

The parent of the commit is the head that was read before. Whatever the Hub returns, the outcome is read from the
branch (its head and its tree), never from the text of a message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hubkit.core.errors import ConflictError, HubkitError, RemoteError
from hubkit.core.numbers import short_commit
from hubkit.core.trees import Tree
from hubkit.hub.client import Hub, RepoType
from hubkit.hub.commits import Operation
from hubkit.hub.retry import write_and_verify


def commit(
    hub: Hub,
    repo: str,
    branch: str,
    head: str,
    operations: Sequence[Operation],
    reached: Callable[[Tree], bool],
    title: str,
    repo_type: RepoType = "model",
) -> str:
    """Commit ``operations`` on ``head`` so that the branch's tree is ``reached``; returns the new head.

    A lost response is no failure: when the branch already holds the new tree, its head is returned and nothing is
    sent twice. ConflictError when somebody else moved the branch, or when it does not hold what was sent; RemoteError
    when the Hub cannot be reached or failed.
    """

    def write() -> None:
        hub.create_commit(repo, branch, operations, parent=head, title=title, repo_type=repo_type)

    def look(failure: HubkitError | None) -> str | None:
        now = _head_after(hub, repo, branch, failure, repo_type)
        if now == head:
            return None
        if now is None or not reached(hub.tree(repo, now, repo_type)):
            raise branch_moved(repo, branch, head, now) from failure
        return now

    new_head = write_and_verify(write, look)
    if new_head is None:
        raise ConflictError(
            f"{repo} accepted the commit to {branch!r}, but its head is still {short_commit(head)}.",
            hint="Run the same command again.",
        )
    return new_head


def _head_after(hub: Hub, repo: str, branch: str, failure: HubkitError | None, repo_type: RepoType) -> str | None:
    """The branch's head; when the Hub cannot be reached any more, the first failure is raised."""
    try:
        return hub.head(repo, branch, repo_type)
    except RemoteError:
        if failure is not None:
            raise failure from None
        raise


def branch_moved(
    repo: str, branch: str, before: str | None, now: str | None, *, since: str = "meanwhile"
) -> ConflictError:
    """The error for a branch that somebody else moved from ``before`` to ``now`` (None: there was, or is, none)."""
    if now is None:
        return ConflictError(
            f"The branch {branch!r} of {repo} was removed {since}.", hint="Run the same command again."
        )
    was = f"from {short_commit(before)} " if before else ""
    return ConflictError(
        f"The branch {branch!r} of {repo} moved {was}to {short_commit(now)} {since}; nothing was overwritten.",
        hint=f"Inspect it with `hubkit revisions list {repo}`, then run the same command again.",
    )
