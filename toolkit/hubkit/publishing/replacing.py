"""`new_version` on the cards of older repos: the page of each then names the repo that replaces it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hubkit.core.bounded_yaml import YamlError
from hubkit.core.errors import ConflictError, RefusedError, UsageError
from hubkit.core.front_matter_edit import read_key, with_key
from hubkit.core.names import repo_id_problem
from hubkit.core.trees import Tree, content_entry
from hubkit.hub.client import Hub
from hubkit.hub.commits import Content
from hubkit.publishing.compare_and_swap import OtherContent, commit
from hubkit.publishing.notes import Note
from hubkit.recipe.artifact import JsonArtifact
from hubkit.recipe.names import MAIN

KEY, CARD, RECIPE_KEY = "new_version", "README.md", "card.replaces"
_BYTES_KEPT = "surrogateescape"
"""How bytes that are no UTF-8 are decoded, so that they are written back as they were."""
_ATTEMPTS = 5
"""How often a card is read again when somebody else commits to it at the same time."""


@dataclass(frozen=True)
class ReplacedRepos(JsonArtifact):
    """The repo ``newer``, and for each repo that it replaces the commit of ``main`` whose card says so."""

    FILE = "new-version.json"
    newer: str
    repos: Mapping[str, str]


def newer_of(hub: Hub, repo: str) -> str | None:
    """What the card on ``main`` of ``repo`` gives as its new version; None when nothing can be read of it."""
    head = hub.head(repo, MAIN)
    card = _card(hub, repo, head) if head else None
    try:
        found = read_key(card, KEY) if card else None
    except YamlError:
        return None
    return found if isinstance(found, str) else None


def circle_problem(hub: Hub, repo: str, newer: str) -> str | None:
    """Why a reader who follows ``new_version`` from ``repo`` to ``newer`` would not arrive, as a sentence; else None.

    ``repo`` may be an old name of ``newer``, to which the Hub leads; or the card of ``newer``, or of one that follows
    on it, may name ``repo``.
    """
    ours, theirs = _id(hub, newer), _id(hub, repo)
    if theirs.lower() == ours.lower():
        return f"{repo} is {theirs} on {hub.endpoint}, so it cannot be replaced by it"
    seen, step = {theirs.lower()}, ours
    while step.lower() not in seen:
        seen.add(step.lower())
        following = newer_of(hub, step) if hub.repo_exists(step) else None
        if following is None or repo_id_problem(following):
            return None
        before, step = step, _id(hub, following)
    if step.lower() != theirs.lower():
        return None  # a circle of others, which does not lead back
    return f"the card of {before} gives {step} as its new version, so the pages would name each other in a circle"


def _id(hub: Hub, repo: str) -> str:
    """The name under which the Hub has ``repo`` today; ``repo`` itself where it is not there."""
    return hub.current_id(repo) if hub.repo_exists(repo) else repo


def edited_card(hub: Hub, repo: str, newer: str) -> tuple[str, Content | None]:
    """The head of ``main`` of ``repo``, and its card with the key; None when the card has it already.

    UsageError without such a branch, RefusedError for a card that cannot be edited.
    """
    head = hub.head(repo, MAIN)
    if head is None:
        raise UsageError(f"{repo} has no branch {MAIN!r}.", hint=f"Remove it from `{RECIPE_KEY}` in the recipe.")
    if (listed := hub.tree(repo, head).get(CARD)) and listed.sha256:
        raise RefusedError(
            f"{CARD} of {repo} is in LFS, where the Hub reads no card.",
            hint=f"Store it without LFS, or remove the repo from `{RECIPE_KEY}` in the recipe.",
        )
    before = _card(hub, repo, head) or ""
    try:
        after = with_key(before, KEY, newer)
    except YamlError as error:
        raise RefusedError(
            f"The front matter of {CARD} in {repo} cannot be edited: {error}.",
            hint=f"Write `{KEY}: {newer}` there by hand, then run the same command again.",
        ) from error
    return head, None if after == before else Content(CARD, after.encode("utf-8", _BYTES_KEPT))


def point_to(hub: Hub, repo: str, newer: str, note: Note) -> str:
    """Write `new_version: newer` to the card on ``main`` of ``repo``; the commit that has it.

    Nothing else of the card changes, and nothing is committed when it is there. When somebody else commits meanwhile,
    the card is read again. UsageError without such a branch, RefusedError for a card that cannot be edited,
    ConflictError when others commit faster than this can.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _point_once(hub, repo, newer, note)
        except OtherContent:
            raise
        except ConflictError:
            continue
    return _point_once(hub, repo, newer, note)


def _point_once(hub: Hub, repo: str, newer: str, note: Note) -> str:
    head, card = edited_card(hub, repo, newer)
    if card is None:
        return head
    expected = content_entry(card.content)

    def reached(tree: Tree) -> bool:
        return CARD in tree and tree[CARD].same(expected)

    note("pointing", repo=repo, newer=newer, head=head)
    return commit(hub, repo, MAIN, head, [card], reached, f"Replaced by {newer}")


def _card(hub: Hub, repo: str, commit: str) -> str | None:
    """The card at ``commit``, each of its bytes kept; None without one."""
    content = hub.read_listed(repo, CARD, commit)
    return None if content is None else content.decode("utf-8", _BYTES_KEPT)
