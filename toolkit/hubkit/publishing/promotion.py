"""Promote a verified release to its branch: the files of the staged commit, in one commit on the branch's head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hubkit.core.files import Manifest
from hubkit.core.trees import tree_of
from hubkit.hub.client import Hub
from hubkit.publishing.copying import apply, plan_copy
from hubkit.publishing.edited_cards import refuse_if_edited
from hubkit.publishing.notes import Note, no_note


@dataclass(frozen=True)
class Promotion:
    """The outcome of a promotion.

    ``previous`` is the head before, None for a new branch. ``written`` is False when the branch was up to date.
    ``removed`` are files of the release before. Of the foreign files, ``kept`` stay on the branch and ``replaced``
    were overwritten.
    """

    commit: str
    previous: str | None
    written: bool
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


def promote(
    hub: Hub,
    repo: str,
    branch: str,
    source: str,
    manifest: Manifest,
    *,
    title: str,
    expected_cards: Mapping[str, str] | None = None,
    note: Note = no_note,
) -> Promotion:
    """Bring ``branch`` to the release at the commit ``source``; ``manifest`` is its file list.

    A missing branch is created at ``source``. On an existing branch the Hub copies the files in one commit;
    :mod:`hubkit.publishing.ownership` decides which of its other files are kept. Nothing is written when it holds
    the release already. ConflictError when the branch moves in the meantime, or when a card on it differs from the
    one that was read (``expected_cards``: the digests that were read, by path; None: not checked).
    """
    wanted = tree_of(manifest)
    plan = plan_copy(hub, repo, branch, source, wanted=wanted, keep_foreign=True)
    if plan.head is not None and expected_cards is not None:
        refuse_if_edited(repo, branch, plan.tree, wanted, expected_cards)
    if plan.head is not None and plan.change:
        note(f"branch-begun[{branch}]", branch=branch, commit=plan.head, source=source)
    head = apply(hub, repo, plan, title=title)
    note(f"branch-moved[{branch}]", branch=branch, commit=head, source=source)
    written = plan.head is None or bool(plan.change)
    return Promotion(
        head, plan.head, written, plan.ownership.removed if written else (), plan.kept, plan.replaced if written else ()
    )
