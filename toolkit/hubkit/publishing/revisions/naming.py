"""Create and delete branches and tags. With ``dry_run`` everything is checked and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hubkit.core.errors import ConflictError, HubkitError, RefusedError, UsageError
from hubkit.core.names import ref_problem
from hubkit.core.numbers import short_commit
from hubkit.hub.client import Hub, RepoType
from hubkit.hub.errors import contradiction
from hubkit.hub.refs import refuse_if_in_the_way
from hubkit.hub.retry import write_and_verify
from hubkit.hub.revision_names import commit_of
from hubkit.publishing.compare_and_swap import branch_moved
from hubkit.publishing.revisions.guards import pointed_to_by
from hubkit.recipe.names import MAIN


@dataclass(frozen=True)
class RefChange:
    """A branch or tag that was created or deleted, and its commit. ``already``: there was nothing to do."""

    kind: Literal["branch", "tag"]
    name: str
    commit: str
    already: bool = False


def _write(hub: Hub, what: str, write: Callable[[], object], reached: Callable[[], bool]) -> None:
    """Call ``write`` and check that its outcome is ``reached``; after a failure, before it is called again.

    NotAnAnswer when the Hub answered that ``what`` was done, and it was not.
    """

    def look(failure: HubkitError | None) -> bool | None:
        try:
            return True if reached() else None
        except HubkitError:
            if failure is None:
                raise
            raise failure from None

    if write_and_verify(write, look) is None:
        raise contradiction(hub.endpoint, f"it answered that {what}, and shows that it was not")


def create(
    hub: Hub, repo: str, branch: str, at: str = MAIN, repo_type: RepoType = "model", *, dry_run: bool = False
) -> RefChange:
    """Create ``branch`` at the revision ``at``; nothing is done when it is there already.

    UsageError for an invalid branch name, for a missing revision, and for a branch that exists at another commit;
    ConflictError when somebody else creates it at another commit in the meantime.
    """
    if problem := ref_problem(branch):
        raise UsageError(f"{branch!r} cannot be a branch: {problem}.", hint="Choose another name.")
    commit = commit_of(hub, repo, at, repo_type)
    refs = hub.refs(repo, repo_type)
    if branch in refs.tags:
        raise UsageError(f"{repo} has a tag {branch!r}; a branch of that name would hide it.")
    known = refs.branches.get(branch)
    if known is not None and known != commit:
        raise UsageError(
            f"{repo} already has a branch {branch!r}, at {short_commit(known)}.", hint="Choose another name."
        )
    refuse_if_in_the_way(repo, branch, refs.branches)
    if known is None and not dry_run:
        _write(
            hub,
            f"the branch {branch!r} of {repo} was created",
            lambda: hub.create_branch(repo, branch, commit, repo_type),
            lambda: hub.head(repo, branch, repo_type) is not None,
        )
        created = hub.head(repo, branch, repo_type)
        if created != commit:
            raise ConflictError(
                f"Someone else created the branch {branch!r} of {repo} in the meantime, at {short_commit(created)}.",
                hint=f"Inspect it with `hubkit revisions list {repo}`.",
            )
    return RefChange("branch", branch, commit, already=known is not None)


def delete(
    hub: Hub,
    repo: str,
    name: str,
    repo_type: RepoType = "model",
    *,
    is_tag: bool = False,
    at: str | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> RefChange:
    """Delete the branch ``name``, or the tag: when there is no such branch, or with ``is_tag``.

    RefusedError for main, always, and unless ``force`` when a card of the repo or a Space refers to it. ConflictError
    when it is no longer at the commit ``at``.
    """
    refs = hub.refs(repo, repo_type)
    is_tag = is_tag or (name not in refs.branches and name in refs.tags)
    kind: Literal["branch", "tag"] = "tag" if is_tag else "branch"
    if name == MAIN and not is_tag:
        raise RefusedError(f"{MAIN!r} is the default branch and cannot be removed.")
    commit = (refs.tags if is_tag else refs.branches).get(name)
    if commit is None:
        what = "tag" if is_tag else "branch or tag"
        raise UsageError(f"{repo} has no {what} {name!r}.", hint=f"`hubkit revisions list {repo}` shows what it has.")
    if at is not None and commit != at:
        raise branch_moved(repo, name, at, commit)
    if not force and (reader := pointed_to_by(hub, repo, name, commit, repo_type)):
        raise RefusedError(
            f"The {kind} {name!r} of {repo} is in use: {reader}.",
            hint="Change that first, or remove it with --force.",
        )
    if not dry_run:
        _remove(hub, repo, name, repo_type, is_tag)
    return RefChange(kind, name, commit)


def _remove(hub: Hub, repo: str, name: str, repo_type: RepoType, is_tag: bool) -> None:
    def gone() -> bool:
        refs = hub.refs(repo, repo_type)
        return name not in (refs.tags if is_tag else refs.branches)

    if is_tag:
        _write(
            hub,
            f"the tag {name!r} of {repo} was removed",
            lambda: hub.delete_tag(repo, name, repo_type),
            gone,
        )
    else:
        _write(
            hub,
            f"the branch {name!r} of {repo} was removed",
            lambda: hub.delete_branch(repo, name, repo_type),
            gone,
        )


def tag(
    hub: Hub,
    repo: str,
    name: str,
    at: str = MAIN,
    message: str | None = None,
    repo_type: RepoType = "model",
    *,
    dry_run: bool = False,
) -> RefChange:
    """Create the tag ``name`` at the revision ``at``; UsageError when the tag exists at another commit."""
    if problem := ref_problem(name):
        raise UsageError(f"{name!r} cannot be a tag: {problem.replace('branch', 'tag')}.", hint="Choose another name.")
    commit = commit_of(hub, repo, at, repo_type)
    refs = hub.refs(repo, repo_type)
    if name in refs.branches:
        raise UsageError(f"{repo} has a branch {name!r}; it would hide a tag of that name.")
    known = refs.tags.get(name)
    if known not in {None, commit}:
        raise UsageError(
            f"{repo} already has a tag {name!r}, at {short_commit(known)}.", hint="Choose another name for the tag."
        )
    refuse_if_in_the_way(repo, name, refs.tags, "tag")
    if known is None and not dry_run:
        _write(
            hub,
            f"the tag {name!r} of {repo} was created",
            lambda: hub.create_tag(repo, name, commit, message, repo_type),
            lambda: hub.refs(repo, repo_type).tags.get(name) == commit,
        )
    return RefChange("tag", name, commit, already=known is not None)
