"""What the gates decided about each variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hubkit.recipe.artifact import JsonArtifact

GateResult = Literal["passed", "failed", "failed (reported)"]


@dataclass(frozen=True)
class GateVerdict:
    """A variant's rates by published form, compared with ``threshold``. ``enforced``: a failure stops the release."""

    passed: bool
    enforced: bool
    threshold: float
    rates: Mapping[str, float]

    @property
    def result(self) -> GateResult:
        """The verdict in words."""
        return "passed" if self.passed else "failed" if self.enforced else "failed (reported)"


@dataclass(frozen=True)
class GatedBase:
    """The base's own stop rate, and a remark about it if it is low."""

    rate: float
    remark: str | None


@dataclass(frozen=True)
class GateVerdicts(JsonArtifact):
    """The verdict for each variant."""

    FILE = "gates.json"
    base: GatedBase
    variants: Mapping[str, GateVerdict]
