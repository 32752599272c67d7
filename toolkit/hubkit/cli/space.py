"""`hubkit space`: Gradio Spaces, of a release or any other."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from hubkit.cli.options import (
    ask,
    confirm_option,
    hub_option,
    output_of,
    output_options,
    recipe_argument,
    recipe_hub_option,
    repo_id,
)
from hubkit.cli.recipes import find_recipe, last_state
from hubkit.cli.targets import find_hub, find_target
from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.output import hide, table
from hubkit.core.printable import printable

if TYPE_CHECKING:
    from hubkit.core.target import Target

_timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=1800,
    show_default=True,
    metavar="SECONDS",
    help="Fail if the app does not start in this time.",
)


@click.group()
def space() -> None:
    """Build, try, deploy and monitor Gradio Spaces.

    Works with the Space of a release and with any other Gradio Space.
    """


@space.command()
@recipe_argument
@click.option(
    "-o", "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Write to this new folder."
)
@recipe_hub_option
@output_options
def build(recipe: str | None, out: Path, hub_name: str | None) -> None:
    """Write the files of the Space of the last release.

    \b
    Example:
      hubkit space build tiny -o my-space
    """
    import shutil

    settings, folder = find_recipe(recipe)
    if settings.space is None:
        raise UsageError("This recipe has no `space`.", hint="Add `space: {repo: namespace/name}`.")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty.", hint="Name a new folder.")
    deployed = last_state(settings, folder, hub_name).finished.get("space")
    if deployed is None:
        raise UsageError(
            f"No release of {settings.repo} has deployed its Space yet.",
            hint="Run `hubkit release` first: the Space loads the commits that it publishes.",
        )
    shutil.copytree(deployed.path / "app", out, dirs_exist_ok=True)
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    output_of().result({"folder": str(out), "files": files}, *(f"{out}/{name}" for name in files))


@space.command()
@click.argument("source", metavar="FOLDER|REPO")
@click.option(
    "--port", type=click.IntRange(1, 65535), metavar="PORT", help="Listen on this port. Default: any free one."
)
@click.option("--trust", is_flag=True, help="Run the code of REPO with your rights on this machine.")
@_timeout_option
@hub_option
@output_options
def run(source: str, port: int | None, trust: bool, timeout: float, hub_name: str | None) -> None:
    """Run a Space on this machine until Ctrl-C.

    The app gets none of your tokens and, where the system can confine it, none of your files but the cache of models.
    For a private model, set HUBKIT_SPACE_TOKEN to a read-only token; the app gets it as HF_TOKEN.

    \b
    Example:
      hubkit space run my-space
    """
    from hubkit.core.processes.confinement import UNCONFINED
    from hubkit.hub.client import connect
    from hubkit.publishing.spaces import building, readiness

    target = find_target(hub_name)
    with tempfile.TemporaryDirectory(prefix="hubkit-space-") as place:
        folder = Path(source)
        if not folder.is_dir():
            repo_id(source, f"There is no folder {source}.")
            if not trust:
                raise RefusedError(
                    f"Running {source} executes its author's code on this machine.",
                    hint="Review its files, then pass --trust.",
                )
            folder = connect(target).snapshot(source, Path(place), "space")
        output = output_of()
        output.say("Starting the app. The first start downloads its models.")
        with building.trial(folder, _environment(target), port=port, timeout=timeout) as app:
            if app.confinement is None:
                output.warn(f"The app is {UNCONFINED}.")
            for warning in readiness.other_versions(folder):
                output.warn(warning)
            output.result({"url": app.url}, app.url)
            output.say("Press Ctrl-C to stop it.")
            try:
                while (code := app.code()) is None:
                    time.sleep(0.2)
            except KeyboardInterrupt:
                code = 0
    if code:
        raise HubkitError(f"The app ended with status {code}.", hint="Its output above shows why.")


@space.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repo")
@click.option(
    "--visibility", type=click.Choice(["public", "private"]), required=True, help="Set who can see the Space."
)
@click.option(
    "--hardware", metavar="HARDWARE", help="Use this hardware for a new Space, such as t4-small. Default: the free CPU."
)
@click.option("--try/--no-try", "tries", default=True, show_default=True, help="Try it on this machine first.")
@_timeout_option
@confirm_option
@hub_option
@output_options
def deploy(
    folder: Path, repo: str, visibility: Literal["public", "private"], hardware: str | None, tries: bool,
    timeout: float, yes: bool, hub_name: str | None,
) -> None:  # fmt: skip
    """Deploy the Gradio app in FOLDER to the Space REPO.

    What the Hub would refuse or not build in its README.md and requirements.txt is refused first. Then the app is
    tried here, uploaded in one commit, and the command waits until it runs. If it does not, the version that ran before
    is restored and the exit code is 5. For a private model, set HUBKIT_SPACE_TOKEN to a read-only token; the app gets
    it as HF_TOKEN.

    \b
    Example:
      hubkit space deploy my-space me/my-space --visibility public
    """
    from hubkit.hub.client import connect
    from hubkit.publishing.spaces import building, deployment, readiness

    repo_id(repo)
    building.app_file(folder)
    output = output_of()
    for warning in readiness.require_ready(folder):
        output.warn(warning)
    target = find_target(hub_name)
    environment = _environment(target)
    secrets = {name: value for name, value in environment.items() if name == "HF_TOKEN"}
    with tempfile.TemporaryDirectory(prefix="hubkit-space-") as place:
        bundle = building.bundle_of(folder, Path(place) / "manifest.json")
        if not target.embedded:
            ask(f"Deploy {folder} to the Space {repo} ({visibility}) on {target.endpoint}?", yes=yes)
        if tries:
            output.say("Trying the app on this machine.")
            with building.trial(folder, environment, timeout=timeout):
                pass
            for warning in readiness.other_versions(folder):
                output.warn(warning)
        output.say(f"Deploying to {repo}.")
        done = deployment.deploy(
            connect(target), repo, bundle, visibility, hardware=hardware, secrets=secrets, timeout=timeout
        )
    for warning in done.warnings(repo):
        output.warn(warning)
    page = building.page(target.endpoint, repo)
    if not done.written:
        output.say("The Space is up to date; nothing was written.")
    value = {"repo": repo, "commit": done.commit, "written": done.written, "page": page, "app": done.host}
    output.result(value, f"page  {page}", f"app   {done.host or 'not running'}")


@space.command()
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


@space.command()
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


def _environment(target: Target) -> dict[str, str]:
    from hubkit.publishing.spaces import building

    token = os.environ.get(building.TOKEN)
    hide(token)
    return building.environment(target.endpoint, target.home / "hub", embedded=target.embedded, token=token)
