"""Every branch and tag of a repo, with facts from its commit, its files and its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hubkit.core.trees import Tree
from hubkit.hub.client import Hub, RepoType
from hubkit.publishing.manifest import is_gguf_place, provenance_at
from hubkit.recipe.names import MAIN, STAGING

Kind = Literal["variant", "gguf", "staging", "branch", "tag", "pull request"]


@dataclass(frozen=True)
class Revision:
    """One branch or tag. Facts of the release are None when the branch has no manifest of hubkit.

    ``date`` is the last commit's (ISO 8601, UTC), ``size`` the sum of the files in bytes, ``stop_rates`` shares by
    published form, or by the type of a GGUF file. ``kind`` is gguf where a release published GGUF files alone.
    """

    name: str
    kind: Kind
    commit: str
    date: str | None
    title: str | None
    size: int
    files: int
    variant: str | None = None
    base: str | None = None
    stop_rates: dict[str, float] | None = None
    average: float | None = None


def list_revisions(
    hub: Hub, repo: str, repo_type: RepoType = "model", *, pull_requests: bool = False
) -> list[Revision]:
    """Every branch and tag of ``repo``: main first, then variants, GGUF files and branches, staging branches, tags.

    With ``pull_requests`` their refs come at the end.
    """
    refs = hub.refs(repo, repo_type)
    named: list[tuple[str, str, Kind | None]] = [(name, commit, None) for name, commit in refs.branches.items()]
    named += [(name, commit, "tag") for name, commit in refs.tags.items()]
    if pull_requests:
        named += [(ref, commit, "pull request") for ref, commit in hub.pull_request_heads(repo, repo_type).items()]
    seen: dict[str, dict[str, Any]] = {}
    found = []
    for name, commit, kind in named:
        if commit not in seen:
            last = next(iter(hub.history(repo, commit, repo_type)), None)
            tree = hub.tree(repo, commit, repo_type)
            commit_facts = {"date": last.date if last else None, "title": last.title if last else None}
            seen[commit] = commit_facts | facts_of(hub, repo, commit, tree, repo_type)
        facts = dict(seen[commit])
        branch, is_gguf = facts.pop("branch"), facts.pop("gguf")
        kind = kind or _kind(name, branch, is_gguf)
        found.append(Revision(name=name, kind=kind, commit=commit, **facts))
    order = {"variant": 0, "gguf": 1, "branch": 2, "staging": 3, "tag": 4, "pull request": 5}
    return sorted(found, key=lambda item: (item.name != MAIN, order[item.kind], item.name))


def _kind(name: str, branch: str | None, is_gguf: bool) -> Kind:
    """What the branch ``name`` is, whose manifest was made for ``branch``; ``is_gguf``: of GGUF files alone."""
    if name.startswith(f"{STAGING}/"):
        return "staging"
    if branch != name:
        return "branch"
    return "gguf" if is_gguf else "variant"


def facts_of(hub: Hub, repo: str, commit: str, tree: Tree, repo_type: RepoType) -> dict[str, Any]:
    """Facts from the tree and the manifest of ``commit``: the fields of :class:`Revision` from ``size`` on.

    And ``branch``, the one that the manifest was made for: that of the variant's name, unless it says another; and
    ``gguf``, whether it lists GGUF files alone.
    """
    provenance = provenance_at(hub, repo, commit, tree, repo_type)
    content = dict(provenance.content) if provenance else {}
    base, rates, average = content.get("base"), content.get("stop_rates"), content.get("average")
    facts: dict[str, Any] = {
        "size": sum(item.size for item in tree.values()),
        "files": len(tree),
        "variant": str(content["variant"]) if content.get("variant") else None,
        "branch": str(content["variant"]) if content.get("variant") else None,
        "base": None,
        "stop_rates": None,
        "average": float(average) if isinstance(average, int | float) else None,
        "gguf": is_gguf_place(content),
    }
    if facts["variant"] and isinstance(content.get("branch"), str):
        facts["branch"] = content["branch"]
    if isinstance(base, dict) and "repo" in base and "commit" in base:
        facts["base"] = f"{base['repo']}@{base['commit']}"
    if isinstance(rates, dict):
        facts["stop_rates"] = {str(k): float(v) for k, v in rates.items() if isinstance(v, int | float)}
    return facts
