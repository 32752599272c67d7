"""`hubkit init`: write a recipe for a base model and data on a Hub, or copy a built-in recipe."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click

from hubkit.cli.options import built_in_recipe_names, complete_hubs, output_of, output_options, repo_id
from hubkit.cli.recipe_files import SCHEMA, hub_in_recipe, write_recipe
from hubkit.cli.recipes import built_in_recipes
from hubkit.core.errors import UsageError
from hubkit.core.names import repo_id_problem
from hubkit.core.printable import printable
from hubkit.recipe.names import RECIPE_FILE

_EXAMPLE = "tiny"


@click.command()
@click.argument("name", required=False)
@click.option("--base", metavar="REPO", help="Write a recipe for this base model, read from the Hub.")
@click.option(
    "--data",
    multiple=True,
    metavar="REPO|FILE",
    help="Train on this dataset, or this file of data (.jsonl, .csv, .parquet, ...): by DPO if it has preference "
    "pairs, by SFT if it has chats. Give it once for each.",
)
@click.option(
    "--hub",
    "hub_name",
    metavar="HUB",
    shell_complete=complete_hubs,
    help="Read from this Hub and publish to it: 'embedded', 'huggingface' or a URL. Default: HF_ENDPOINT, or embedded.",
)
@click.option(
    "--set",
    "values",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the recipe that is written, such as stages.dpo.args.beta=0.2.",
)
@click.option(
    "--from",
    "source",
    metavar="RECIPE",
    shell_complete=built_in_recipe_names,
    help="Copy this built-in recipe instead.",
)
@output_options
def init(
    name: str | None,
    base: str | None,
    data: tuple[str, ...],
    hub_name: str | None,
    values: tuple[str, ...],
    source: str | None,
) -> None:
    """Write a recipe of your own, hubkit.yaml, into this folder.

    The base's config and card and the first rows of the data are read from the Hub; learning rates, lengths, the
    quantization and the gate are chosen for them. At a terminal you are asked for the base, the data and the Hub.
    Elsewhere, without --base and --data, a built-in recipe is copied in which every key is explained.
    NAME is the repo of your release, such as me/my-model.

    \b
    Examples:
      hubkit init me/my-model --base HuggingFaceTB/SmolLM2-135M-Instruct --data me/my-pairs --data me/my-chats
      hubkit init me/my-model --base HuggingFaceTB/SmolLM2-135M-Instruct --data chats.jsonl
      hubkit init me/my-model --from dpopenhermes-7b
    """
    if name is not None and (problem := repo_id_problem(name)):
        hint = f"To copy the built-in recipe, pass --from {name}." if name in built_in_recipes() else None
        raise UsageError(f"{name!r} is not a repo id: {problem}.", hint=hint or "Write it as namespace/name.")
    own = bool(base or data or hub_name or values)
    if source is not None and own:
        raise UsageError("--from copies a built-in recipe; --base, --data, --hub and --set write one of your own.")
    if source is None and (own or os.isatty(0)):
        _write_own(name, base, data, hub_name, values)
    else:
        _copy_built_in(name, source or _EXAMPLE)


def _write_own(
    name: str | None, base: str | None, data: tuple[str, ...], hub_name: str | None, values: tuple[str, ...]
) -> None:
    """The recipe for ``base`` and ``data``: what is missing is asked at a terminal."""
    from hubkit.cli.targets import find_target
    from hubkit.pipeline.model_facts import names_file, read_facts
    from hubkit.recipe.draft import Draft, default_repo, draft, with_values
    from hubkit.recipe.loading import parse_recipe

    _refuse_existing([Path(RECIPE_FILE)])
    output, asks = output_of(), os.isatty(0)
    missing = [option for option, given in (("--base", base), ("--data", data)) if not given]
    if missing and not asks:
        raise UsageError(
            f"A recipe of your own needs {' and '.join(missing)}; questions need a terminal.",
            hint="Pass --base REPO and --data REPO, or --from tiny to copy the example.",
        )
    base = repo_id(base or _ask("Base model (namespace/name)"), "--base")
    data = tuple(name if names_file(name) else repo_id(name, "--data") for name in data or _ask_data())
    default_hub = os.environ.get("HF_ENDPOINT") or "embedded"
    hub_name = hub_name or (_ask("Hub (embedded, huggingface or a URL)", default_hub) if missing else default_hub)
    target = find_target(hub_name)
    output.say(f"Reading {base} and {', '.join(data)} from {target.endpoint}.")
    about, rows = read_facts(target, base, data)
    kinds = [item.kind for item in rows]
    if name is None:
        account = _account(hub_name)
        default = default_repo(account, base, kinds) if account else None
        if asks and missing:
            default = _ask("Repo to publish to (namespace/name)", default)
        if default is None:
            raise UsageError("The repo to publish to is not known.", hint="Name it: hubkit init me/my-model --base ...")
        name = repo_id(default)
    text = with_values(draft(Draft(name, hub_in_recipe(target), about, rows)), values)
    parse_recipe(text)
    _write(text)
    output.say("Read it, say on the card what only you know (card.summary), and run `hubkit plan`.")


def _ask(question: str, default: str | None = None) -> str:
    return str(click.prompt(printable(question), default=default, err=True)).strip()


def _ask_data() -> tuple[str, ...]:
    """Datasets until an empty answer; at least one."""
    given = [_ask("Dataset or file to train on (preference pairs, chats)")]
    while more := _ask("Another dataset (Enter: no more)", ""):
        given.append(more)
    return tuple(given)


def _account(hub_name: str) -> str | None:
    from hubkit.cli.targets import find_hub

    account = find_hub(hub_name).whoami()
    return account.name if account else None


def _copy_built_in(name: str | None, source: str) -> None:
    from hubkit.recipe.loading import read_recipe
    from hubkit.recipe.new_recipe import companions, renamed

    known = built_in_recipes()
    if source not in known:
        raise UsageError(f"There is no built-in recipe {source!r}.", hint=f"Available: {', '.join(sorted(known))}.")
    origin = read_recipe(known[source])
    named = [(path, path.relative_to(origin.folder)) for path in companions(origin.recipe, origin.folder)]
    _refuse_existing([Path(RECIPE_FILE), *(copy for _, copy in named)])
    text = known[source].read_text(encoding="utf-8")
    for original, copy in named:
        _copy(original, copy)
    _write(renamed(text, name) if name else text, *(str(copy) for _, copy in named))
    output_of().say("Next: set base, data, stages, card and space, remove `provide`, and run `hubkit plan`.")


def _refuse_existing(paths: list[Path]) -> None:
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} exists already; nothing was written.", hint="Edit that file, or remove it first.")


def _write(text: str, *others: str) -> None:
    """Write the recipe and its schema, and say which files there are now."""
    write_recipe(text)
    output = output_of()
    output.say(f"Wrote {', '.join([RECIPE_FILE, f'{SCHEMA} (for editors)', *others])}.")
    output.result({"recipe": str(Path(RECIPE_FILE).absolute()), "schema": str(Path(SCHEMA).absolute())})


def _copy(original: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    if original.is_dir():
        shutil.copytree(original, copy, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(original, copy)
