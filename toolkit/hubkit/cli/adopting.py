"""`hubkit release --adapter ...` and `--weights ...`: write the recipe of such a release, and show it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hubkit.cli.options import output_of, repo_id
from hubkit.cli.recipe_files import hub_in_recipe, write_recipe
from hubkit.cli.targets import find_target
from hubkit.core.errors import UsageError
from hubkit.recipe.names import RECIPE_FILE

if TYPE_CHECKING:
    from hubkit.training.adoption.places import Form

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Adopted:
    """What the options of `hubkit release` say of an adapter or weights that were trained elsewhere."""

    adapter: str | None
    weights: str | None
    base: str | None
    to: str | None
    data: str | None
    trained_with: str | None
    training: tuple[str, ...]

    @property
    def given(self) -> bool:
        """Whether any of the options was given."""
        return any(vars(self).values())


_OPTIONS: Mapping[str, tuple[str, str]] = {
    "--adapter": ("FOLDER", "Release this LoRA adapter: a folder, or owner/repo@revision."),
    "--weights": ("FOLDER", "Release this whole model: a folder, or owner/repo@revision."),
    "--base": ("REPO", "With --adapter or --weights: the model that it was trained from."),
    "--to": ("REPO", "With --adapter or --weights: the repo to publish to."),
    "--data": (
        "REPO|FILE",
        "With --adapter or --weights: measure the stop rate on prompts of this dataset. Default: hubkit's own.",
    ),
    "--trained-with": ("TEXT", "With --adapter or --weights: what trained it, such as 'axolotl 0.9', for the card."),
    "--training": (
        "FILE",
        "With --adapter or --weights: a file that reports the training, such as trainer_state.json or an axolotl YAML;"
        " the card reports it. Default: the trainer_state.json that lies beside it.",
    ),
}


def adopt_options(command: _Command) -> _Command:
    """Add ``--adapter``, ``--weights`` and what goes with them."""
    for name, (metavar, text) in reversed(list(_OPTIONS.items())):
        command = click.option(name, metavar=metavar, help=text, multiple=name == "--training")(command)
    return command


def write_adopted_recipe(options: Adopted, hub_name: str | None, recipe: str | None) -> None:
    """Write ``hubkit.yaml`` for what is adopted, and show it; nothing when it is there as it would be written.

    UsageError for options that do not go together, and when another ``hubkit.yaml`` is there.
    """
    from hubkit.pipeline.adoption_facts import read_adoption
    from hubkit.pipeline.model_facts import names_file, read_facts
    from hubkit.recipe.adopted_draft import AdoptedDraft, adopted_draft
    from hubkit.recipe.loading import parse_recipe

    source, form, to = _checked(options, recipe)
    hub_name = hub_name or os.environ.get("HF_ENDPOINT") or "embedded"
    target = find_target(hub_name)
    found = read_adoption(target, source, form, repo_id(options.base, "--base") if options.base else None)
    if options.data is not None and not names_file(options.data):
        repo_id(options.data, "--data")
    base, rows = read_facts(target, found.base, (options.data,) if options.data else ())
    text = adopted_draft(
        AdoptedDraft(
            repo=to,
            hub=hub_in_recipe(target),
            base=base,
            form=form,
            source=source,
            stated_base=found.stated_base,
            quantized=found.quantized,
            trained_with=options.trained_with,
            reports=options.training or found.reports,
            template=found.template,
            prompts=rows[0] if rows else None,
        )
    )
    parse_recipe(text)
    _write(text)


def _checked(options: Adopted, recipe: str | None) -> tuple[str, Form, str]:
    """What is adopted, its form, and the repo to publish to."""
    if recipe is not None:
        raise UsageError(
            "--adapter and --weights write a recipe; they cannot be given together with one.",
            hint="Leave RECIPE out, or name the adapter in the recipe: `uses: adopt`.",
        )
    if (options.adapter is None) == (options.weights is None):
        if options.adapter is not None:
            raise UsageError("Pass either --adapter or --weights.")
        raise UsageError("--base, --to, --data, --trained-with and --training need --adapter or --weights.")
    if options.to is None:
        raise UsageError("The repo to publish to is not known.", hint="Pass --to namespace/name.")
    form: Form = "adapter" if options.adapter is not None else "weights"
    return options.adapter or options.weights or "", form, repo_id(options.to, "--to")


def _write(text: str) -> None:
    path, output = Path(RECIPE_FILE), output_of()
    if path.exists():
        if path.read_text(encoding="utf-8", errors="replace").endswith(text):
            output.say(f"{RECIPE_FILE} is here already, and is what would be written.")
            return
        raise UsageError(
            f"{path} exists already, and another recipe is in it; nothing was written.",
            hint="To release what it says, run `hubkit release`. Else remove it first.",
        )
    write_recipe(text)
    output.say(f"Wrote {RECIPE_FILE}:\n")
    output.say(text)
