"""FOLDER, or REPO at a revision: what `check`, `verify` and `card lint` take, decided in one way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hubkit.cli.options import repo_not_path
from hubkit.cli.targets import find_hub, running_hub
from hubkit.core.errors import UsageError

if TYPE_CHECKING:
    from hubkit.checks.source import FolderSource, RepoSource


def open_source(
    argument: str, revision: str, hub_name: str | None, *, look_up: bool = True, or_file: bool = False
) -> FolderSource | RepoSource:
    """The folder or the repo that ``argument`` names; a folder that exists comes first.

    A repo is read from its Hub, and the embedded one is started for it. ``look_up``: repos that a model in a folder
    names are looked up too, where the Hub is running. ``or_file``: the command takes a card's file as well. A repo may
    be written as ``REPO@REVISION`` in place of ``revision``.
    """
    from hubkit.checks.source import FolderSource, RepoSource

    if Path(argument).is_dir():
        return FolderSource(Path(argument), running_hub(hub_name) if look_up else None)
    name, at, own = argument.partition("@")
    if at and own and not Path(name).is_dir():
        if revision not in ("main", own):
            raise UsageError(f"{argument} names another revision than --revision {revision}.", hint="Give one of them.")
        argument, revision = name, own
    repo = repo_not_path(argument, or_file=or_file)
    return RepoSource(find_hub(hub_name), repo, revision)
