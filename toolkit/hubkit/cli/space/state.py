"""`hubkit space status`, `logs`, `restart`, `pause` and `rollback`: Spaces that are deployed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hubkit.cli.options import ask, confirm_option, hub_option, output_of, output_options, repo_id
from hubkit.cli.revisions.writing import planned_lines
from hubkit.cli.space.shared import timeout_option
from hubkit.cli.targets import find_hub
from hubkit.core.numbers import short_commit
from hubkit.core.output import table
from hubkit.core.printable import printable

if TYPE_CHECKING:
    from hubkit.hub.client import Hub


@click.command()
@click.argument("repo")
@hub_option
@output_options
def status(repo: str, hub_name: str | None) -> None:
    """Show the state of the Space REPO.

    The exit code is 0 whatever the state is.

    \b
    Example:
      hubkit space status hubkit/tiny-hermes-dpo-space
    """
    from hubkit.publishing.spaces import building

    repo_id(repo)
    hub = find_hub(hub_name)
    runtime, host = hub.runtime(repo), hub.space_host(repo)
    value = {"repo": repo, "stage": runtime.stage, "commit": runtime.commit, "message": runtime.message, "app": host}
    rows = [(name, str(text)) for name, text in value.items() if text]
    output_of().result({**value, "page": building.page(hub.endpoint, repo)}, table(("", ""), rows))


@click.command()
@click.argument("repo")
@click.option("--build", "of_build", is_flag=True, help="Print the log of the last build instead of the app.")
@click.option("-f", "--follow", is_flag=True, help="Print new lines until Ctrl-C.")
@hub_option
@output_options
def logs(repo: str, of_build: bool, follow: bool, hub_name: str | None) -> None:
    """Print the log of the Space REPO.

    With --follow and --json, each line is a JSON object of its own.

    \b
    Example:
      hubkit space logs hubkit/tiny-hermes-dpo-space
    """
    repo_id(repo)
    hub, output = find_hub(hub_name), output_of()
    if follow:
        for piece in filter(None, hub.follow_space_log(repo, build=of_build)):
            for line in piece.splitlines():
                output.line({"line": line}, line)
        return
    lines = hub.space_log(repo, build=of_build)
    output.result({"repo": repo, "lines": lines}, *map(printable, lines))


@click.command()
@click.argument("repo")
@click.option("--factory", is_flag=True, help="Install its requirements again too.")
@timeout_option
@hub_option
@output_options
def restart(repo: str, factory: bool, timeout: float, hub_name: str | None) -> None:
    """Restart the Space REPO.

    The command waits until it runs. A paused Space runs again. If it does not start, the exit code is 5 and the end of
    its log is shown.

    \b
    Example:
      hubkit space restart me/my-space
    """
    repo_id(repo)
    hub = find_hub(hub_name)
    head = _head(hub, repo)
    hub.restart_space(repo, factory=factory)
    _print_running(hub, repo, head, timeout)


@click.command()
@click.argument("repo")
@confirm_option
@hub_option
@output_options
def pause(repo: str, yes: bool, hub_name: str | None) -> None:
    """Pause the Space REPO.

    Its app is stopped until it is restarted.

    \b
    Example:
      hubkit space pause me/my-space
    """
    repo_id(repo)
    hub, output = find_hub(hub_name), output_of()
    stage = hub.runtime(repo).stage
    if already := stage == "PAUSED":
        output.say(f"{repo} is paused already.")
    else:
        ask(f"Pause {repo}? Nobody can use it until it is restarted.", yes=yes)
        hub.pause_space(repo)
        stage = hub.runtime(repo).stage
    value = {"repo": repo, "stage": stage, "already": already}
    output.result(value, f"{repo} is {stage}. To run it again: hubkit space restart {repo}")


@click.command()
@click.argument("repo")
@click.option("--to", metavar="REVISION", help="Roll back to this commit or tag. Default: before the last change.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Roll back N changes of the files.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@timeout_option
@confirm_option
@hub_option
@output_options
def rollback(
    repo: str, to: str | None, steps: int | None, dry_run: bool, timeout: float, yes: bool, hub_name: str | None
) -> None:
    """Restore the Space REPO from before its last change.

    Its files are restored in a new commit, and the command waits until they run; the history is kept. Somebody else's
    change in the meantime is not overwritten: exit code 4. If the restored app does not start, the exit code is 5.

    \b
    Examples:
      hubkit space rollback me/my-space
      hubkit space rollback me/my-space --to 0a62394d777f -y
    """
    from hubkit.publishing import revisions

    if to is not None and steps is not None:
        raise click.UsageError("--to and --steps cannot be given together.")
    repo_id(repo)
    hub, output = find_hub(hub_name), output_of()
    change = revisions.plan_rollback(hub, repo, "main", to=to, steps=steps, repo_type="space")
    if change.nothing_to_do is not None or dry_run:
        lines = [change.nothing_to_do] if change.nothing_to_do else planned_lines(change)
        left = ["Nothing was changed (--dry-run)."] if dry_run else []
        value = change.to_json() | {"commit": None if dry_run else change.plan.head, "dry_run": dry_run}
        output.result(value, *lines, *left)
        return
    for line in planned_lines(change):
        output.say(line)
    ask(f"Roll {repo} back to {short_commit(change.plan.source)}?", yes=yes)
    commit = change.apply(hub)
    if change.plan.head is not None:
        output.say(f"To undo this: hubkit space rollback {repo} --to {short_commit(change.plan.head)}")
    _print_running(hub, repo, commit, timeout)


def _head(hub: Hub, repo: str) -> str:
    """The commit of the Space's main branch."""
    return hub.resolve(repo, "main", "space")


def _print_running(hub: Hub, repo: str, commit: str, timeout: float) -> None:
    """Wait until the Space runs ``commit``, and print where. RemoteError when it does not."""
    from hubkit.publishing.spaces import building, deployment

    output = output_of()
    output.say(f"Waiting until {repo} runs {short_commit(commit)}.")
    runtime = deployment.wait(hub, repo, commit, timeout=timeout)
    host = hub.space_host(repo) if runtime.stage in deployment.ANSWERING else None
    page = building.page(hub.endpoint, repo)
    value = {"repo": repo, "commit": commit, "stage": runtime.stage, "page": page, "app": host}
    output.result(value, f"page  {page}", f"app   {host or runtime.stage.lower()}")
