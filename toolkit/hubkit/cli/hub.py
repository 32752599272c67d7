"""`hubkit hub`: the embedded Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubkit.cli.options import output_of, output_options
from hubkit.core.home import hubkit_home

if TYPE_CHECKING:
    from hubkit.server.process import Running


@click.group()
def hub() -> None:
    """Start, stop and open the embedded Hub.

    It is a server on this machine that works with the real Hub clients.
    """


@hub.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Use this port. Default: the last one, 8750, or a free one.",
)
@click.option(
    "--spaces",
    type=click.Choice(["always", "confined", "never"]),
    help="Run Spaces always, only where the system can confine them, or never. Default: as before, at first always.",
)
@output_options
def start(port: int | None, spaces: str | None) -> None:
    """Start the embedded Hub in the background.

    If it is already running, its address is printed. The apps of its Spaces are confined to folders of their own by
    Landlock, bubblewrap or another user. Where the system has none of these, a warning is printed.

    \b
    Example:
      hubkit hub start --port 8750
    """
    from hubkit.server import process

    running = process.start(_data(), port=port, spaces=spaces)
    _warn(running)
    output_of().result(_value(running), running.url)


@hub.command()
@output_options
def status() -> None:
    """Show whether the embedded Hub is running, and where.

    The exit code is 0 either way.

    \b
    Example:
      hubkit hub status --json
    """
    from hubkit.server import process

    running = process.status(_data())
    if running is None:
        output_of().result(
            {"running": False, "url": None, "data": str(_data())},
            "The embedded Hub is not running. Start it with `hubkit hub start`.",
        )
        return
    _warn(running)
    value = {"running": True, **_value(running)}
    output_of().result(value, f"{running.url}  (process {running.pid}, data in {_data()})")


@hub.command()
@output_options
def stop() -> None:
    """Stop the embedded Hub and keep its repos.

    \b
    Example:
      hubkit hub stop
    """
    from hubkit.server import process

    stopped = process.stop(_data())
    output_of().say("Stopped the embedded Hub." if stopped else "The embedded Hub was not running.")
    output_of().result({"stopped": stopped})


@hub.command("open")
@click.argument("repo", required=False)
@output_options
def open_(repo: str | None) -> None:
    """Open the embedded Hub in the browser, logged in as its owner.

    It is started if it is not running. REPO is namespace/name; write datasets/ or spaces/ before it for a dataset or
    a Space.

    \b
    Example:
      hubkit hub open hubkit/tiny-hermes-dpo
    """
    from hubkit.cli.targets import find_target, open_page

    target = find_target("embedded")
    url = f"{target.endpoint}/{repo or ''}"
    link = open_page(target, url)
    output = output_of()
    if link:
        output.say("No browser available. This one-time link logs you in (valid for one minute):")
    output.result({"url": url, "link": link}, link or url)


@hub.command()
@output_options
def fsck() -> None:
    """Check the data of the embedded Hub: refs, commits, large files.

    The exit code is 4 if something is wrong.

    \b
    Example:
      hubkit hub fsck
    """
    from hubkit.server.fsck import fsck as find_problems

    problems = find_problems(_data())
    output_of().result({"problems": problems}, *(problems or ["No problems found."]))
    if problems:
        sys.exit(4)


def _value(running: Running) -> dict[str, Any]:
    spaces = {"run": running.spaces, "confinement": running.confinement}
    return {"url": running.url, "pid": running.pid, "data": str(_data()), "spaces": spaces}


def _warn(running: Running) -> None:
    if running.warning:
        output_of().warn(running.warning)


def _data() -> Path:
    return hubkit_home() / "hub"
