"""Branches and tags of a model repo: list, make, remove, name, compare. Any repo that the token may see or write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hubkit.bundle import MANIFEST_PATH, Provenance
from hubkit.config import MAIN, STAGING
from hubkit.diff import TreeDiff, compare
from hubkit.errors import RefusedError, UsageError
from hubkit.hub import Hub, RepoType
from hubkit.names import ref_problem


@dataclass(frozen=True)
class Revision:
    """One branch or tag. Facts of the release are None when the branch carries no manifest of ours.

    ``date`` is the last commit's (ISO 8601, UTC), ``size`` the sum of the files in bytes, ``stop_rates`` shares by
    published form.
    """

    name: str
    kind: Literal["variant", "staging", "branch", "tag"]
    commit: str
    date: str | None
    title: str | None
    size: int
    files: int
    variant: str | None = None
    base: str | None = None
    stop_rates: dict[str, float] | None = None
    average: float | None = None


def list_revisions(hub: Hub, repo: str, repo_type: RepoType = "model") -> list[Revision]:
    """Every branch and tag of ``repo``: main first, then variants and branches, staging branches, tags."""
    refs = hub.refs(repo, repo_type)
    named: list[tuple[str, str, bool]] = [(name, commit, False) for name, commit in refs.branches.items()]
    named += [(name, commit, True) for name, commit in refs.tags.items()]
    seen: dict[str, dict[str, Any]] = {}
    found = []
    for name, commit, is_tag in named:
        if commit not in seen:
            seen[commit] = _facts(hub, repo, commit, repo_type)
        facts = seen[commit]
        found.append(Revision(name=name, kind=_kind(name, is_tag, facts), commit=commit, **facts))
    order = {"variant": 0, "branch": 1, "staging": 2, "tag": 3}
    return sorted(found, key=lambda item: (item.name != MAIN, order[item.kind], item.name))


def _kind(name: str, is_tag: bool, facts: dict[str, Any]) -> Literal["variant", "staging", "branch", "tag"]:
    if is_tag:
        return "tag"
    if name.startswith(f"{STAGING}/"):
        return "staging"
    return "variant" if facts["variant"] == name else "branch"


def _facts(hub: Hub, repo: str, commit: str, repo_type: RepoType) -> dict[str, Any]:
    """What the commit, its tree and its manifest tell."""
    tree = hub.tree(repo, commit, repo_type)
    last = next(iter(hub.history(repo, commit, repo_type)), None)
    raw = hub.read_file(repo, MANIFEST_PATH, commit, repo_type) if MANIFEST_PATH in tree else None
    provenance = Provenance.parse(raw)
    said = dict(provenance.content) if provenance else {}
    base = said.get("base") or {}
    return {
        "date": last.date if last else None,
        "title": last.title if last else None,
        "size": sum(item.size for item in tree.values()),
        "files": len(tree),
        "variant": said.get("variant"),
        "base": f"{base['repo']}@{base['commit']}" if "repo" in base and "commit" in base else None,
        "stop_rates": said.get("stop_rates"),
        "average": said.get("average"),
    }


def create(hub: Hub, repo: str, branch: str, at: str = MAIN, repo_type: RepoType = "model") -> str:
    """Make ``branch`` at the revision ``at`` and return its commit; nothing is done when it stands there already.

    UsageError for a name that cannot be a branch, for a revision that is not there, and for a branch that exists
    elsewhere.
    """
    if problem := ref_problem(branch):
        raise UsageError(f"{branch!r} cannot be a branch: {problem}.", hint="Choose another name.")
    commit = hub.resolve(repo, at, repo_type)
    refs = hub.refs(repo, repo_type)
    if branch in refs.tags:
        raise UsageError(f"{repo} has a tag {branch!r}; a branch of that name would hide it.")
    known = refs.branches.get(branch) or hub.create_branch(repo, branch, commit, repo_type)
    if known != commit:
        raise UsageError(f"{repo} already has a branch {branch!r}, at {known[:12]}.", hint="Choose another name.")
    return commit


def delete(hub: Hub, repo: str, branch: str, *, force: bool = False, repo_type: RepoType = "model") -> str:
    """Remove ``branch`` and return the commit that it named.

    RefusedError for main, always, and for a branch that the card on main speaks of unless ``force``.
    """
    if branch == MAIN:
        raise RefusedError(f"{MAIN!r} is what everybody loads, and cannot be removed.")
    commit = hub.head(repo, branch, repo_type)
    if commit is None:
        raise UsageError(f"{repo} has no branch {branch!r}.", hint=f"`hubkit revisions list {repo}` shows what it has.")
    if not force and not branch.startswith(f"{STAGING}/") and _on_the_card(hub, repo, branch, repo_type):
        raise RefusedError(
            f"The card on {MAIN!r} of {repo} speaks of {branch!r}; its readers would find nothing.",
            hint="Change the card first, or use --force.",
        )
    hub.delete_branch(repo, branch, repo_type)
    return commit


def _on_the_card(hub: Hub, repo: str, branch: str, repo_type: RepoType) -> bool:
    """Whether main's card names the branch as code, in quotes, or in a link."""
    raw = hub.read_file(repo, "README.md", MAIN, repo_type)
    text = raw.decode("utf-8", "replace") if raw else ""
    return any(form in text for form in (f"`{branch}`", f'"{branch}"', f"'{branch}'", f"/tree/{branch}"))


def tag(
    hub: Hub, repo: str, name: str, revision: str = MAIN, message: str | None = None, repo_type: RepoType = "model"
) -> str:
    """Name ``revision`` by the tag ``name`` and return its commit; UsageError when it names another already."""
    if problem := ref_problem(name):
        raise UsageError(f"{name!r} cannot be a tag: {problem.replace('branch', 'tag')}.", hint="Choose another name.")
    hub.create_tag(repo, name, revision, message, repo_type)
    return hub.resolve(repo, name, repo_type)


def difference(hub: Hub, repo: str, before: str, after: str, repo_type: RepoType = "model") -> TreeDiff:
    """The files that differ between two revisions."""
    return compare(hub.tree(repo, before, repo_type), hub.tree(repo, after, repo_type))
