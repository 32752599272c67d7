"""`hubkit runs`: the runs on this machine and their artifacts."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Any

import click

from hubkit.cli.options import ask, confirm_option, output_of, output_options, run_argument
from hubkit.core.home import hubkit_home
from hubkit.core.numbers import duration, size
from hubkit.core.output import table

if TYPE_CHECKING:
    from hubkit.pipeline.runs import Run
    from hubkit.recipe.artifact import StoredArtifact


@click.group()
def runs() -> None:
    """List, show and remove runs.

    A run is one execution of a recipe: a folder in .hubkit, or in HUBKIT_HOME.
    """


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
    rows = [
        (item["id"], item["repo"], item["hub"], item["state"], item["made"][:19], size(item["bytes"]))
        for item in described
    ]
    output_of().result(described, table(("run", "repo", "hub", "state", "created (UTC)", "size#"), rows))


@runs.command()
@run_argument
@output_options
def show(run: str) -> None:
    """Show the steps that RUN has finished, and what each produced.

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
        {**about, "steps": steps}, f"{chosen.name}: {about['state']}  {chosen.path}\n", table(heads, rows)
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
    return {**run.about(), "state": state, "bytes": total, "path": str(run.path)}
