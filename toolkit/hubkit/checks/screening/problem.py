"""What a screening finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Why ``path`` must not be published. ``rule`` is a short name, ``message`` a clause without the value found."""

    path: str
    rule: str
    message: str

    @property
    def sentence(self) -> str:
        """The problem in one line."""
        return f"{self.path!r}: {self.message} [{self.rule}]"
