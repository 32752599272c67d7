"""Find an installed stage by its name."""

from __future__ import annotations

from functools import cache
from typing import cast

from hubkit.core.errors import UsageError
from hubkit.core.libraries import offered
from hubkit.recipe.stage import Stage


@cache
def find_stage(name: str) -> Stage:
    """The stage that an installed distribution offers as ``name``. UsageError when none does."""
    points = offered("hubkit.stages")
    if name not in points:
        known = ", ".join(sorted(points))
        raise UsageError(f"There is no stage {name!r}. Installed: {known}.", hint="Check `uses:` in the recipe.")
    return cast(Stage, points[name].load())
