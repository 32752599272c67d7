"""What earlier attempts of a step changed on the Hub, read from the events in the journal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hubkit.recipe.stage import Noted


@dataclass(frozen=True)
class LeftAt:
    """Where earlier attempts left a branch.

    ``last`` is the commit that the newest finished move made (empty: none did). The branch may be at any of
    ``heads``; a move whose end was lost may have made a new commit with the files of any of ``sources``.
    """

    last: str = ""
    heads: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()


def left_at(notes: Iterable[Noted], repo: str, branch: str) -> LeftAt:
    """Where earlier moves left ``branch`` of ``repo``, by the ``notes`` of :func:`promotion.promote`."""
    found = LeftAt()
    for note in notes:
        if note.facts.get("repo") != repo:
            continue
        commit, source = str(note.facts.get("commit")), str(note.facts.get("source"))
        if note.point == f"branch-moved[{branch}]":
            found = LeftAt(commit, frozenset({commit}), frozenset({source}))
        elif note.point == f"branch-begun[{branch}]":
            found = LeftAt(found.last, found.heads | {commit}, found.sources | {source})
    return found


def interrupted_deploys(notes: Iterable[Noted]) -> dict[str, str]:
    """Of each commit to a Space that was not seen to run: the commit that ran before (:func:`deployment.deploy`)."""
    found: dict[str, str] = {}
    for note in notes:
        commit, previous = str(note.facts.get("commit")), note.facts.get("previous")
        if note.point == "space-committed" and previous:
            found[commit] = str(previous)
        elif note.point == "space-runs":
            found.pop(commit, None)
    return found
