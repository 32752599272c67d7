"""Which programs read a variant: what the step `readers` leaves."""

from __future__ import annotations

from dataclasses import dataclass

from hubkit.models.readers.comparing import Cell
from hubkit.recipe.artifact import JsonArtifact


@dataclass(frozen=True)
class ReadBy(JsonArtifact):
    """The cells of :class:`hubkit.models.readers.matrix.Matrix`, and the token limit of the answers."""

    FILE = "readers.json"
    cells: tuple[Cell, ...]
    date: str
    machine: str
    max_new_tokens: int
