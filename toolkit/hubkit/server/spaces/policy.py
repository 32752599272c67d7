"""Whether Spaces run here, what confines them, and what their owner is told about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hubkit.core.processes.confinement import UNCONFINED, Reach, Way, best_way

Mode = Literal["always", "confined", "never"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""Run Spaces even where nothing confines them; run them confined or not at all; run none."""


@dataclass(frozen=True)
class Policy:
    """The policy of the Hub whose data folder is ``root``."""

    root: Path
    mode: Mode = "always"

    def reach(self, *, read: tuple[Path, ...] = (), write: tuple[Path, ...] = ()) -> Reach:
        """What the processes of one Space may reach beyond their checkout and their home."""
        return Reach(read=read, write=write, hidden=(self.root,), required=self.mode == "confined")

    def way(self, space: Path | None = None) -> Way | None:
        """What confines the Space in the folder ``space``, or any Space; None when nothing does."""
        return best_way(self.reach(write=(space or self.root / "spaces",)))

    def refusal(self, space: Path) -> str | None:
        """Why a Space is not run, a sentence; None when it is."""
        if self.mode == "never":
            return "This Hub runs no Spaces: it was started with --spaces never."
        if self.mode == "confined" and self.way(space) is None:
            return "This Hub was started with --spaces confined, and this system has no means to confine a Space."
        return None

    def warning(self, space: Path) -> str | None:
        """What to say about a Space that is run although nothing confines it."""
        return None if self.way(space) else f"Warning: this app is {UNCONFINED}."
