"""The points that a publication passes, for the journal of a run."""

from __future__ import annotations

from typing import Protocol


class Note(Protocol):
    """Called at each point with its name and facts about it."""

    def __call__(self, point: str, **facts: str) -> None:
        """``point`` was passed."""


def no_note(point: str, **facts: str) -> None:
    """Write nothing."""
