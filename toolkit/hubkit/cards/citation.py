"""How a reader cites the model: a BibTeX entry."""

from __future__ import annotations

import re
from urllib.parse import quote

from hubkit.cards.escape import bibtex
from hubkit.recipe.models import Recipe
from hubkit.recipe.names import MAIN


def citation(recipe: Recipe, variant: str) -> str:
    """A BibTeX entry, from what the recipe says. A card holds no time: the year is the recipe's, if it has one."""
    place = recipe.place(variant)
    name = place.repo.rpartition("/")[2]
    branch = "" if place.branch == MAIN else f"/tree/{quote(place.branch)}"
    fields = {
        "title": bibtex(recipe.card.title),
        "author": " and ".join(f"{{{bibtex(author)}}}" for author in recipe.card.authors),
        "year": str(recipe.card.year or ""),
        "url": f"https://huggingface.co/{quote(place.repo)}{branch}",
        "howpublished": f"Hugging Face Hub, {bibtex(place.repo)}",
        "note": f"Branch {bibtex(variant)}" if recipe.layout == "branches" else "",
        "doi": bibtex(recipe.card.doi or ""),
    }
    lines = [f"  {key} = {{{value}}}," for key, value in fields.items() if value]
    return "\n".join([f"@misc{{{re.sub(r'[^A-Za-z0-9.-]', '-', name)},", *lines, "}"])
