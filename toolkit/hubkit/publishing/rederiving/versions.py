"""The versions that can change a bit of what is derived again: as the manifest says, and here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hubkit import __version__
from hubkit.core.libraries import installed

HINT = "Do not use it until its publisher has explained the difference."
"""What to do about one that no version explains."""


@dataclass(frozen=True)
class Version:
    """What the release was merged with, and what is here; None where it is unknown."""

    name: str
    then: str | None
    now: str | None

    @property
    def differs(self) -> bool:
        """Whether both are known and are not the same."""
        return self.then is not None and self.then != self.now


def versions_of(
    then: Mapping[str, Any], libraries: Iterable[str], here: Mapping[str, str] | None = None
) -> list[Version]:
    """hubkit's version, those of ``libraries``, and what else is known ``here``; ``then`` is what the manifest says."""
    now = {"hubkit": __version__, **{name: installed(name) for name in libraries}, **(here or {})}
    return [Version(name, str(then[name]) if name in then else None, value) for name, value in now.items()]
