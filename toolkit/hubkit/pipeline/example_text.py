"""Text of a built-in recipe on the card of another model: what a copied recipe still says about the example."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from hubkit.core.errors import HubkitError
from hubkit.core.libraries import offered
from hubkit.recipe.loading import load_recipe
from hubkit.recipe.mistakes import Mistake
from hubkit.recipe.models import Recipe

_WORDS = ("summary", "intended_use", "limitations")
_SHORT = 25
"""Sentences shorter than this say nothing of their own."""


def example_text(recipe: Recipe) -> Iterator[Mistake]:
    """Sentences and tags of ``recipe``'s card that are those of a built-in recipe for another base model.

    One for each key: of recipes that share their words, the one that has most in common is named.
    """
    if not (recipe.card.summary or recipe.card.intended_use or recipe.card.limitations or recipe.card.tags):
        return
    found: list[list[Mistake]] = []
    for name, point in offered("hubkit.recipes").items():
        try:
            example = load_recipe(Path(point.load().RECIPE))
        except (HubkitError, ImportError, AttributeError):
            continue  # another distribution's; `hubkit release NAME` says what is wrong with it
        if example.base.repo != recipe.base.repo:
            found.append(list(_shared(recipe, name, example)))
    found.sort(key=len, reverse=True)
    told = set()
    for mistake in chain.from_iterable(found):
        if mistake.path not in told:
            told.add(mistake.path)
            yield mistake


def _shared(recipe: Recipe, name: str, example: Recipe) -> Iterator[Mistake]:
    other = f"the built-in recipe {name!r}, which describes a release on {example.base.repo}"
    theirs = {sentence for key in _WORDS for sentence in _sentences(getattr(example.card, key))}
    for key in _WORDS:
        text = getattr(recipe.card, key)
        if copied := [sentence for sentence in _sentences(text) if sentence in theirs]:
            problem = f"{copied[0][:60]!r} is the text of {other}; write what is true of yours, or remove the key"
            yield Mistake(("card", key), problem)
    if recipe.card.tags and recipe.card.tags == example.card.tags:
        yield Mistake(("card", "tags"), f"these are the tags of {other}; write your own, or remove the key")


def _sentences(text: str | None) -> list[str]:
    words = " ".join((text or "").split())
    return [sentence for sentence in re.split(r"(?<=[.!?])\s", words) if len(sentence) >= _SHORT]
