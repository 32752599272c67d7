"""A model or an adapter that a command works on: a folder on this machine, or a repo that is downloaded for it."""

from __future__ import annotations

import glob
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.cli.options import output_of, repo_not_path
from hubkit.cli.targets import find_target
from hubkit.core.numbers import short_commit


@dataclass(frozen=True)
class Place:
    """A model or an adapter on this machine; ``commit`` of the repo that it was downloaded from."""

    name: str
    folder: Path
    commit: str | None = None

    def to_json(self) -> dict[str, Any]:
        """``{"name", "commit"}``."""
        return {"name": self.name, "commit": self.commit}

    def __str__(self) -> str:
        return f"{self.name} ({short_commit(self.commit)})" if self.commit else self.name


def place(
    argument: str,
    hub_name: str | None,
    *,
    adapter: bool,
    more: Callable[[Collection[str]], Iterable[str]] | None = None,
) -> Place:
    """The folder that ``argument`` names, or the download of the repo; a folder that exists comes first.

    ``more`` chooses, of all the files of the repo, those that are downloaded beside those of a model or an adapter.
    """
    if Path(argument).is_dir():
        return Place(argument, Path(argument))
    from hubkit.hub.client import connect
    from hubkit.hub.revision_names import commit_of
    from hubkit.models.merging.companions import ADAPTER_PATTERNS, PATTERNS

    name, _, revision = argument.partition("@")
    repo = repo_not_path(name)
    target = find_target(hub_name)
    hub = connect(target)
    commit = commit_of(hub, repo, revision or "main")
    output_of().say(f"Downloading {argument} …")
    patterns = list(ADAPTER_PATTERNS if adapter else PATTERNS)
    if more is not None:
        patterns += [glob.escape(path) for path in more(hub.tree(repo, commit))]
    return Place(argument, hub.download(repo, commit, cache=target.home / "hub", patterns=patterns), commit)
