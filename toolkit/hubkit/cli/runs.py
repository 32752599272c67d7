"""`hubkit runs`: the runs on this machine and their artifacts."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from hubkit.cli.options import ask, confirm_option, output_of, output_options, run_argument
from hubkit.cli.revisions.shared import fitted
from hubkit.cli.watching import watch
from hubkit.core.errors import UsageError
from hubkit.core.home import hubkit_home
from hubkit.core.numbers import duration, size
from hubkit.core.output import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.pipeline.runs import Run
    from hubkit.pipeline.stored import KeptTraining
    from hubkit.recipe.artifact import StoredArtifact


@click.group()
def runs() -> None:
    """List, show, watch and remove runs.

    A run is one execution of a recipe: a folder in .hubkit, or in HUBKIT_HOME. When a training of more than a minute is
    replaced, the run keeps the old adapter or checkpoints until you discard them; `restore` puts them back.
    """


runs.add_command(watch)


@runs.command("list")
@output_options
def list_runs() -> None:
    """List all runs, oldest first.

    \b
    Example:
      hubkit runs list --json
    """
    from hubkit.pipeline.runs import find_runs

    described = [_about(run) for run in find_runs(hubkit_home())]
    cells: dict[str, list[str]] = {
        "run": [item["id"] for item in described],
        "repo": [item["repo"] for item in described],
        "hub": [item["hub"] for item in described],
        "state": [item["state"] for item in described],
        "created (UTC)": [item["made"][:16].replace("T", " ") for item in described],
        "size#": [size(item["bytes"]) for item in described],
    }
    if any(item["replaced"] for item in described):
        cells["replaced#"] = [str(len(item["replaced"]) or "") for item in described]
    output_of().result(described, fitted(cells, "repo", ("hub", "created (UTC)")))


@runs.command()
@run_argument
@output_options
def show(run: str) -> None:
    """Show the steps that RUN has finished, and what each produced.

    Replaced trainings that it keeps are listed below.

    \b
    Example:
      hubkit runs show tiny-hermes-dpo-1
    """
    from hubkit.pipeline.runner import figure
    from hubkit.pipeline.runs import named_run

    chosen = named_run(hubkit_home(), run)
    artifacts = dict(_artifacts(chosen))
    rows = [
        (name, duration(artifact.seconds), size(artifact.manifest.size), figure(artifact))
        for name, artifact in artifacts.items()
    ]
    steps = [
        {"step": name, "seconds": artifact.seconds, "bytes": artifact.manifest.size, "summary": artifact.summary}
        for name, artifact in artifacts.items()
    ]
    about = _about(chosen)
    heads = ("step", "took#", "size#", "result")
    output_of().result(
        {**about, "steps": steps},
        f"{chosen.name}: {about['state']}  {chosen.path}\n",
        table(heads, rows),
        *_kept_lines(chosen),
    )


def _kept_lines(run: Run) -> Iterator[RenderableType]:
    """The replaced trainings of ``run``, and how they differ from the recipe."""
    from hubkit.pipeline.discards import recipe_changes
    from hubkit.pipeline.stored import trained_form

    if not (kept := run.kept()):
        return
    heads = ("replaced", "step", "what", "made (UTC)", "took#", "size#", "trained with")
    rows = [
        (
            item.id,
            item.step,
            trained_form(item.stored) if item.stored else "checkpoints",
            item.made[:19],
            duration(item.seconds),
            size(item.bytes),
            "; ".join(f"{change.name} {change.before_in_words}" for change in recipe_changes(run, item)),
        )
        for item in kept
    ]
    yield "\nReplaced trainings that are kept (`hubkit runs restore`, `hubkit runs discard`):\n"
    yield table(heads, rows)


@runs.command()
@run_argument
@click.argument("replaced", metavar="ID")
@output_options
def restore(run: str, replaced: str) -> None:
    """Put a replaced training back in its place.

    ID is one that `hubkit runs show RUN` lists. What is there now is kept in its stead. The next release uses the
    training if the recipe is as it was then.

    \b
    Example:
      hubkit runs restore tiny-hermes-dpo-1 dpo-1
    """
    from hubkit.pipeline.discards import recipe_changes
    from hubkit.pipeline.runs import named_run

    chosen = named_run(hubkit_home(), run)
    with chosen.lock():
        chosen.settle()
        training = _kept_training(chosen, replaced)
        chosen.restore(training)
    output = output_of()
    output.say(f"Restored {training.id}: {training.step}.")
    different = recipe_changes(chosen, training)
    for change in different:
        output.warn(
            f"It was trained with {change.name} {change.before_in_words}; the recipe had {change.after_in_words}."
        )
    if different:
        output.say("Set these back in the recipe; otherwise the next release asks to train again.")
    value = {"restored": training.id, "step": training.step, "changes": [vars(change) for change in different]}
    output.result(value)


@runs.command()
@run_argument
@click.argument("replaced", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove all replaced trainings of the run.")
@confirm_option
@output_options
def discard(run: str, replaced: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Remove replaced trainings that RUN keeps.

    \b
    Examples:
      hubkit runs discard tiny-hermes-dpo-1 dpo-1
      hubkit runs discard tiny-hermes-dpo-1 --all -y
    """
    from hubkit.pipeline.runs import named_run

    if everything == bool(replaced):
        raise UsageError("Name the replaced trainings, or pass --all.", hint="`hubkit runs show RUN` lists them.")
    chosen = named_run(hubkit_home(), run)
    with chosen.lock():
        trainings = chosen.kept() if everything else [_kept_training(chosen, name) for name in replaced]
        listed = ", ".join(f"{item.id} ({duration(item.seconds)}, {size(item.bytes)})" for item in trainings)
        if trainings:
            ask(f"Remove {listed}?", yes=yes)
        for training in trainings:
            chosen.discard(training)
    output_of().say(f"Removed {listed}." if trainings else f"{chosen.name} keeps no replaced trainings.")
    output_of().result({"discarded": [training.id for training in trainings]})


def _kept_training(run: Run, name: str) -> KeptTraining:
    """The replaced training of ``run`` called ``name``; UsageError when there is none."""
    for training in run.kept():
        if training.id == name:
            return training
    raise UsageError(
        f"{run.name} keeps no replaced training called {name!r}.", hint=f"`hubkit runs show {run.name}` lists them."
    )


@runs.command()
@run_argument
@confirm_option
@output_options
def remove(run: str, yes: bool) -> None:
    """Remove the folder of RUN; what it published stays on the Hub.

    \b
    Example:
      hubkit runs remove tiny-hermes-dpo-1 -y
    """
    from hubkit.pipeline.runs import named_run

    chosen = named_run(hubkit_home(), run)
    ask(f"Remove {chosen.path}?", yes=yes)
    with chosen.lock():
        shutil.rmtree(chosen.path)
    output_of().say(f"Removed {chosen.name}.")
    output_of().result({"removed": chosen.name})


def _artifacts(run: Run) -> list[tuple[str, StoredArtifact]]:
    steps = [line["step"] for line in run.journal() if line["event"] == "done"]
    return [(step, artifact) for step in dict.fromkeys(steps) if (artifact := run.find(step))]


def _about(run: Run) -> dict[str, Any]:
    events = [line["event"] for line in run.journal()]
    ended = [event for event in events if event in {"begin", "released", "stopped"}]
    state = {"released": "released", "stopped": "stopped", "begin": "unfinished"}.get(
        ended[-1] if ended else "", "empty"
    )
    total = 0
    for path in run.path.rglob("*"):
        with contextlib.suppress(OSError):  # a release may be running
            total += path.stat().st_size if path.is_file() else 0
    replaced = [training.to_json() for training in run.kept()]
    return {**run.about(), "state": state, "bytes": total, "path": str(run.path), "replaced": replaced}
