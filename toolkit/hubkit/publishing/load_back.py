"""What came back when the staged commit was loaded from the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hubkit.models.chat.stop_rates import MeasuredRate
from hubkit.recipe.artifact import JsonArtifact


@dataclass(frozen=True)
class ComparedForms:
    """How far the merged weights and the adapter on its base agree on the same conversations.

    ``top1_agreement`` is the share of equal most likely tokens, ``max_difference`` the greatest difference of a logit.
    """

    dtype: str
    conversations: int
    positions: int
    top1_agreement: float
    max_difference: float


@dataclass(frozen=True)
class LoadBack(JsonArtifact):
    """The bytes that were compared, the stop rate of each form that was loaded, and how far the forms agree."""

    FILE = "loadback.json"
    commit: str
    files: int
    bytes: int
    stopping: Mapping[str, MeasuredRate]
    compared: ComparedForms
    top1_agreement: float
