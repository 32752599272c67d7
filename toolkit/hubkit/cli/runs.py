"""`hubkit runs`: what was run here, and what it left."""

from __future__ import annotations

import contextlib
import shutil
from typing import Any

import click
from rich.text import Text

from hubkit.cli.common import ask, confirm_option, output_of, speaks
from hubkit.core.home import hubkit_home
from hubkit.core.output import duration, megabytes, table
from hubkit.pipeline.runner import figure
from hubkit.pipeline.runs import Run, find_runs, named_run
from hubkit.recipe.stage import Artifact


@click.group()
def runs() -> None:
    """List, show and remove runs (in .hubkit, or HUBKIT_HOME)."""


@runs.command("list")
@speaks
def list_runs() -> None:
    """List all runs, oldest first.

    \b
    hubkit runs list --json
    """
    found = [_about(run) for run in find_runs(hubkit_home())]
    rows = [
        (item["id"], item["repo"], item["hub"], item["state"], item["made"][:19], megabytes(item["bytes"]))
        for item in found
    ]
    output_of().result(found, table(("run", "repo", "hub", "state", "made (UTC)", "size#"), rows))


@runs.command()
@click.argument("run")
@speaks
def show(run: str) -> None:
    """Show what RUN has made, and its journal's last line.

    \b
    hubkit runs show tiny-hermes-dpo-1
    """
    found = named_run(hubkit_home(), run)
    made = dict(_artifacts(found))
    rows = [
        (name, duration(artifact.seconds), megabytes(artifact.manifest.size), figure(artifact))
        for name, artifact in made.items()
    ]
    steps = [
        {"step": name, "seconds": artifact.seconds, "bytes": artifact.manifest.size, "summary": artifact.summary}
        for name, artifact in made.items()
    ]
    about = _about(found)
    shown = table(("step", "took#", "size#", "made"), rows)
    output_of().result({**about, "steps": steps}, Text(f"{found.name}: {about['state']}  {found.path}\n"), shown)


@runs.command()
@click.argument("run")
@confirm_option
@speaks
def remove(run: str, yes: bool) -> None:
    """Remove RUN's folder. What it published stays on the Hub.

    \b
    hubkit runs remove tiny-hermes-dpo-1 -y
    """
    found = named_run(hubkit_home(), run)
    ask(f"Remove {found.path}?", yes=yes)
    with found.lock():
        shutil.rmtree(found.path)
    output_of().say(f"Removed {found.name}.")
    output_of().result({"removed": found.name})


def _artifacts(run: Run) -> list[tuple[str, Artifact]]:
    steps = [line["step"] for line in run.journal() if line["event"] == "done"]
    return [(step, artifact) for step in dict.fromkeys(steps) if (artifact := run.find(step))]


def _about(run: Run) -> dict[str, Any]:
    events = [line["event"] for line in run.journal()]
    ended = [event for event in events if event in {"begin", "released", "stopped"}]
    state = {"released": "released", "stopped": "stopped", "begin": "unfinished"}.get(
        ended[-1] if ended else "", "empty"
    )
    size = 0
    for path in run.path.rglob("*"):
        with contextlib.suppress(OSError):  # a release may be at work
            size += path.stat().st_size if path.is_file() else 0
    return {**run.about(), "state": state, "bytes": size, "path": str(run.path)}
