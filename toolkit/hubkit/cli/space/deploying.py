"""`hubkit space build` and `deploy`: the files of a Space, from a release to the Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

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
from hubkit.cli.space.shared import app_environment, timeout_option
from hubkit.cli.targets import find_target
from hubkit.core.errors import UsageError


@click.command()
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


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repo")
@click.option(
    "--visibility", type=click.Choice(["public", "private"]), required=True, help="Set who can see the Space."
)
@click.option(
    "--hardware", metavar="HARDWARE", help="Use this hardware for a new Space, such as t4-small. Default: the free CPU."
)
@click.option("--try/--no-try", "tries", default=True, show_default=True, help="Try it on this machine first.")
@timeout_option
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
    environment = app_environment(target)
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
