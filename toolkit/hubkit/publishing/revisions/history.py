"""The commits of a branch, what each changed, and the release it belongs to."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hubkit.core.trees import Entry, compare, tree_digest
from hubkit.hub.client import Commit, Hub, RepoType
from hubkit.hub.revision_names import commit_of
from hubkit.publishing.revisions.listing import facts_of
from hubkit.publishing.revisions.promotion import PROMOTED, ROLLED_BACK

RELEASED = re.compile(r"Release .+ \(staged as ([0-9a-f]{12})\)|Stage .+ for release")
"""The titles of a release's commits (hubkit_stages.promote, hubkit_stages.publish)."""


@dataclass(frozen=True)
class Step:
    """One commit of a branch, and the tree that it left.

    ``source`` is the revision whose files it copied (12 digits), ``changed`` how many files it added, removed or
    changed; ``tree`` is equal for commits that left the same files. ``stop_rates`` are shares by published form.
    """

    commit: str
    date: str
    title: str
    kind: Literal["release", "promotion", "rollback", "commit"]
    source: str | None
    changed: int
    files: int
    size: int
    tree: str
    variant: str | None
    stop_rates: dict[str, float] | None
    average: float | None

    def to_json(self) -> dict[str, Any]:
        """The step as plain values; ``size`` in bytes."""
        return asdict(self)


def history(hub: Hub, repo: str, branch: str, repo_type: RepoType = "model", *, limit: int = 20) -> list[Step]:
    """The last ``limit`` commits that lead to the branch (or any revision), newest first.

    A promotion is known by its title; a rollback by its title, or by files that an earlier commit left and the one
    before did not.
    """
    commits = hub.history(repo, commit_of(hub, repo, branch, repo_type), repo_type)
    trees = [hub.tree(repo, item.id, repo_type) for item in commits[: limit + 1]]
    digests = [tree_digest(tree) for tree in trees]
    found = []
    for place, item in enumerate(commits[:limit]):
        before: dict[str, Entry] = trees[place + 1] if place + 1 < len(trees) else {}
        kind, source = _kind(item, digests[place:], commits[place:])
        facts = facts_of(hub, repo, item.id, trees[place], repo_type)
        del facts["base"], facts["branch"], facts["gguf"]
        found.append(
            Step(
                commit=item.id,
                date=item.date,
                title=item.title,
                kind=kind,
                source=source,
                changed=len(compare(before, trees[place]).changes),
                tree=digests[place],
                **facts,
            )
        )
    return found


def _kind(
    item: Commit, digests: list[str], commits: list[Commit]
) -> tuple[Literal["release", "promotion", "rollback", "commit"], str | None]:
    """What the newest of ``commits`` is; ``digests`` are those of its tree and of the ones before it."""
    if match := PROMOTED.fullmatch(item.title):
        return "promotion", match[1]
    if match := RELEASED.fullmatch(item.title):
        return "release", match[1]
    if match := ROLLED_BACK.fullmatch(item.title):
        return "rollback", match[1]
    if len(digests) > 2 and digests[0] != digests[1] and digests[0] in digests[2:]:
        return "rollback", commits[digests.index(digests[0], 2)].id[:12]
    return "commit", None
