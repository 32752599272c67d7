"""A deployed Space: its commit, its files, and its answers to the test prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from hubkit.core.files import Manifest
from hubkit.core.printable import printable
from hubkit.core.trees import tree_of
from hubkit.hub.client import Hub
from hubkit.publishing.ownership import holds_release
from hubkit.publishing.spaces import deployment
from hubkit.publishing.spaces.building import EOS, Answer, ending
from hubkit.recipe.artifact import JsonArtifact

APP = "app"
"""The folder with the Space's files."""
ENDINGS = {EOS: "stopped", "limit": "hit the token limit"}
"""How an answer ended, in words."""
_QUOTED = 120


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


def compare_answers(tried: Answer, deployed: Answer, repo: str, *, same_machine: bool) -> None:
    """OtherAnswerError unless the app of the Space ``repo`` answers as it did when it was tried.

    On another machine the last bits of a sum differ, and a greedy answer can part from its twin at any close choice.
    So there, without ``same_machine``, only the first word and the ending are compared.
    """
    words = (lambda text: text) if same_machine else (lambda text: " ".join(text.split()[:1]))
    if (words(tried.text), tried.ended) == (words(deployed.text), deployed.ended):
        return
    raise deployment.OtherAnswerError(
        f"The Space {repo} answers {tried.prompt!r} differently with {tried.revision}: "
        f"{_quoted(deployed)} on the Hub, {_quoted(tried)} when it was tried here.",
        hint=f"See its log: hubkit space logs {repo}. Then run the release again.",
    )


def _quoted(answer: Answer) -> str:
    text = answer.text if len(answer.text) <= _QUOTED else f"{answer.text[:_QUOTED]}..."
    return f"{printable(repr(text))} ({ENDINGS.get(answer.ended, answer.ended)})"


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
