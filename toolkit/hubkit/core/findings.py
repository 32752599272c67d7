"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What a check found. ``error`` stops the release, ``warning`` and ``note`` are said."""

    level: Literal["error", "warning", "note"]
    message: str
    hint: str | None = None
    exit_code: int = 3
