"""`hubkit init` and `hubkit plan`: write a recipe, and see what it would do."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubkit.cli.options import built_in_recipe_names, output_of, output_options, recipe_argument, recipe_hub_option
from hubkit.cli.recipes import built_in_recipes, find_recipe, last_desk
from hubkit.core.errors import UsageError
from hubkit.core.names import repo_id_problem
from hubkit.core.numbers import counted, duration, size
from hubkit.core.output import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.pipeline.steps import Job
    from hubkit.recipe.models import Recipe

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
    from hubkit.recipe.names import RECIPE_FILE
    from hubkit.recipe.schema import recipe_schema

    known = built_in_recipes()
    if source not in known:
        raise UsageError(f"There is no built-in recipe {source!r}.", hint=f"There are: {', '.join(sorted(known))}.")
    if name is not None and (problem := repo_id_problem(name)):
        raise UsageError(f"{name!r} is not a repo id: {problem}.", hint="Write it as namespace/name.")
    target = Path(RECIPE_FILE)
    if target.exists():
        raise UsageError(f"{target} exists already; nothing was written.", hint="Remove it first, or edit it.")
    text = known[source].read_text(encoding="utf-8")
    if name is not None:
        text = re.sub(r"^  title: Tiny Hermes DPO$", f"  title: {name.split('/')[1]}", text, flags=re.MULTILINE)
        lines = [f"repo: {name}" if line.startswith("repo:") else line for line in text.splitlines()]
        text = "\n".join(lines) + "\n"
        text = re.sub(r"^(space:\n  repo: ).*$", rf"\g<1>{name}-space", text, flags=re.MULTILINE)
    for beside in sorted(known[source].parent.iterdir()):
        if beside.is_dir() and beside.name in text and not beside.name.startswith("_"):
            shutil.copytree(beside, beside.name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    write_json(Path(_SCHEMA), recipe_schema())
    write_atomic(target, f"# yaml-language-server: $schema={_SCHEMA}\n{text}")
    output = output_of()
    output.say(f"Wrote {target}, {_SCHEMA} for editors, and the folders that the recipe names.")
    output.say("Make it yours: base, data, stages, card, space (and remove `provide`); then see `hubkit plan`.")
    output.result({"recipe": str(target.absolute()), "schema": str(Path(_SCHEMA).absolute())})


@click.command()
@recipe_argument
@recipe_hub_option
@output_options
def plan(recipe: str | None, hub_name: str | None) -> None:
    """Show every step of a release, and why it would run.

    Nothing is written, trained or sent to a Hub. RECIPE is a file, a folder with a hubkit.yaml, or a built-in recipe.

    \b
    Examples:
      hubkit plan tiny
      hubkit plan dpopenhermes-7b    works offline
    """
    from rich.text import Text

    found, folder = find_recipe(recipe)
    output = output_of()
    desk = last_desk(found, folder, hub_name)
    rows, listed = [], []
    for job in desk.jobs:
        artifact = desk.finished.get(job.id)
        _, why = desk.kept(job)
        held = artifact.manifest.size if artifact else None
        listed.append(
            {
                "step": job.id,
                "stage": job.stage,
                "does": _does(job, found),
                "kept": artifact is not None,
                "why": why,
                "bytes": held,
                "seconds": artifact.seconds if artifact else None,
            }
        )
        kept = f"kept ({size(held)}, {duration(artifact.seconds)})" if artifact and held is not None else why
        rows.append(
            (job.id, "keep" if artifact else "?" if why.startswith("kept if") else "run", _does(job, found), kept)
        )
    branches = [
        {"branch": name, "stage": variant.stage, "gate": variant.gate, "title": variant.title}
        for name, variant in ((name, found.variants[name]) for name in found.publishing_order())
    ]
    licence = found.licence or "the licence of its base"
    where = f"{found.repo} ({found.visibility}, {licence}) on {hub_name or found.hub}"
    order = ", then ".join(f"{item['branch']} (adapter of stage {item['stage']})" for item in branches)
    shown: list[RenderableType] = [
        Text(where, "bold"),
        Text(f"Base {found.base.repo}; branches move in this order: {order}.\n"),
        table(("step", "", "what it does", "why"), rows),
    ]
    output.result({"repo": found.repo, "hub": hub_name or found.hub, "branches": branches, "steps": listed}, *shown)


def _does(job: Job, recipe: Recipe) -> str:
    """What the step does, with its settings in the recipe."""
    from hubkit.recipe.names import STAGING

    if job.stage_name is not None:
        return _trains(job, recipe)
    rate = recipe.gates.stop_rate
    enforced = [name for name, variant in recipe.variants.items() if variant.gate == "enforce"]
    more = {
        "stopping": f"{counted(rate.prompts, 'prompt')}, {counted(rate.max_new_tokens, 'new token')}",
        "evaluate": ", ".join(recipe.evaluate.suites),
        "gate": f"stop rate at least {rate.at_least}; enforced for {', '.join(enforced) or 'none'}",
        "publish": f"{STAGING}/{job.variant_name}",
        "space": recipe.space.repo if recipe.space else None,
    }.get(job.stage)
    return f"{job.step.says} ({more})" if more else job.step.says


def _trains(job: Job, recipe: Recipe) -> str:
    stage = recipe.stages[job.stage_name or ""]
    after = f", going on with {stage.continues}'s adapter" if stage.continues else ""
    sources = " + ".join(
        source.repo + (f" ({counted(source.rows, 'row')})" if source.rows else "") for source in recipe.data[stage.data]
    )
    quantized = "" if stage.quantization == "none" else f", {stage.quantization.upper()} base"
    return f"{job.stage.upper()} on {sources}{after}{quantized}"
