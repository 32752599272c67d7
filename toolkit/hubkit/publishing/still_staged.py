"""Whether the Hub still holds a staged commit as it was verified."""

from __future__ import annotations

from hubkit.core.trees import Tree, compare, tree_of
from hubkit.hub.client import Gated, Hub
from hubkit.publishing.edited_cards import edited_cards
from hubkit.publishing.ownership import holds_release
from hubkit.publishing.staged import StagedCommit
from hubkit.recipe.names import STAGING


def no_longer_staged(hub: Hub, staged: StagedCommit, *, gated: Gated | None, proposed: bool) -> str | None:
    """None while the Hub still shows ``staged`` as it was verified, and no card was edited since; else what changed.

    ``gated`` is who may read the repo, by the recipe. ``proposed``: the commit is that of a pull request.
    """
    if not hub.repo_exists(staged.repo):
        return f"{staged.repo} no longer exists"
    tree = hub.tree_if_there(staged.repo, staged.commit)
    if tree is None:
        return f"the staged commit {staged.commit[:12]} no longer exists"
    wanted = tree_of(staged.bundle)
    if not holds_release(tree, wanted) if proposed else compare(wanted, tree):
        return f"the staged commit {staged.commit[:12]} holds other files"
    if not proposed and gated and hub.gated(staged.repo) != gated:
        return f"access to {staged.repo} is no longer restricted as the recipe says (gated: {gated})"
    if proposed:  # what was edited since is for the owner to see who merges
        return None if staged.pull_request else _no_longer_there(hub, staged.repo, staged.branch, wanted)
    branch = staged.branch.removeprefix(f"{STAGING}/")
    head = hub.head(staged.repo, branch)
    if head is not None and edited_cards(hub.tree(staged.repo, head), tree, staged.expected_card_digests):
        return f"a card on the branch {branch!r} was edited since it was read"
    return None


def _no_longer_there(hub: Hub, repo: str, branch: str, wanted: Tree) -> str | None:
    """Why a release that its branch held already, so that nothing was proposed, is to be proposed now."""
    head = hub.head(repo, branch)
    if head is not None and holds_release(hub.tree(repo, head), wanted):
        return None
    return f"the branch {branch!r} of {repo} no longer holds the release"
