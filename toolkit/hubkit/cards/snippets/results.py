"""The results of the Python code blocks of a variant's cards."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from hubkit.recipe.artifact import JsonArtifact


@dataclass(frozen=True)
class BlockResult:
    """One code block: its card and line, and how it ended.

    ``why`` is a clause: the last line of its error, or why it was not run. ``seconds`` has two decimals.
    """

    card: str
    block: int
    line: int
    outcome: Literal["passed", "failed", "skipped"]
    seconds: float = 0.0
    why: str = ""
    revision: str | None = None
    output: str = ""

    def to_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class SnippetResults(JsonArtifact):
    """Every block of the cards, run against the staged ``commit``."""

    FILE = "snippets.json"
    commit: str
    blocks: tuple[BlockResult, ...]

    @property
    def ran(self) -> int:
        """How many blocks ran; the others were skipped for want of a program that the release goes on without."""
        return sum(block.outcome == "passed" for block in self.blocks)
