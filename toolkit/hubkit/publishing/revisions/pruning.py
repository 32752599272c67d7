"""Old staging branches: which can be deleted, and why the others are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from hubkit.core.numbers import exact, short_commit
from hubkit.hub.client import Commit, Hub, RepoType
from hubkit.publishing.manifest import MANIFEST_PATH, provenance_at
from hubkit.publishing.ownership import holds_release
from hubkit.publishing.revisions.history import RELEASED
from hubkit.publishing.revisions.naming import delete
from hubkit.publishing.revisions.promotion import PROMOTED
from hubkit.recipe.names import STAGING

DAYS = 7.0
"""Days after which a staging branch is old."""


@dataclass(frozen=True)
class Staged:
    """One staging branch: whether it can be deleted, and why or why not. ``days`` since its last commit."""

    branch: str
    commit: str
    days: float
    goes: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The branch as plain values."""
        return asdict(self)


def plan_prune(
    hub: Hub, repo: str, days: float = DAYS, *, now: datetime | None = None, repo_type: RepoType = "model"
) -> list[Staged]:
    """Every staging branch of ``repo``, by name.

    One can be deleted that hubkit created, that is older than ``days``, and whose release has been promoted or
    superseded by a later one.
    """
    now = now or datetime.now(UTC)
    heads = hub.refs(repo, repo_type).branches
    found = []
    for branch, commit in sorted(heads.items()):
        if not branch.startswith(f"{STAGING}/"):
            continue
        last = hub.history(repo, commit, repo_type)[0]
        age = (now - datetime.fromisoformat(last.date)).total_seconds() / 86400
        reason = _why(hub, repo, branch, last, heads, repo_type)
        keep = (
            f"younger than {exact(days)} days" if age < days else None if reason else "its release was never promoted"
        )
        if MANIFEST_PATH not in hub.tree(repo, commit, repo_type):
            keep = "not published by hubkit"
        found.append(Staged(branch, commit, round(age, 2), keep is None, keep or str(reason)))
    return found


def _why(hub: Hub, repo: str, branch: str, staged: Commit, heads: dict[str, str], repo_type: RepoType) -> str | None:
    """Why the staging branch is not needed any more; None when it may be."""
    variant = branch.removeprefix(f"{STAGING}/")
    if variant not in heads:
        return None
    history = hub.history(repo, heads[variant], repo_type)
    if any(item.id == staged.id or staged.id[:12] in item.title for item in history):
        return f"promoted to {variant}"
    tree = hub.tree(repo, staged.id, repo_type)
    provenance = provenance_at(hub, repo, staged.id, tree, repo_type)
    ours = {path: tree[path] for path in provenance.paths if path in tree} if provenance else dict(tree)
    if holds_release(hub.tree(repo, heads[variant], repo_type), ours):
        return f"promoted to {variant}"
    later = (item for item in history if RELEASED.fullmatch(item.title) or PROMOTED.fullmatch(item.title))
    newer = next((item for item in later if item.date > staged.date), None)
    return f"superseded by {short_commit(newer.id)} on {variant}" if newer else None


def prune(hub: Hub, repo: str, staged: Sequence[Staged], repo_type: RepoType = "model") -> list[Staged]:
    """Delete those of ``staged`` that can be deleted; returns them. One that has moved since is kept."""
    removed = []
    for item in staged:
        if item.goes and hub.head(repo, item.branch, repo_type) == item.commit:
            delete(hub, repo, item.branch, repo_type, force=True)
            removed.append(item)
    return removed
