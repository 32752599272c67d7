"""A deployed Space: its commit, its files, and its answers to the test prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from hubkit.core.files import Manifest
from hubkit.core.trees import tree_of
from hubkit.hub.client import Hub
from hubkit.publishing.ownership import holds_release
from hubkit.publishing.spaces import deployment
from hubkit.publishing.spaces.building import Answer, ending
from hubkit.recipe.artifact import JsonArtifact

APP = "app"
"""The folder with the Space's files."""


@dataclass(frozen=True)
class GivenAnswer:
    """An answer of the app, ``where`` it ran: 'here' or 'on the Hub'."""

    where: str
    prompt: str
    revision: str
    text: str
    ended: str
    tokens: int
    seconds: float

    @classmethod
    def of(cls, answer: Answer, where: str) -> GivenAnswer:
        """``answer``, given ``where``."""
        return cls(where=where, **answer.to_json())


@dataclass(frozen=True)
class DeployedSpace(JsonArtifact):
    """The Space ``repo`` at ``commit``; ``previous`` was its head before."""

    FILE = "space.json"
    repo: str
    commit: str
    previous: str | None = None
    answers: tuple[GivenAnswer, ...] = ()

    @classmethod
    def parse(cls, value: Any, folder: Path = Path()) -> Self:
        """The Space in the plain ``value``; of hubkit 0.1 too, see :func:`building.ending`."""
        loaded = super().parse(value, folder)
        answers = tuple(replace(answer, ended=ending(answer.ended)) for answer in loaded.answers)
        return replace(loaded, answers=answers)

    @property
    def app(self) -> Path:
        """The folder with the Space's files."""
        return self.folder / APP

    @property
    def bundle(self) -> Manifest:
        """The Space's files with their digests."""
        prefix = f"{APP}/"
        files = self.contents.files.items()
        return Manifest({name.removeprefix(prefix): item for name, item in files if name.startswith(prefix)})


def changed_since(hub: Hub, deployed: DeployedSpace) -> str | None:
    """What of ``deployed`` has changed on the Hub; None while it holds the files and nothing keeps it from running."""
    repo = deployed.repo
    if not hub.repo_exists(repo, "space"):
        return f"the Space {repo} no longer exists"
    head = hub.head(repo, "main", "space")
    wanted = tree_of(deployed.bundle)
    if head != deployed.commit and (head is None or not holds_release(hub.tree(repo, head, "space"), wanted)):
        return f"the Space {repo} was changed"
    stage = hub.runtime(repo).stage
    return None if stage in deployment.RESTING | deployment.COMING else f"the Space {repo} is {stage}"
