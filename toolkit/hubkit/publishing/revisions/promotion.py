"""Promotion and rollback: a branch is brought to the files of another revision, in one commit on its head.

The change is planned first, from one read of the branch, and shown. The commit has the head that was read as its
parent, so that either the plan is carried out as shown, or nothing is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.names import ref_problem
from hubkit.core.numbers import counted, short_commit
from hubkit.core.trees import compare
from hubkit.hub.client import Commit, Hub, RepoType
from hubkit.hub.revision_names import by_short_id, commit_of
from hubkit.publishing import copying
from hubkit.publishing.compare_and_swap import branch_moved
from hubkit.publishing.copying import PUT_BACK, CopyPlan, plan_copy
from hubkit.publishing.revisions.gguf_places import left_behind, refuse_other_kind

PROMOTED = re.compile(r"Promote (?:.+ \()?([0-9a-f]{12})\)? to .+")
"""The title of a promotion's commit, with the id of the source."""
ROLLED_BACK = re.compile(r"Roll back .+ to ([0-9a-f]{12}), from ([0-9a-f]{12})")
"""The title of a rollback's commit, with the ids of the restored commit and of the previous head."""


@dataclass(frozen=True)
class BranchChange:
    """A planned change of one branch. ``nothing_to_do``: why nothing is to be written, as a sentence; else None.

    ``gguf_left`` are branches, or repos of their own, of GGUF files that were written from other weights than the
    branch will have.
    """

    kind: Literal["promotion", "rollback"]
    repo: str
    repo_type: RepoType
    plan: CopyPlan
    title: str
    nothing_to_do: str | None
    gguf_left: tuple[str, ...] = ()

    def apply(self, hub: Hub) -> str:
        """Apply the plan; returns the branch's head. ConflictError when the branch was moved since it was planned."""
        if self.nothing_to_do is not None:
            return str(self.plan.head)
        return copying.apply(hub, self.repo, self.plan, title=self.title, repo_type=self.repo_type)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values; sizes in bytes."""
        return {
            "kind": self.kind,
            "repo": self.repo,
            "branch": self.plan.branch,
            "source": self.plan.source,
            "previous": self.plan.head,
            "title": self.title,
            "already": self.nothing_to_do is not None,
            "changes": [change.to_json() for change in self.plan.change.changes],
            "foreign": list(self.plan.kept),
            "replaced": list(self.plan.replaced),
            **({"gguf_left": list(self.gguf_left)} if self.gguf_left else {}),
        }


def plan_promotion(
    hub: Hub,
    repo: str,
    source: str,
    branch: str,
    *,
    exact: bool = False,
    force: bool = False,
    repo_type: RepoType = "model",
) -> BranchChange:
    """Plan to bring ``branch`` to the files of the revision ``source``; a new branch is created at its commit.

    Where there is a manifest of hubkit, foreign files are kept, as in a release
    (:mod:`hubkit.publishing.ownership`); ``exact`` removes them too. Without a manifest nothing shows which files are
    foreign, and the trees become equal. RefusedError, unless ``force``, when GGUF files alone would replace weights.
    """
    if problem := ref_problem(branch):
        raise UsageError(f"{branch!r} cannot be a branch: {problem}.", hint="Choose another name.")
    if branch in hub.refs(repo, repo_type).tags:
        raise UsageError(f"{branch!r} is a tag of {repo}; tags do not move.", hint="Choose a branch.")
    commit = commit_of(hub, repo, source, repo_type)
    plan = plan_copy(hub, repo, branch, commit, keep_foreign=not exact, repo_type=repo_type)
    if plan.head is not None and repo_type == "model" and not force:
        refuse_other_kind(hub, repo, branch, commit, plan.head)
    named = commit[:12] if commit.startswith(source.lower()) else f"{source} ({short_commit(commit)})"
    nothing_to_do = None
    if plan.head is not None and not plan.change:
        nothing_to_do = f"{branch} of {repo} already holds the files of {named}, at {short_commit(plan.head)}."
    left = _gguf_left(hub, repo, plan, repo_type) if nothing_to_do is None else ()
    return BranchChange("promotion", repo, repo_type, plan, f"Promote {named} to {branch}", nothing_to_do, left)


def plan_rollback(
    hub: Hub,
    repo: str,
    branch: str,
    *,
    to: str | None = None,
    steps: int | None = None,
    force: bool = False,
    repo_type: RepoType = "model",
) -> BranchChange:
    """Plan to roll ``branch`` back to the files that it held at ``to``, or ``steps`` changes ago (at least 1).

    With neither it goes back one step, and nothing is changed when its last commit is a rollback already: the same
    command can be run again after an interruption. RefusedError for a revision that the branch was never at, unless
    ``force``.
    """
    head = hub.head(repo, branch, repo_type)
    if head is None:
        raise UsageError(f"{repo} has no branch {branch!r}.", hint=f"`hubkit revisions list {repo}` shows what it has.")
    commits = _without_undone(hub, repo, hub.history(repo, head, repo_type), repo_type)
    nothing_to_do = None
    if to is not None:
        target = _target(hub, repo, branch, to, commits, force, repo_type)
    elif steps is None and (undone := _last_rollback(hub, repo, commits, repo_type)):
        target = undone
        nothing_to_do = (
            f"The last commit of {branch} ({short_commit(head)}) is already a rollback, to {short_commit(undone)}. "
            "To roll back further, use --to or --steps."
        )
    else:
        target = _back(hub, repo, branch, commits, steps or 1, repo_type)
    plan = plan_copy(hub, repo, branch, target, repo_type=repo_type)
    if plan.head != head:
        raise branch_moved(repo, branch, head, plan.head)
    if nothing_to_do is None and not plan.change:
        nothing_to_do = (
            f"{branch} of {repo} already holds the files of {short_commit(target)}, at {short_commit(head)}."
        )
    title = f"Roll back {branch} to {short_commit(target)}, from {short_commit(plan.head)}"
    left = _gguf_left(hub, repo, plan, repo_type) if nothing_to_do is None else ()
    return BranchChange("rollback", repo, repo_type, plan, title, nothing_to_do, left)


def _gguf_left(hub: Hub, repo: str, plan: CopyPlan, repo_type: RepoType) -> tuple[str, ...]:
    """The branches of GGUF files that the change leaves behind."""
    if repo_type != "model" or plan.head is None:
        return ()
    after = plan.wanted if plan.exact else plan.ownership.outcome(plan.tree, plan.wanted)
    return left_behind(hub, repo, plan.branch, after)


def _without_undone(hub: Hub, repo: str, commits: list[Commit], repo_type: RepoType) -> list[Commit]:
    """``commits`` without a commit whose files the Hub changed and that was undone at once. The files decide."""
    while match := PUT_BACK.fullmatch(commits[0].title):
        found = next((place for place, item in enumerate(commits) if item.id.startswith(match[1])), None)
        if found is None or compare(
            hub.tree(repo, commits[found].id, repo_type), hub.tree(repo, commits[0].id, repo_type)
        ):
            break
        commits = commits[found:]
    return commits


def _target(hub: Hub, repo: str, branch: str, to: str, commits: list[Commit], force: bool, repo_type: RepoType) -> str:
    known = {item.id for item in commits}
    target = by_short_id(repo, to, known) or commit_of(hub, repo, to, repo_type)
    if target not in known and not force:
        raise RefusedError(
            f"{branch} of {repo} was never at {to}{f' ({short_commit(target)})' if target != to else ''}.",
            hint=f"`hubkit revisions history {repo} {branch}` shows where it was. `hubkit revisions promote` copies "
            "the files of another revision; --force rolls back to this one anyway.",
        )
    return target


def _back(hub: Hub, repo: str, branch: str, commits: list[Commit], steps: int, repo_type: RepoType) -> str:
    """The newest commit that is ``steps`` changes of the tree before the head."""
    tree, changes = hub.tree(repo, commits[0].id, repo_type), 0
    for item in commits[1:]:
        older = hub.tree(repo, item.id, repo_type)
        changes += bool(compare(older, tree))
        if changes == steps:
            return item.id
        tree = older
    raise UsageError(
        f"{branch} of {repo} has only {counted(changes, 'earlier state')}.",
        hint=f"`hubkit revisions history {repo} {branch}` shows them.",
    )


def _last_rollback(hub: Hub, repo: str, commits: list[Commit], repo_type: RepoType) -> str | None:
    """The commit that the newest one rolled back to; None when it is no rollback. The files decide, not the title."""
    match = ROLLED_BACK.fullmatch(commits[0].title)
    target = by_short_id(repo, match[1], {item.id for item in commits[1:]}) if match else None
    if target is None or compare(hub.tree(repo, target, repo_type), hub.tree(repo, commits[0].id, repo_type)):
        return None
    return target
