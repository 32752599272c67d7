"""List the repos of the release in a collection on the Hub: its model repos, its Space and its papers.

    collection: {title: My model, description: All variants of my model}

A repo of GGUF files is one of the model repos. The collection is found by its title, or created. Each item is added
once, with a note; what people added to it stays, and so does a note that they wrote. It comes after the Space: every
item is there by then.

Writes ``collection.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hubkit.core.findings import Finding
from hubkit.core.numbers import counted
from hubkit.hub.client import connect
from hubkit.hub.collections import Item
from hubkit.publishing.collecting import FilledCollection, Goal, changed_since, fill, note_key
from hubkit.publishing.released import ReleasedBranches
from hubkit.publishing.spaces.deployed import DeployedSpace
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult

VERSION = 1
SHAPED_BY: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """The collection and its items; ``models`` are the repos with their notes, ``papers`` arXiv ids with theirs."""

    namespace: str
    title: str
    description: str | None
    private: bool
    models: Mapping[str, str | None]
    space_note: str | None
    papers: Mapping[str, str | None]

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        wanted = recipe.collection
        if wanted is None:
            raise ValueError("the recipe has no collection")
        models: dict[str, str | None] = {}
        for name in reversed(recipe.publishing_order()):  # main first
            note = wanted.notes.get(name) or (recipe.variants[name].title if recipe.layout == "repos" else None)
            models.setdefault(recipe.place(name).repo, note[:500] if note else None)
        for name in reversed(recipe.gguf_variants()):
            if (place := recipe.gguf_place(name)) and place.repo not in models:
                note = wanted.notes.get("gguf") or f"GGUF files of {recipe.label(name)}"
                models[place.repo] = note[:500]
        return cls(
            namespace=wanted.namespace or recipe.repo.partition("/")[0],
            title=wanted.title,
            description=wanted.description,
            private=recipe.visibility == "private",
            models=models,
            space_note=wanted.notes.get("space"),
            papers={paper: wanted.notes.get(paper) for paper in recipe.card.papers},
        )


@dataclass(frozen=True)
class Inputs:
    """What was released, and the Space, when the release has one."""

    released: ReleasedBranches
    space: DeployedSpace | None


Output = FilledCollection
StageContext = Context[Settings, Inputs]


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """Whether this token may create and change collections there."""
    if problem := connect(ctx.target).collecting_problem(ctx.settings.namespace):
        yield Finding(
            "error",
            f"Cannot write the collection {ctx.settings.title!r} of {ctx.settings.namespace}: {problem}.",
            "Log in with a token that may, change `collection.namespace` in the recipe, or remove `collection`.",
        )


def run(ctx: StageContext) -> StageResult[FilledCollection]:
    """Find or create the collection, and add what it lacks."""
    hub, goal, before = connect(ctx.target), _goal(ctx), ctx.earlier.artifact
    ctx.report(f"adding to {goal.title}", 0.2)
    found, warnings = fill(hub, goal, FilledCollection.load(before) if before else None)
    notes = {note_key(item): item.note for item in goal.items}
    filled = FilledCollection(slug=found.slug, url=f"{hub.endpoint}/collections/{found.slug}", notes=notes)
    return StageResult(filled, f"{found.slug}: {counted(len(goal.items), 'item')}", tuple(warnings))


def _goal(ctx: StageContext) -> Goal:
    settings, space = ctx.settings, ctx.inputs.space
    items = [Item(repo, "model", note) for repo, note in settings.models.items()]
    items += [Item(space.repo, "space", settings.space_note)] if space else []
    items += [Item(paper.partition("v")[0], "paper", note) for paper, note in settings.papers.items()]
    return Goal(settings.namespace, settings.title, settings.description, settings.private, items)


def outdated(ctx: StageContext, filled: FilledCollection) -> str | None:
    """None while the collection holds every item."""
    return changed_since(connect(ctx.target), _goal(ctx), filled)
