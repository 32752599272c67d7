"""The cards that are on a branch when a release writes them again, and the edits that people made to them there.

A card is ours as long as it is what the last release generated. What was edited since is kept
(:mod:`hubkit.cards.edits`); where this release changes the same section, it stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hubkit.cards.edits import MergedCard, keep_edits
from hubkit.cards.snippets.blocks import without_front_matter
from hubkit.cards.validate import validate
from hubkit.core.errors import ConflictError, RefusedError
from hubkit.core.findings import Finding
from hubkit.core.numbers import size
from hubkit.core.trees import Entry, Tree
from hubkit.hub.client import Hub
from hubkit.publishing.manifest import CARDS, GENERATED, provenance_at

_LARGEST_CARD = 2**20


def edit_findings(hub: Hub, repo: str, branch: str, head: str) -> Iterator[Finding]:
    """What is known of the cards on the branch at ``head``, before this release's own are written."""
    for path, before, now in _on_branch(hub, repo, head, hub.tree(repo, head)):
        yield from _findings(f"{path} of the branch {branch!r} of {repo}", before, now)


def _findings(card: str, before: str | None, now: str) -> Iterator[Finding]:
    hint = "Move the text elsewhere, or replace it with `hubkit release --overwrite-card`."
    if before is None:
        if without_front_matter(now).strip():
            yield Finding("error", f"{card} was not written by hubkit and would be overwritten.", hint, 4)
        return
    found = keep_edits(before, now, before)
    if found.conflicts:
        yield Finding("error", f"{card} has an edit that cannot be merged: {found.conflicts[0].where}.", hint, 4)
    elif found.kept:
        yield Finding(
            "warning",
            f"{card} was edited on the Hub: {', '.join(found.kept)}. "
            "The edit is kept. If this release changes the same section, it stops before publishing.",
        )


def with_edits(
    hub: Hub, repo: str, branch: str, new: Mapping[str, str], *, overwrite: bool
) -> tuple[dict[str, MergedCard], dict[str, str]]:
    """The cards of ``new`` (by path) that a person edited on the branch, merged; and what was read there, a digest by
    path.

    ConflictError when an edit would be lost, RefusedError when the Hub would reject the card with it; with
    ``overwrite`` neither: the edit is replaced.
    """
    head = hub.head(repo, branch) if hub.repo_exists(repo) else None
    if head is None:
        return {}, {}
    tree = hub.tree(repo, head)
    read = {path: _digest(tree[path]) for path in CARDS.values() if path in tree}
    found: dict[str, MergedCard] = {}
    for path, before, now in _on_branch(hub, repo, head, tree):
        if path not in new:
            continue
        made = keep_edits(before, now, new[path])
        if made.conflicts and not overwrite:
            shown = "\n".join(
                f"  {item.where}\n" + "\n".join(f"    {line}" for line in item.edit) for item in made.conflicts
            )
            raise ConflictError(
                f"{path} on the branch {branch!r} of {repo} was edited on the Hub in a section that this release also"
                f" changes:\n{shown}",
                hint="Move the edit into the recipe, or outside the marked section on the Hub, and run again."
                " `hubkit release --overwrite-card` replaces it.",
            )
        known = validate(new[path]) if made.kept else []
        if made.kept and (problems := [item for item in validate(made.text) if item not in known]):
            if overwrite:
                continue
            raise RefusedError(
                f"{path} on the branch {branch!r} of {repo} would be rejected by the Hub with the edit made there: "
                f"{' '.join(item.message for item in problems)}",
                hint="Fix it on the Hub, or replace it with `hubkit release --overwrite-card`.",
            )
        if made.kept or made.conflicts:
            found[path] = made
    return found, read


def kept_sentences(cards: Mapping[str, MergedCard], repo: str, branch: str) -> tuple[str, ...]:
    """What is told of the edits in ``cards`` (by path), a sentence for each card."""
    return tuple(
        f"{path} of the branch {branch!r} of {repo} keeps what was edited on the Hub: {', '.join(card.kept)}."
        for path, card in cards.items()
        if card.kept
    )


def _on_branch(hub: Hub, repo: str, head: str, tree: Tree) -> Iterator[tuple[str, str | None, str]]:
    """(path, text as it was generated last time or None, text now) of each card on the branch at ``head``."""
    for name, path in CARDS.items():
        if path not in tree:
            continue
        if tree[path].size > _LARGEST_CARD:
            raise ConflictError(f"{path} of {repo} has {size(tree[path].size)}, too much for a card.")
        now = (hub.read_file(repo, path, head, listed=tree[path]) or b"").decode(errors="replace")
        generated = tree.get(f"{GENERATED}/{name}")
        before = hub.read_file(repo, f"{GENERATED}/{name}", head, listed=generated) if generated else None
        if before is None and _unchanged(hub, repo, head, path, tree):
            yield path, now, now
        else:
            yield path, before.decode(errors="replace") if before is not None else None, now


def _unchanged(hub: Hub, repo: str, head: str, path: str, tree: Tree) -> bool:
    """Whether ``path`` equals the digest in the branch's manifest; for releases that kept no copy of their cards."""
    found = provenance_at(hub, repo, head, tree)
    promised = found.promised.get(path) if found else None
    return promised is not None and tree[path].same(promised)


def _digest(entry: Entry) -> str:
    return entry.sha256 or entry.git or ""
