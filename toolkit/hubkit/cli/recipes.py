"""The recipe that a command reads, and what its last run left. Imports the recipe models only when one is read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hubkit.cli.targets import find_target
from hubkit.core.errors import UsageError
from hubkit.core.home import hubkit_home
from hubkit.core.target import Target
from hubkit.recipe.names import RECIPE_FILE

if TYPE_CHECKING:
    from hubkit.pipeline.release_state import ReleaseState
    from hubkit.recipe.loading import RecipeFile
    from hubkit.recipe.models import Recipe


def find_recipe(name: str | None) -> tuple[Recipe, Path]:
    """The recipe ``name``, and the folder of its files (see :func:`find_recipe_file`)."""
    file = find_recipe_file(name)
    return file.recipe, file.folder


def find_recipe_file(name: str | None) -> RecipeFile:
    """The recipe ``name`` (a file, a folder or a built-in one; None: ``./hubkit.yaml``), with the lines of its keys.

    ``HUBKIT_SIGNING_KEY`` replaces the signing key of the recipe.
    """
    from hubkit.recipe.loading import read_recipe

    if name is None:
        path = Path(RECIPE_FILE).absolute()
    elif (built_in := built_in_recipes().get(name)) is not None and not Path(name).exists():
        path = built_in
    else:
        path = Path(name).absolute()
        if path.is_dir():
            path /= RECIPE_FILE
        elif not path.exists() and "/" not in name and not name.endswith((".yaml", ".yml")):
            known = ", ".join(sorted(built_in_recipes()))
            raise UsageError(f"There is no recipe {name!r}: no such file, and the built-in ones are {known}.")
    file, key = read_recipe(path), os.environ.get("HUBKIT_SIGNING_KEY")
    return replace(file, recipe=file.recipe.signed_with(Path(key))) if key else file


def built_in_recipes() -> dict[str, Path]:
    """The recipes that installed distributions offer (entry-point group ``hubkit.recipes``), by name."""
    from hubkit.core.libraries import offered

    return {name: Path(point.load().RECIPE) for name, point in offered("hubkit.recipes").items()}


def need_variant(recipe: Recipe, name: str) -> None:
    """UsageError if ``recipe`` has no variant ``name``."""
    if name not in recipe.variants:
        raise UsageError(f"There is no variant {name!r}; the recipe has {', '.join(recipe.variants)}.")


def last_state(recipe: Recipe, folder: Path, hub_name: str | None) -> ReleaseState:
    """The state of the last run of this recipe; an empty one if there was no run. Starts no Hub."""
    from hubkit.pipeline.runner import finished_state
    from hubkit.pipeline.runs import Run, last_run

    home = hubkit_home()
    if (hub_name or recipe.hub) == "embedded":
        target = Target("", home / "hf" / "embedded", embedded=True)
    else:
        target = find_target(hub_name, recipe, start=False)
    run = last_run(home, recipe.repo, target) or Run(home / "runs" / "(none)")
    return finished_state(recipe, folder, target, run)
