"""`hubkit space`: Gradio Spaces, of a release or of anybody."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Literal

import click
from rich.text import Text

from hubkit.cli.common import (
    ask,
    confirm_option,
    find_recipe,
    find_target,
    hub_option,
    last_desk,
    output_of,
    repo_id,
    speaks,
)
from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.output import hide, printable, table
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.publishing.spaces import building, deployment

_timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=building.TIMEOUT,
    show_default=True,
    help="Seconds that it may take to come up.",
)


@click.group()
def space() -> None:
    """Build, try, deploy and watch Gradio Spaces."""


@space.command()
@click.argument("recipe", required=False)
@click.option(
    "-o", "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="A new folder for the files."
)
@hub_option
@speaks
def build(recipe: str | None, out: Path, hub_name: str | None) -> None:
    """Write the files of the Space that the last release of RECIPE deployed.

    \b
    hubkit space build tiny -o my-space
    """
    import shutil

    found, folder = find_recipe(recipe)
    if found.space is None:
        raise UsageError("This recipe has no `space`.", hint="Add `space: {repo: namespace/name}`.")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty.", hint="Name a new folder.")
    made = last_desk(found, folder, hub_name).finished.get("space")
    if made is None:
        raise UsageError(
            f"No release of {found.repo} with its Space is finished.",
            hint="Run `hubkit release` first: it pins commits.",
        )
    shutil.copytree(made.path / "app", out, dirs_exist_ok=True)
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    output_of().result({"folder": str(out), "files": files}, *(Text(f"{out}/{name}") for name in files))


@space.command()
@click.argument("source", metavar="FOLDER|REPO")
@click.option("--port", type=click.IntRange(1, 65535), help="Where it listens; any free port when left out.")
@click.option("--trust", is_flag=True, help="Run the code of a REPO: whatever it is, it runs as you.")
@_timeout_option
@hub_option
@speaks
def run(source: str, port: int | None, trust: bool, timeout: float, hub_name: str | None) -> None:
    """Run a Space on this machine until Ctrl-C, in an environment without your tokens.

    For a private model, HUBKIT_SPACE_TOKEN names a token that may only read; the app gets it as HF_TOKEN.

    \b
    hubkit space run my-space
    """
    target = find_target(hub_name)
    with tempfile.TemporaryDirectory(prefix="hubkit-space-") as place:
        folder = Path(source)
        if not folder.is_dir():
            repo_id(source, f"There is no folder {source}.")
            if not trust:
                raise RefusedError(
                    f"{source} is not a folder here, and running a Space from a Hub runs its author's code.",
                    hint="Read its files first; then give --trust.",
                )
            folder = connect(target).snapshot(source, Path(place), "space")
        output = output_of()
        output.say("Starting; the first time it loads its models.")
        with building.trial(folder, _environment(target), port=port, timeout=timeout) as app:
            output.result({"url": app.url}, Text(app.url))
            output.say("Ctrl-C ends it.")
            try:
                while (code := app.code()) is None:
                    time.sleep(0.2)
            except KeyboardInterrupt:
                code = 0
    if code:
        raise HubkitError(f"The app ended with status {code}.", hint="What it wrote says why.")


@space.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repo")
@click.option("--visibility", type=click.Choice(["public", "private"]), required=True, help="Who may see it.")
@click.option("--hardware", help="The Hub's name of the hardware of a new Space; its free CPU when left out.")
@click.option("--try/--no-try", "tries", default=True, show_default=True, help="Start it on this machine first.")
@_timeout_option
@confirm_option
@hub_option
@speaks
def deploy(
    folder: Path, repo: str, visibility: Literal["public", "private"], hardware: str | None, tries: bool,
    timeout: float, yes: bool, hub_name: str | None,
) -> None:  # fmt: skip
    """Put the Gradio app in FOLDER on the Space REPO, in one commit, and wait until it runs.

    When it does not, the version that ran before is put back, and the exit code is 5. For a private model,
    HUBKIT_SPACE_TOKEN names a token that may only read; the app gets it as HF_TOKEN.

    \b
    hubkit space deploy my-space me/my-space --visibility public
    """
    repo_id(repo)
    building.app_file(folder)
    target, output = find_target(hub_name), output_of()
    environment = _environment(target)
    secrets = {name: value for name, value in environment.items() if name == "HF_TOKEN"}
    with tempfile.TemporaryDirectory(prefix="hubkit-space-") as place:
        bundle = building.bundle_of(folder, Path(place) / "manifest.json")
        if not target.embedded:
            ask(f"Deploy {folder} to the Space {repo} ({visibility}) on {target.endpoint}?", yes=yes)
        if tries:
            output.say("Trying it on this machine.")
            with building.trial(folder, environment, timeout=timeout):
                pass
        output.say(f"Deploying to {repo}.")
        done = deployment.deploy(
            connect(target), repo, bundle, visibility, hardware=hardware, secrets=secrets, timeout=timeout
        )
    for warning in done.warnings(repo):
        output.warn(warning)
    page = building.page(target.endpoint, repo)
    if not done.written:
        output.say("It held these files already; nothing was written.")
    value = {"repo": repo, "commit": done.commit, "written": done.written, "page": page, "app": done.host}
    output.result(value, Text(f"page  {page}"), Text(f"app   {done.host or 'rests'}"))


@space.command()
@click.argument("repo")
@hub_option
@speaks
def status(repo: str, hub_name: str | None) -> None:
    """Say how the Space REPO is doing. Exit code 0 either way.

    \b
    hubkit space status hubkit/tiny-hermes-dpo-space
    """
    hub = connect(find_target(hub_name))
    repo_id(repo)
    runtime, host = hub.runtime(repo), hub.space_host(repo)
    value = {"repo": repo, "stage": runtime.stage, "commit": runtime.commit, "message": runtime.message, "app": host}
    rows = [(name, str(said)) for name, said in value.items() if said]
    output_of().result({**value, "page": building.page(hub.endpoint, repo)}, table(("", ""), rows))


@space.command()
@click.argument("repo")
@click.option("--build", "of_build", is_flag=True, help="What its last build said, not its app.")
@click.option("-f", "--follow", is_flag=True, help="Go on as it writes, until Ctrl-C.")
@hub_option
@speaks
def logs(repo: str, of_build: bool, follow: bool, hub_name: str | None) -> None:
    """Print what the app of the Space REPO wrote. With --follow and --json, each line is an object of its own.

    \b
    hubkit space logs hubkit/tiny-hermes-dpo-space
    """
    repo_id(repo)
    hub, output = connect(find_target(hub_name)), output_of()
    if follow:
        for piece in filter(None, hub.follow_space_log(repo, build=of_build)):
            for line in piece.splitlines():
                output.text(json.dumps({"line": line}) if output.mode == "json" else printable(line))
        return
    lines = hub.space_log(repo, build=of_build)
    output.result({"repo": repo, "lines": lines}, *(Text(printable(line)) for line in lines))


def _environment(target: Target) -> dict[str, str]:
    token = os.environ.get(building.TOKEN)
    hide(token)
    return building.environment(target.endpoint, target.home / "hub", embedded=target.embedded, token=token)
