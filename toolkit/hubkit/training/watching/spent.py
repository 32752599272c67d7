"""What a training took: seconds and memory, over all the processes that it was interrupted between."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubkit.core.files import read_json
from hubkit.models import load
from hubkit.training.checkpoints import SPENT


@dataclass(frozen=True)
class Spent:
    """What a training took before this process, and when this one began (``time.monotonic``, seconds).

    Each checkpoint carries its own, so that it counts what led to it, and not what a kill threw away after it.
    """

    seconds: float = 0.0
    peak: int = 0
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def until(cls, checkpoint: Path | None) -> Spent:
        """What it took to come to ``checkpoint``; nothing for None."""
        if checkpoint is None:
            return cls()
        found = read_json(checkpoint / SPENT)
        return cls(float(found["seconds"]), int(found["peak_memory_bytes"]))

    def total(self) -> dict[str, Any]:
        """``seconds`` and ``peak_memory_bytes`` of all processes up to now."""
        seconds = self.seconds + time.monotonic() - self.began
        return {"seconds": round(seconds, 3), "peak_memory_bytes": max(self.peak, load.peak_memory())}
