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
from hubkit.hub.errors import NotAnAnswer
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
    sent twice. ConflictError when somebody else moved the branch; OtherContent when the Hub made the commit with other
    files than were sent; RemoteError when the Hub cannot be reached or failed, or said that it made a commit and did
    not.
    """
    answered: list[str] = []

    def write() -> None:
        answered[:] = [hub.create_commit(repo, branch, operations, parent=head, title=title, repo_type=repo_type)]

    def look(failure: HubkitError | None) -> str | None:
        now = _head_after(hub, repo, branch, failure, repo_type)
        if now == head:
            return None
        if now is None:
            raise branch_moved(repo, branch, head, now) from failure
        if reached(hub.tree(repo, now, repo_type)):
            return now
        made = _made(hub, repo, head, now, title, answered, repo_type)
        if made == now:
            raise OtherContent(repo, branch, now) from failure
        if made is not None:
            raise _moved_on(repo, branch, made, now) from failure
        raise branch_moved(repo, branch, head, now) from failure

    new_head = write_and_verify(write, look)
    if new_head is None:
        raise NotAnAnswer(
            f"{hub.endpoint} or a proxy answered that a commit was made to {branch!r} of {repo}, but it is still at "
            f"{short_commit(head)}.",
            hint="Run the same command again.",
        )
    return new_head


class OtherContent(ConflictError):
    """The Hub made our commit, ``head``, and it does not hold what was sent."""

    def __init__(self, repo: str, branch: str, head: str) -> None:
        super().__init__(
            f"The Hub made the commit {short_commit(head)} on the branch {branch!r} of {repo} with other files than"
            " were sent.",
            hint="The Hub or a proxy alters files. Run the same command again: it compares the branch and replaces"
            " what differs.",
        )
        self.head = head


def _made(
    hub: Hub, repo: str, head: str, now: str, title: str, answered: Sequence[str], repo_type: RepoType
) -> str | None:
    """Our commit on ``head`` among those that lead to ``now``; None when there is none."""
    commits = hub.history(repo, now, repo_type)
    ids = [item.id for item in commits]
    if head not in ids[1:]:
        return None
    first = commits[ids.index(head) - 1]
    return first.id if first.id in answered or (not answered and first.title == title) else None


def _head_after(hub: Hub, repo: str, branch: str, failure: HubkitError | None, repo_type: RepoType) -> str | None:
    """The branch's head; when the Hub cannot be reached any more, the first failure is raised."""
    try:
        return hub.head(repo, branch, repo_type)
    except RemoteError:
        if failure is not None:
            raise failure from None
        raise


def _moved_on(repo: str, branch: str, made: str, now: str) -> ConflictError:
    return ConflictError(
        f"The branch {branch!r} of {repo} was written at {short_commit(made)}; then someone else moved it to"
        f" {short_commit(now)}, which does not hold the same files.",
        hint=f"Inspect it with `hubkit revisions history {repo} {branch}`, then run the same command again.",
    )


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
        f"The branch {branch!r} of {repo} moved {was}to {short_commit(now)} {since}; it was not overwritten.",
        hint=f"Inspect it with `hubkit revisions list {repo}`, then run the same command again.",
    )
