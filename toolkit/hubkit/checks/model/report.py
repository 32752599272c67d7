"""What `hubkit check` reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hubkit.checks.model.measurements import Measurements
from hubkit.core.findings import Finding
from hubkit.models.chat.eos import EndOfTurn


@dataclass(frozen=True)
class CheckReport:
    """``findings``, errors first, and what the model is. None: its files do not say, or nobody could find out.

    ``measured``: the stop rates that a release of hubkit measured of these weights.
    """

    name: str
    findings: tuple[Finding, ...]
    kind: str
    architecture: str | None
    dtype: str | None
    parameters: int | None
    end_of_turn: EndOfTurn | None
    template: str | None
    base_model: str | None
    measured: Measurements | None
    files: int
    bytes: int

    @property
    def sound(self) -> bool:
        """Whether there is no error among the findings."""
        return all(finding.level != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        end = self.end_of_turn
        return {
            **asdict(self),
            "findings": [finding.to_json() for finding in self.findings],
            "end_of_turn": {"token": end.token, "id": end.id} if end else None,
            "measured": self.measured.to_json() if self.measured else None,
            "sound": self.sound,
        }
