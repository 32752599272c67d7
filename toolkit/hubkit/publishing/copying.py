"""Copy the files of a revision to a branch, in one commit: plan it, then apply it.

The plan is made from one read of the branch and can be shown; the commit has the head that was read as its parent, so
that the plan is carried out as shown, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hubkit.core.errors import ConflictError, HubkitError
from hubkit.core.numbers import short_commit
from hubkit.core.trees import Tree, TreeDiff, compare, short_list
from hubkit.hub.client import Hub, RepoType
from hubkit.hub.commits import Content, Deletion, LargeFile, Operation
from hubkit.publishing.compare_and_swap import OtherContent, branch_moved, commit
from hubkit.publishing.manifest import MANIFEST_PATH, provenance_at
from hubkit.publishing.ownership import Ownership, decide

PUT_BACK = re.compile(r"Put back the files of ([0-9a-f]{12}), instead of ([0-9a-f]{12})")
"""The title of the commit that undoes one of ours whose content the Hub changed, with the ids of both."""


@dataclass(frozen=True)
class CopyPlan:
    """What brings ``branch`` to the files of the commit ``source``, as read at one moment. Nothing is written yet.

    ``head`` is the branch's commit, the parent of the commit to come, and ``tree`` its files; None and empty when there
    is no such branch. ``wanted`` are the files of the source, ``change`` what the commit changes, and ``ownership``
    which foreign files are kept or replaced (none when the branch is to hold exactly the source's files).
    """

    branch: str
    source: str
    head: str | None
    wanted: Tree
    change: TreeDiff
    exact: bool = True
    ownership: Ownership = field(default_factory=Ownership)
    tree: Tree = field(default_factory=dict, repr=False)

    @property
    def kept(self) -> tuple[str, ...]:
        """Foreign files that stay on the branch."""
        return () if self.exact else self.ownership.kept

    @property
    def replaced(self) -> tuple[str, ...]:
        """Foreign files that are overwritten by files of the source."""
        return () if self.exact else self.ownership.replaced

    def reached(self, tree: Tree) -> bool:
        """Whether ``tree`` is what the plan brings about."""
        return not compare(tree, self.wanted) if self.exact else self.ownership.reached(tree, self.wanted)


def plan_copy(
    hub: Hub,
    repo: str,
    branch: str,
    source: str,
    *,
    wanted: Tree | None = None,
    keep_foreign: bool = False,
    repo_type: RepoType = "model",
) -> CopyPlan:
    """Plan to bring ``branch`` to the files of the commit ``source``: exactly, or with foreign files kept.

    Only hubkit's manifest shows which files are foreign: with ``keep_foreign`` they are kept when there is a manifest
    on the branch or at the source. ``wanted`` is the source's tree, where it is known.
    """
    head = hub.head(repo, branch, repo_type)
    wanted = hub.tree(repo, source, repo_type) if wanted is None else wanted
    if head is None:
        return CopyPlan(branch, source, None, wanted, compare({}, wanted))
    tree = hub.tree(repo, head, repo_type)
    exact = not (keep_foreign and (MANIFEST_PATH in tree or MANIFEST_PATH in wanted))
    provenance = None if exact else provenance_at(hub, repo, head, tree, repo_type)
    ownership = decide(tree, wanted, provenance.paths if provenance else (), exact=exact)
    change = compare(tree, ownership.outcome(tree, wanted))
    return CopyPlan(branch, source, head, wanted, change, exact, ownership, tree)


def apply(hub: Hub, repo: str, plan: CopyPlan, *, title: str, repo_type: RepoType = "model") -> str:
    """Apply ``plan`` in one commit on the head that it was made for; returns the branch's head.

    A missing branch is created at the source. Nothing is written when the branch holds the tree already. ConflictError
    when it was moved since, or when the source does not hold the wanted files.
    """
    if plan.head is None:
        head = hub.create_branch(repo, plan.branch, plan.source, repo_type)
        if head != plan.source:  # somebody else created it at the same moment
            raise branch_moved(repo, plan.branch, None, head)
        return head
    if not plan.change:
        return plan.head
    operations = _operations(hub, repo, plan, repo_type)
    return commit_or_restore(hub, repo, plan.branch, plan.head, operations, plan.reached, title, repo_type)


def commit_or_restore(
    hub: Hub,
    repo: str,
    branch: str,
    head: str,
    operations: Sequence[Operation],
    reached: Callable[[Tree], bool],
    title: str,
    repo_type: RepoType = "model",
) -> str:
    """:func:`compare_and_swap.commit`; when the Hub stored other files than were sent, the old ones are put back."""
    try:
        return commit(hub, repo, branch, head, operations, reached, title, repo_type)
    except OtherContent as error:
        undo = f"hubkit revisions rollback {repo} {branch} --to {head}"
        try:
            plan = plan_copy(hub, repo, branch, head, repo_type=repo_type)
            if plan.head != error.head:
                raise branch_moved(repo, branch, error.head, plan.head)
            back = commit(
                hub, repo, branch, error.head, _operations(hub, repo, plan, repo_type), plan.reached,
                f"Put back the files of {short_commit(head)}, instead of {short_commit(error.head)}", repo_type,
            )  # fmt: skip
        except HubkitError as failure:
            raise ConflictError(
                f"{error.message} Putting back the files of {short_commit(head)} failed: {failure.message}",
                hint=f"The branch holds wrong files until they are put back: {undo}",
            ) from error
        raise ConflictError(
            f"{error.message} The files of {short_commit(head)} were put back, at {short_commit(back)}.",
            hint="The Hub or a proxy alters files. Run the same command again where none does.",
        ) from error


def _operations(hub: Hub, repo: str, plan: CopyPlan, repo_type: RepoType) -> list[Operation]:
    return [
        *(Deletion(item.path) for item in plan.change.removed),
        *_copies(hub, repo, plan, repo_type),
    ]


def _copies(hub: Hub, repo: str, plan: CopyPlan, repo_type: RepoType) -> list[Operation]:
    """The operations that write the files of the source which the branch lacks.

    The Hub copies LFS files by their digest. It cannot copy the others: they are read, compared with their digest, and
    sent again.
    """
    paths = [item.path for item in plan.change.changes if item.after]
    listed = hub.tree(repo, plan.source, repo_type)
    wrong = [path for path in paths if path not in listed or not listed[path].same(plan.wanted[path])]
    if wrong:
        raise ConflictError(
            f"{repo}@{short_commit(plan.source)} does not hold the files to be copied: {short_list(wrong)}. The branch"
            f" {plan.branch!r} was not changed.",
            hint="Run the same command again.",
        )
    small = hub.read_files(
        repo, plan.source, {path: listed[path] for path in paths if listed[path].sha256 is None}, repo_type
    )
    return [
        Content(path, small[path]) if path in small else LargeFile(path, str(listed[path].sha256)) for path in paths
    ]


def restore(
    hub: Hub, repo: str, branch: str, source: str, *, head: str, title: str, repo_type: RepoType = "model"
) -> str:
    """Bring ``branch`` back to exactly the files of the commit ``source``, in one commit on ``head``.

    Returns the new head. Nothing is written when the branch holds that tree already. ConflictError when it does not,
    and is not at ``head`` any more.
    """
    plan = plan_copy(hub, repo, branch, source, repo_type=repo_type)
    if plan.change and plan.head != head:
        raise branch_moved(repo, branch, head, plan.head)
    return apply(hub, repo, plan, title=title, repo_type=repo_type)
