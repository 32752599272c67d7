"""From a YAML file to a recipe. All of its mistakes are reported at once, with their lines.

    file = read_recipe(Path("hubkit.yaml"))
    file.recipe.base.repo, file.places.at(("base", "repo"))

The models are imported when a recipe is read, not before: commands that need none start without pydantic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.errors import UsageError
from hubkit.core.yaml_text import Lines, parse_yaml
from hubkit.recipe.mistakes import KeyPath, Mistake, Places, did_you_mean, error_of
from hubkit.recipe.names import RECIPE_FILE

if TYPE_CHECKING:
    from hubkit.recipe.models import Recipe


@dataclass(frozen=True)
class RecipeFile:
    """A recipe and the places of its keys in the file. Paths in it are relative to ``folder``."""

    recipe: Recipe
    folder: Path
    places: Places


def load_recipe(path: Path) -> Recipe:
    """The recipe in the file ``path``.

    Raises UsageError (exit code 2) that lists every mistake with file and line.
    """
    return read_recipe(path).recipe


def read_recipe(path: Path) -> RecipeFile:
    """The recipe in the file ``path``, with the line of each key. Raises as :func:`load_recipe` does."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"There is no recipe at {path}.",
            hint="Write one with `hubkit init`, or name a built-in one, such as tiny.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the recipe {path}: {error}.") from error
    recipe, places = _parse(text, path.name)
    return RecipeFile(recipe, path.parent, places)


def parse_recipe(text: str, name: str = RECIPE_FILE) -> Recipe:
    """The recipe in ``text``; ``name`` is what messages call the file."""
    return _parse(text, name)[0]


def _parse(text: str, name: str) -> tuple[Recipe, Places]:
    from pydantic import ValidationError

    from hubkit.recipe.consistency import inconsistencies
    from hubkit.recipe.models import Recipe

    value, lines = parse_yaml(text, name)
    if not isinstance(value, dict):
        raise UsageError(f"{name} is empty or not a mapping of keys.", hint="Start from `hubkit init`.")
    places = Places(name, _with_current_keys(lines))
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        raise error_of((_mistake(item) for item in error.errors()), places) from None
    if mistakes := list(inconsistencies(recipe)):
        raise error_of(mistakes, places)
    return recipe, places


def _with_current_keys(lines: Lines) -> Lines:
    """``lines``, in which a key under its old spelling is found under its current one, too."""
    from hubkit.recipe.models import OLD_KEYS

    return {(OLD_KEYS.get(path[0], path[0]), *path[1:]) if path else (): line for path, line in lines.items()} | lines


def _mistake(item: Any) -> Mistake:
    """A pydantic error as a mistake."""
    path = tuple(str(part) for part in item["loc"] if part != "[key]")
    return Mistake(path, _problem(item, path))


def _problem(item: Any, path: KeyPath) -> str:
    from hubkit.recipe.models import OLD_KEYS
    from hubkit.recipe.schema import keys_at

    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        if len(path) == 1 and path[0] in OLD_KEYS:
            return f"is the old spelling of `{OLD_KEYS[path[0]]}`; both are set, remove this one"
        return f"unknown key{did_you_mean(path[-1], keys_at(path[:-1]))}"
    if kind == "missing":
        return "this key is required"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        meant = did_you_mean(str(item["input"]), _choices(context))
        return f"{item['input']!r} is not one of {context['expected']}{meant}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"write a mapping of keys, not {_short(item['input'])}"
    if kind in ("tuple_type", "list_type"):
        one = item["input"]
        return f"write a list{f' such as [{one}]' if isinstance(one, str) and len(one) < 40 else ''}, not {_short(one)}"
    return f"{item['msg'][0].lower()}{item['msg'][1:]}, not {_short(item['input'])}"


def _short(value: Any) -> str:
    """``value`` in at most 60 characters."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def _choices(context: Mapping[str, Any]) -> Iterator[str]:
    for quoted in re.finditer(r"'([^']*)'", str(context["expected"])):
        yield quoted[1]
