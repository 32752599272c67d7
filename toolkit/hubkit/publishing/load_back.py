"""What came back when the staged commit was loaded from the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hubkit.models.chat.form_agreement import Agreement
from hubkit.models.chat.stop_rates import MeasuredRate
from hubkit.models.merging.proof import Proof
from hubkit.recipe.artifact import JsonArtifact


@dataclass(frozen=True)
class ComparedForms:
    """How far the merged weights and the adapter on its base agree: only in releases before they were proved."""

    dtype: str
    conversations: int
    positions: int
    top1_agreement: float
    max_difference: float


@dataclass(frozen=True)
class LoadBack(JsonArtifact):
    """The bytes that were compared, the proof of the merge, and what each form that was loaded still expects.

    ``reproduced``: how far a form, loaded from the Hub, expects the next tokens that it expected before the upload.
    ``stopping``, ``compared`` and ``top1_agreement`` are only in older releases, which measured again.
    """

    FILE = "loadback.json"
    commit: str
    files: int
    bytes: int
    proof: Proof | None = None
    reproduced: Mapping[str, Agreement] = field(default_factory=dict)
    stopping: Mapping[str, MeasuredRate] = field(default_factory=dict)
    compared: ComparedForms | None = None
    top1_agreement: float | None = None
