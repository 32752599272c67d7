"""A new recipe from a built-in one (`hubkit init`): it gets its own names and keeps every comment."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.names import repo_id_problem
from hubkit.core.yaml_text import parse_yaml

if TYPE_CHECKING:
    from hubkit.recipe.models import Recipe


def renamed(text: str, repo: str) -> str:
    """The recipe in ``text`` as one of the model repo ``repo``, with its comments, order and quotes.

    The card and the Space get the repo's name as their title, the Space a repo beside it.
    """
    from ruamel.yaml import YAML  # it takes a quarter of a second to import

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1000  # no line is broken that was not broken before
    yaml.indent(mapping=2, sequence=4, offset=2)
    recipe = yaml.load(text)
    title = _quoted(repo.partition("/")[2])
    recipe["repo"] = _quoted(repo)
    recipe["card"]["title"] = title
    if "space" in recipe:
        recipe["space"]["repo"] = _quoted(space_repo(repo))
        if "title" in recipe["space"]:
            recipe["space"]["title"] = title
    out = StringIO()
    yaml.dump(recipe, out)
    return out.getvalue()


def _quoted(value: str) -> Any:
    """``value`` for ruamel.yaml, in quotes where hubkit's reader would take it for a number or another non-text."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return value if parse_yaml(value, "")[0] == value else DoubleQuotedScalarString(value)


def space_repo(repo: str) -> str:
    """The Space's repo beside the model repo ``repo``: its name and ``-space``, shortened where that is too long."""
    name = repo
    while repo_id_problem(f"{name}-space"):
        name = name[:-1]
    return f"{name}-space"


def companions(recipe: Recipe, folder: Path) -> Iterator[Path]:
    """The files and folders in ``folder`` that ``recipe`` names: tasks, templates, data. Nothing outside of it."""
    data = [pattern for entry in recipe.data.values() for source in entry for pattern in source.patterns]
    for named in (recipe.evaluate.include, recipe.card.template, recipe.chat.template, *data):
        if named and (path := folder / named).exists() and path.resolve().is_relative_to(folder.resolve()):
            yield path
