"""`hubkit hub`: the embedded Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubkit.cli.hub_accounts import data_folder, data_option, org, token, user
from hubkit.cli.hub_backup import backup, gc, restore
from hubkit.cli.options import output_of, output_options
from hubkit.core.errors import UsageError

if TYPE_CHECKING:
    from hubkit.server.process import Running


@click.group()
def hub() -> None:
    """Start, stop and open the embedded Hub.

    It is a server on this machine that works with the real Hub clients.
    """


for _command in (backup, restore, gc, user, org, token):
    hub.add_command(_command)


@hub.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Use this port; 0 is any free one. Default: the last one, 8750, or a free one.",
)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="HOST", help="Listen on this loopback address.")
@click.option(
    "--seed",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Create the users, tokens and organizations of this JSON file.",
)
@click.option("--foreground", is_flag=True, help="Do not return until the Hub is stopped; log to standard error.")
@click.option(
    "--spaces",
    type=click.Choice(["always", "confined", "never"]),
    help="Run Spaces always, only where the system can confine them, or never. Default: as before, at first always.",
)
@data_option
@output_options
def start(
    port: int | None, host: str, seed: Path | None, foreground: bool, spaces: str | None, data: Path | None
) -> None:
    """Start the embedded Hub in the background.

    If it is already running, its address is printed. The apps of its Spaces are confined to folders of their own by
    Landlock, bubblewrap or another user. Where the system has none of these, a warning is printed.

    A seed has `users` (name, fullname, token, role) and `orgs` (name, fullname, members, default_visibility). What
    exists already is kept, so that one command can start the Hub each time.

    \b
    Examples:
      hubkit hub start --port 8750
      hubkit hub start --foreground --data /srv/hub --seed users.json
    """
    from hubkit.server import process

    folder = data_folder(data)
    if foreground and (running := process.status(folder)):
        raise UsageError(f"This Hub already runs at {running.url}.", hint="Stop it first: hubkit hub stop")
    if seed is not None:
        _seed(folder, seed)
    if foreground:
        process.run_here(folder, host=host, port=port, spaces=spaces, as_json=output_of().mode == "json")
    running = process.start(folder, host=host, port=port, spaces=spaces)
    _warn(running)
    output_of().result(_value(running), running.url)


def _seed(folder: Path, file: Path) -> None:
    from hubkit.server.accounts.accounts import accounts_of
    from hubkit.server.accounts.seed import read_seed

    seed = read_seed(file)
    with accounts_of(folder) as accounts:
        made = seed.apply(accounts)
    output_of().say(f"Seeded: {made['users']} new users, {made['orgs']} organizations, {made['tokens']} tokens.")


@hub.command()
@data_option
@output_options
def status(data: Path | None) -> None:
    """Show whether the embedded Hub is running, and where.

    The exit code is 0 either way.

    \b
    Example:
      hubkit hub status --json
    """
    from hubkit.server import process

    running = process.status(data_folder(data))
    if running is None:
        output_of().result(
            {"running": False, "url": None, "data": str(data_folder(data))},
            "The embedded Hub is not running. Start it with `hubkit hub start`.",
        )
        return
    _warn(running)
    value = {"running": True, **_value(running)}
    output_of().result(value, f"{running.url}  (process {running.pid}, data in {data_folder(data)})")


@hub.command()
@data_option
@output_options
def stop(data: Path | None) -> None:
    """Stop the embedded Hub and keep its repos.

    \b
    Example:
      hubkit hub stop
    """
    from hubkit.server import process

    stopped = process.stop(data_folder(data))
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
@data_option
@output_options
def fsck(data: Path | None) -> None:
    """Check the data of the embedded Hub: refs, commits, large files.

    The exit code is 4 if something is wrong.

    \b
    Example:
      hubkit hub fsck
    """
    from hubkit.server.fsck import fsck as find_problems

    problems = find_problems(data_folder(data))
    output_of().result({"problems": problems}, *(problems or ["No problems found."]))
    if problems:
        sys.exit(4)


def _value(running: Running) -> dict[str, Any]:
    spaces = {"run": running.spaces, "confinement": running.confinement}
    return {"url": running.url, "pid": running.pid, "data": str(running.data), "spaces": spaces}


def _warn(running: Running) -> None:
    if running.warning:
        output_of().warn(running.warning)
