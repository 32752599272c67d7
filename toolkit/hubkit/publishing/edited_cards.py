"""Cards that a person edited on the branch during the release: the release stops instead of overwriting them."""

from __future__ import annotations

from collections.abc import Mapping

from hubkit.core.errors import ConflictError
from hubkit.core.trees import Tree
from hubkit.publishing.manifest import CARDS


def edited_cards(tree: Tree, wanted: Tree, expected: Mapping[str, str]) -> list[str]:
    """The cards on a branch (its ``tree``) that are neither those of ``wanted`` nor those that were read there.

    ``expected`` are the digests of the cards that were read, by path.
    """
    return [
        path
        for path in CARDS.values()
        if path in tree
        and path in wanted
        and not tree[path].same(wanted[path])
        and expected.get(path) not in {tree[path].sha256, tree[path].git} - {None}
    ]


def refuse_if_edited(repo: str, branch: str, tree: Tree, wanted: Tree, expected: Mapping[str, str]) -> None:
    """ConflictError when a card on the branch was edited since it was read (see :func:`edited_cards`)."""
    if paths := edited_cards(tree, wanted, expected):
        raise ConflictError(
            f"{' and '.join(paths)} of the branch {branch!r} of {repo} was edited during the release; the edit was "
            "not overwritten.",
            hint="Run the same command again: it keeps the edit.",
        )
