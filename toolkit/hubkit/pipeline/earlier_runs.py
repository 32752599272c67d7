"""Runs that an earlier version of hubkit made: a release that it finished is recognized and not trained again.

Their artifacts have other keys and cannot be resumed; the folders are never written to. ``hubkit runs`` lists, shows
and removes them like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from hubkit.core.errors import ConflictError
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.models.chat import library
from hubkit.pipeline.outcome import Outcome, read_outcome
from hubkit.pipeline.runs import Run, find_runs, last_run
from hubkit.publishing import released, staged
from hubkit.publishing.manifest import MANIFEST_PATH, Provenance
from hubkit.publishing.spaces import deployed
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.models import Recipe


def finished_before(recipe: Recipe, folder: Path, target: Target, home: Path) -> Outcome | None:
    """The outcome of the release of ``recipe`` that an earlier version finished; None when it must run.

    It counts when there is no newer run, its recipe equals ``recipe`` (with the files in ``folder``), and the Hub
    still holds everything that it released.
    """
    if last_run(home, recipe.repo, target) is not None:
        return None
    older = [run for run in find_runs(home) if not run.is_current and run.publishes(recipe.repo, target)]
    if not older or not _finished(older[-1]) or not _same_recipe(older[-1], recipe):
        return None
    made = {path.name.replace("~", "/"): path for path in older[-1].artifacts.iterdir()}
    try:
        if not _same_files(made, recipe, folder) or any(_changes(made, recipe, target)):
            return None
        return read_outcome(made, older[-1].name, target, up_to_date=True)
    except (ConflictError, KeyError, OSError):  # a file is missing, or is not what it was
        return None


def _finished(run: Run) -> bool:
    events = [line["event"] for line in run.journal()]
    return bool(events) and events[-1] == "released"


def _same_recipe(run: Run, recipe: Recipe) -> bool:
    """Whether ``run`` was made of ``recipe``, as today's models read it. The Hub is compared by its target."""
    try:
        before = Recipe.model_validate_json((run.path / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return False
    return _compared(before) == _compared(recipe)


def _compared(recipe: Recipe) -> Recipe:
    """``recipe`` without the Hub, and without the batches: their default was a number, and they shape no result."""
    rate = recipe.gates.stop_rate and recipe.gates.stop_rate.model_copy(update={"batch_size": "auto"})
    gates = recipe.gates.model_copy(update={"stop_rate": rate})
    evaluate = recipe.evaluate.model_copy(update={"batch_size": "auto"})
    return recipe.for_any_hub().model_copy(update={"gates": gates, "evaluate": evaluate})


def _same_files(made: dict[str, Path], recipe: Recipe, folder: Path) -> bool:
    """Whether the files that the recipe names have the digests that the manifest of each variant gives."""
    template, include = recipe.chat.template, recipe.evaluate.include
    named = {"chat.template": template if library.names_file(template) else None, "evaluate.include": include}
    now = {key: NamedFile.beside(folder, name).digest for key, name in named.items() if name}
    for variant in recipe.variants:
        written = made[f"publish[{variant}]"] / staged.WRITTEN / MANIFEST_PATH
        known = Provenance.parse(written.read_bytes())
        if known is None or known.named_files() != now:
            return False
    return True


def _changes(made: dict[str, Path], recipe: Recipe, target: Target) -> Iterator[str | None]:
    """What the Hub no longer holds of what was released: the branches (or pull requests), and the Space."""
    hub = connect(target)
    branches = released.ReleasedBranches.load(made["promote"])
    bundles = {name: staged.StagedCommit.load(made[f"publish[{name}]"]).bundle for name in recipe.variants}
    if branches.variants.keys() != recipe.variants.keys():
        yield "not every variant was released"
    yield released.changed_since(hub, branches, bundles)
    if recipe.space is not None and not recipe.pull_request:
        yield deployed.changed_since(hub, deployed.DeployedSpace.load(made["space"]))
