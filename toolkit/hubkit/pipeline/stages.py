"""The installed stages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import cast

from hubkit.core.errors import UsageError
from hubkit.recipe.stage import Stage


@cache
def find_stage(name: str) -> Stage:
    """The stage that an installed distribution offers as ``name``. UsageError when none does."""
    found = [point for point in entry_points(group="hubkit.stages") if point.name == name]
    if not found:
        known = ", ".join(sorted(point.name for point in entry_points(group="hubkit.stages")))
        raise UsageError(f"There is no stage {name!r}; installed are: {known}.", hint="Check `uses:` in the recipe.")
    return cast(Stage, found[0].load())
