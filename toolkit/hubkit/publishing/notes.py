"""Progress events of publishing, recorded in the run's journal."""

from __future__ import annotations

from typing import Protocol


class Note(Protocol):
    """Called at each event with its name and facts about it."""

    def __call__(self, point: str, **facts: str) -> None:
        """Record the event ``point``."""


def no_note(point: str, **facts: str) -> None:
    """Record nothing."""
