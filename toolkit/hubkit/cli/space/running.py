"""`hubkit space run`: a Space, or the chat app for any model, on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubkit.cli.options import hub_option, output_of, output_options, repo_not_path
from hubkit.cli.space.shared import app_environment, timeout_option
from hubkit.cli.targets import find_target
from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.names import named_repo_problem

if TYPE_CHECKING:
    from hubkit.core.target import Target
    from hubkit.hub.client import Hub
    from hubkit.publishing.spaces.any_model import Shown

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "TOKENIZERS_PARALLELISM": "false"}
"""What the app of a model gets: its files are here, so it asks no Hub and needs no token."""


@dataclass(frozen=True)
class _Runnable:
    """A Space's folder, the environment of its app, and the folders that it reads."""

    folder: Path
    environment: Mapping[str, str]
    reads: Sequence[Path] = ()


@click.command()
@click.argument("source", metavar="FOLDER|REPO[@REV]")
@click.option(
    "--port", type=click.IntRange(1, 65535), metavar="PORT", help="Listen on this port. Default: any free one."
)
@click.option("--trust", is_flag=True, help="Run the code of the Space REPO with your rights on this machine.")
@timeout_option
@hub_option
@output_options
def run(source: str, port: int | None, trust: bool, timeout: float, hub_name: str | None) -> None:
    """Chat with a model, or run a Space, on this machine until Ctrl-C.

    FOLDER or REPO holds a chat model or LoRA adapter for transformers, or a Gradio Space. A model is shown in the app
    that a release deploys; a folder with a model is run without asking a Hub. An adapter needs the base that its config
    names. If REPO is a model and a Space, the model is run; with --trust the Space.

    The app gets none of your tokens and, where the system can confine it, none of your files but the model and the
    cache of models. For a Space of a private model, set HUBKIT_SPACE_TOKEN to a read-only token; the app gets it as
    HF_TOKEN.

    \b
    Examples:
      hubkit space run ./my-model
      hubkit space run me/my-model@dpo-v0
    """
    with tempfile.TemporaryDirectory(prefix="hubkit-space-") as place:
        found = _find(source, Path(place), trust=trust, hub_name=hub_name)
        _run(found, port, timeout)


def _run(found: _Runnable, port: int | None, timeout: float) -> None:
    """Run the app until it ends or Ctrl-C is pressed."""
    from hubkit.core.processes.confinement import UNCONFINED
    from hubkit.publishing.spaces import building, readiness

    output = output_of()
    output.say("Starting the app.")
    with building.trial(found.folder, found.environment, port=port, timeout=timeout, reads=found.reads) as app:
        if app.confinement is None:
            output.warn(f"The app is {UNCONFINED}.")
        for warning in readiness.other_versions(found.folder):
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


def _find(source: str, place: Path, *, trust: bool, hub_name: str | None) -> _Runnable:
    """The Space to run for ``source``: its own, or the chat app for a model. Files are downloaded to the cache."""
    from hubkit.publishing.spaces import readiness

    folder = Path(source)
    if folder.is_dir():
        if _is_space(folder, readiness.front_matter(folder)):
            return _Runnable(folder, app_environment(find_target(hub_name)))
        return _of_model(folder, place, hub_name)
    repo, _, revision = source.partition("@")
    repo_not_path(repo)
    target = find_target(hub_name)
    return _of_repo(target, repo, revision, place, trust=trust)


def _is_space(folder: Path, front: Mapping[str, object]) -> bool:
    return "sdk" in front or ((folder / "app.py").is_file() and not (folder / "config.json").is_file())


def _of_repo(target: Target, repo: str, revision: str, place: Path, *, trust: bool) -> _Runnable:
    from hubkit.checks.source import RepoSource
    from hubkit.hub.client import connect
    from hubkit.publishing.spaces import any_model

    hub = connect(target)
    if (trust or not hub.repo_exists(repo)) and hub.repo_exists(repo, "space"):
        if not trust:
            raise RefusedError(
                f"Running {repo} executes its author's code on this machine.",
                hint="Review its files, then pass --trust.",
            )
        return _Runnable(_space_files(hub, repo, revision, place), app_environment(target))
    model = RepoSource(hub, repo, revision or "main")
    any_model.require_room(any_model.weights_size(model), model.name)
    output_of().say(f"Downloading {model.name}, unless it is in the cache.")
    cache = target.home / "hub"
    folder = hub.download(repo, model.commit or "main", cache=cache, patterns=any_model.needed_files(model))
    shown = any_model.Shown(repo, revision or "main", model.commit or "")
    return _of_model(folder, place, None, target=target, shown=shown)


def _space_files(hub: Hub, repo: str, revision: str, place: Path) -> Path:
    return hub.snapshot(repo, place / "space", "space", revision=revision or None)


def _of_model(
    folder: Path, place: Path, hub_name: str | None, *, target: Target | None = None, shown: Shown | None = None
) -> _Runnable:
    """The chat app for the model in ``folder``. A base that an adapter names is downloaded."""
    from hubkit.publishing.spaces import any_model, building

    def base_of(repo: str, at: str | None) -> Path:
        from hubkit.checks.source import RepoSource
        from hubkit.hub.client import connect

        if problem := named_repo_problem(repo):
            raise UsageError(
                f"The adapter in {folder} names the base {repo!r}, which is no folder here and no repo: {problem}.",
                hint="Set base_model_name_or_path in adapter_config.json to a repo id or a folder.",
            )
        there = target or find_target(hub_name)
        hub = connect(there)
        base = RepoSource(hub, repo, at or "main")
        any_model.require_room(any_model.weights_size(base), base.name)
        output_of().say(f"Downloading the base {base.name}, unless it is in the cache.")
        patterns = any_model.needed_files(base)
        return hub.download(repo, base.commit or "main", cache=there.home / "hub", patterns=patterns)

    prepared = place / "model"
    prepared.mkdir()
    model = any_model.model_in(folder, prepared, base_of, shown)
    any_model.require_room(model.bytes, shown.name if shown else str(folder))
    building.write_app(model.facts, building.PLAIN_CARD, place / "app")
    links = {"HF_ENDPOINT": target.endpoint} if target else {}
    return _Runnable(place / "app", _OFFLINE | links, model.reads)
