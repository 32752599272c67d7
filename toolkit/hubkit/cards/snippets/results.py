"""What became of the Python code blocks of a variant's cards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hubkit.cards.snippets.runs import Outcome
from hubkit.recipe.artifact import JsonArtifact


@dataclass(frozen=True)
class BlockResult:
    """One code block: the card and the line where it stands, and how it ended."""

    card: str
    block: int
    line: int
    outcome: Literal["passed", "failed", "skipped"]
    seconds: float = 0.0
    why: str = ""
    revision: str | None = None
    output: str = ""

    @classmethod
    def of(cls, outcome: Outcome) -> BlockResult:
        """``outcome``, as it is kept."""
        return cls(**outcome.to_json())


@dataclass(frozen=True)
class SnippetResults(JsonArtifact):
    """Every block of the cards, run against the staged ``commit``."""

    FILE = "snippets.json"
    commit: str
    blocks: tuple[BlockResult, ...]
