"""`hubkit hub`: the embedded Hub."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.text import Text

from hubkit.cli.common import find_target, open_page, output_of, speaks
from hubkit.core.home import hubkit_home


@click.group()
def hub() -> None:
    """Start, stop and look after the embedded Hub: a real server on this machine for the real clients."""


@hub.command()
@click.option("--port", type=click.IntRange(1, 65535), help="The port; else the last one, 8750 or any free one.")
@speaks
def start(port: int | None) -> None:
    """Start the embedded Hub in a process of its own; when it runs already, say where.

    \b
    hubkit hub start --port 8750
    """
    from hubkit.server import process

    running = process.start(_data(), port=port)
    output_of().result({"url": running.url, "pid": running.pid, "data": str(_data())}, Text(running.url))


@hub.command()
@speaks
def status() -> None:
    """Say whether the embedded Hub runs, and where. Exit code 0 either way.

    \b
    hubkit hub status --json
    """
    from hubkit.server import process

    running = process.status(_data())
    if running is None:
        shown = Text("The embedded Hub does not run. Start it with `hubkit hub start`.")
        output_of().result({"running": False, "url": None, "data": str(_data())}, shown)
        return
    value = {"running": True, "url": running.url, "pid": running.pid, "data": str(_data())}
    output_of().result(value, Text(f"{running.url}  (process {running.pid}, data in {_data()})"))


@hub.command()
@speaks
def stop() -> None:
    """Stop the embedded Hub. Its repos stay.

    \b
    hubkit hub stop
    """
    from hubkit.server import process

    stopped = process.stop(_data())
    output_of().say("Stopped." if stopped else "It did not run.")
    output_of().result({"stopped": stopped})


@hub.command("open")
@click.argument("repo", required=False)
@speaks
def open_(repo: str | None) -> None:
    """Open the embedded Hub's pages in the browser, as its owner; start it when it does not run.

    REPO is namespace/name; a data set's or a Space's begins with datasets/ or spaces/.

    \b
    hubkit hub open hubkit/tiny-hermes-dpo
    """
    target = find_target("embedded")
    url = f"{target.endpoint}/{repo or ''}"
    link = open_page(target, url)
    output = output_of()
    if link:
        output.say("There is no browser here to open. This address logs one in, once and within a minute:")
    output.result({"url": url, "link": link}, Text(link or url))


@hub.command()
@speaks
def fsck() -> None:
    """Check all that the embedded Hub keeps: refs, commits, large files. Exit code 4 when something is wrong.

    \b
    hubkit hub fsck
    """
    from hubkit.server.fsck import fsck as look

    problems = look(_data())
    output_of().result({"problems": problems}, *([Text(line) for line in problems] or [Text("All is well.")]))
    if problems:
        sys.exit(4)


def _data() -> Path:
    return hubkit_home() / "hub"
