"""The released branches: the commit of each variant on the Hub after the promotion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hubkit.core.files import Manifest
from hubkit.core.trees import tree_of
from hubkit.hub.client import Hub
from hubkit.publishing.ownership import holds_release
from hubkit.recipe.artifact import JsonArtifact
from hubkit.recipe.models import Place
from hubkit.recipe.names import GGUF


@dataclass(frozen=True)
class ReleasedBranch:
    """A variant's branch at ``commit``.

    ``repo`` and ``branch`` are where it is; None: in the repo of the release, on the branch of the variant's name.
    ``tree`` is the digest of the bundle that it holds, ``previous`` the head before (None: the branch is new),
    ``foreign`` are files not published by hubkit that were kept, ``replaced`` those that were overwritten.
    Of a release that was only proposed, ``pull_request`` is the number and ``status`` its state when it was read.
    """

    commit: str
    staging_commit: str
    tree: str
    previous: str | None = None
    written: bool = False
    removed: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    pull_request: int | None = None
    status: str | None = None
    repo: str | None = None
    branch: str | None = None


@dataclass(frozen=True)
class ReleasedBranches(JsonArtifact):
    """Every variant that was released, in the order in which the branches moved. ``repo`` is that of the release.

    ``gguf`` are the branches of GGUF files, by variant, which moved before; none where they are in a variant's own.
    """

    FILE = "release.json"
    repo: str
    variants: Mapping[str, ReleasedBranch]
    gguf: Mapping[str, ReleasedBranch] = field(default_factory=dict)

    def place(self, variant: str) -> Place:
        """Where ``variant`` is."""
        item = self.variants[variant]
        return Place(item.repo or self.repo, item.branch or variant)

    def gguf_place(self, variant: str) -> Place:
        """Where the GGUF files of ``variant`` are, which have a place of their own."""
        item = self.gguf[variant]
        return Place(item.repo or self.repo, item.branch or GGUF)


def changed_since(
    hub: Hub, released: ReleasedBranches, bundles: Mapping[str, Manifest], gguf: Mapping[str, Manifest] | None = None
) -> str | None:
    """What of ``released`` the Hub no longer holds; None while it holds all of it.

    ``bundles`` are the files of each variant, ``gguf`` those of each variant's GGUF branch. A branch that has moved
    still counts when it has all of them.
    """
    heads: dict[str, Mapping[str, str]] = {}
    placed = [(released.place(name), item, bundles[name]) for name, item in released.variants.items()]
    for name, item in released.gguf.items():
        placed.append((released.gguf_place(name), item, (gguf or {})[name]))
    for (repo, branch), item, bundle in placed:
        if repo not in heads:
            if not hub.repo_exists(repo):
                return f"{repo} no longer exists"
            heads[repo] = hub.refs(repo).branches
        if item.pull_request:
            now = hub.pull_request(repo, item.pull_request).status
            if now != item.status:
                return f"the pull request {item.pull_request} of {repo} is {now}, and was {item.status}"
            continue
        head = heads[repo].get(branch)
        if head is None:
            return f"the branch {branch!r} of {repo} no longer exists"
        if head != item.commit and not holds_release(hub.tree(repo, head), tree_of(bundle)):
            return f"the branch {branch!r} of {repo} moved from {item.commit[:12]} to {head[:12]}"
    return None
