"""The collection of a release: what it is to hold, and bringing it to that without touching what people added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from hubkit.core.errors import RemoteError
from hubkit.hub.client import Hub
from hubkit.hub.collections import Collection, Item
from hubkit.recipe.artifact import JsonArtifact


@dataclass(frozen=True)
class FilledCollection(JsonArtifact):
    """The collection ``slug``, and the notes that this release wrote, by "type name" of the item."""

    FILE = "collection.json"
    slug: str
    url: str
    notes: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any, folder: Path = Path()) -> Self:
        """The collection in the plain ``value``."""
        return super().parse(value, folder)


def note_key(item: Item) -> str:
    """The name of an item in :attr:`FilledCollection.notes`."""
    return f"{item.type} {item.name}"


@dataclass(frozen=True)
class Goal:
    """What a collection is to be: its title and description, who can see it, and the items that it is to hold."""

    namespace: str
    title: str
    description: str | None
    private: bool
    items: Sequence[Item]


def fill(hub: Hub, goal: Goal, earlier: FilledCollection | None) -> tuple[Collection, list[str]]:
    """Find or create the collection and bring it to ``goal``; returns it as the Hub then shows it, and warnings.

    Items of other people stay, each is added once, and a note that a person wrote is kept (``earlier`` has ours).
    RemoteError when the Hub does not show an item that it accepted.
    """
    found = hub.collection(earlier.slug) if earlier else None
    if found is None or found.title != goal.title:
        found = hub.collection_titled(goal.namespace, goal.title)
    if found is None:
        found = hub.create_collection(goal.namespace, goal.title, goal.description, private=goal.private)
    changes: dict[str, Any] = {}
    if goal.description is not None and found.description != goal.description:
        changes["description"] = goal.description
    if found.private != goal.private:
        changes["private"] = goal.private
    if changes:
        hub.change_collection(found.slug, **changes)
    warnings = []
    for item in goal.items:
        there = found.find(item)
        if there is None:
            hub.add_to_collection(found.slug, item)
        elif item.note and there.note != item.note:
            ours = earlier.notes.get(note_key(item)) if earlier else None
            if there.note and there.note != ours:
                warnings.append(f"The collection {found.slug} keeps the note on {item.name} that was written there.")
            else:
                hub.change_note(found.slug, there, item.note)
    filled = hub.collection(found.slug)
    if filled is None or (missing := [item.name for item in goal.items if filled.find(item) is None]):
        what = f"has no {', '.join(missing)}" if filled else "is not there"
        raise RemoteError(
            f"The collection {found.slug} on {hub.endpoint} {what}, although the Hub accepted it.",
            hint="Run the same command again.",
        )
    return filled, warnings


def changed_since(hub: Hub, goal: Goal, filled: FilledCollection) -> str | None:
    """What of the collection the Hub no longer shows; None while it holds every item."""
    found = hub.collection(filled.slug)
    if found is None:
        return f"the collection {filled.slug} no longer exists"
    missing = [item.name for item in goal.items if found.find(item) is None]
    return f"the collection {found.slug} no longer has {', '.join(missing)}" if missing else None
