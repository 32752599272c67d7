"""The recipe of a training that is watched, and its settings."""

from __future__ import annotations

from pathlib import Path

from training_case import recipe_text

from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Scope
from hubkit.training.contract import Settings


def recipe(probe: str = "", **args: str) -> Recipe:
    more = "".join(f", {name}: {value}" for name, value in args.items())
    text = recipe_text(dpo=f"max_steps: 8{more}")
    return parse_recipe(text.replace("    data: preferences\n", f"    data: preferences\n{probe}"))


def settings(probe: str = "", **args: str) -> Settings:
    return Settings.of(recipe(probe, **args), Scope(Path(), training="dpo"))
