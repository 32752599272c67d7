"""Writing a recipe into the current folder, with its schema for editors."""

from __future__ import annotations

from pathlib import Path

from hubkit.core.target import DEFAULT_ENDPOINT, Target
from hubkit.recipe.names import RECIPE_FILE

SCHEMA = "hubkit.schema.json"


def hub_in_recipe(target: Target) -> str:
    """``hub`` in the recipe: the embedded Hub may change its port, so no recipe names it by its address."""
    return "embedded" if target.embedded else "huggingface" if target.endpoint == DEFAULT_ENDPOINT else target.endpoint


def write_recipe(text: str) -> None:
    """Write the recipe ``text`` and its schema."""
    from hubkit.core.files import write_atomic, write_json
    from hubkit.recipe.schema import recipe_schema

    write_json(Path(SCHEMA), recipe_schema())
    write_atomic(Path(RECIPE_FILE), f"# yaml-language-server: $schema={SCHEMA}\n{text}")
