"""`hubkit init`: write a recipe of your own."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from hubkit.cli.options import built_in_recipe_names, output_of, output_options
from hubkit.cli.recipes import built_in_recipes
from hubkit.core.errors import UsageError
from hubkit.core.names import repo_id_problem
from hubkit.recipe.names import RECIPE_FILE

_SCHEMA = "hubkit.schema.json"


@click.command()
@click.argument("name", required=False)
@click.option(
    "--from",
    "source",
    default="tiny",
    show_default=True,
    metavar="RECIPE",
    shell_complete=built_in_recipe_names,
    help="Start from this built-in recipe.",
)
@output_options
def init(name: str | None, source: str) -> None:
    """Write a recipe of your own, hubkit.yaml, into this folder.

    It is a copy of a built-in recipe in which every key is explained. NAME is the repo of your release, such as
    me/my-model.

    \b
    Examples:
      hubkit init me/my-model
      hubkit init me/my-model --from dpopenhermes-7b
    """
    from hubkit.core.files import write_atomic, write_json
    from hubkit.recipe.loading import read_recipe
    from hubkit.recipe.new_recipe import companions, renamed
    from hubkit.recipe.schema import recipe_schema

    known = built_in_recipes()
    if source not in known:
        raise UsageError(f"There is no built-in recipe {source!r}.", hint=f"Available: {', '.join(sorted(known))}.")
    if name is not None and (problem := repo_id_problem(name)):
        raise UsageError(f"{name!r} is not a repo id: {problem}.", hint="Write it as namespace/name.")
    target, origin = Path(RECIPE_FILE), read_recipe(known[source])
    named = [(path, path.relative_to(origin.folder)) for path in companions(origin.recipe, origin.folder)]
    for path in (target, *(copy for _, copy in named)):
        if path.exists():
            raise UsageError(f"{path} exists already; nothing was written.", hint="Edit that file, or remove it first.")
    text = known[source].read_text(encoding="utf-8")
    for original, copy in named:
        _copy(original, copy)
    write_json(Path(_SCHEMA), recipe_schema())
    write_atomic(target, f"# yaml-language-server: $schema={_SCHEMA}\n{renamed(text, name) if name else text}")
    output = output_of()
    output.say(f"Wrote {', '.join([str(target), f'{_SCHEMA} (for editors)', *(str(copy) for _, copy in named)])}.")
    output.say("Next: set base, data, stages, card and space, remove `provide`, and run `hubkit plan`.")
    output.result({"recipe": str(target.absolute()), "schema": str(Path(_SCHEMA).absolute())})


def _copy(original: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    if original.is_dir():
        shutil.copytree(original, copy, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(original, copy)
