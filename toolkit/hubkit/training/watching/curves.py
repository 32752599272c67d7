"""The curves of a training as data: what was logged at each step and what the probe found, in one file.

    {"format": 1, "stage": "dpo", "method": "dpo", "steps": 150,
     "points": [{"step": 10, "seconds": 4.1, "loss": 0.69, "rewards/margins": 0.02, "tokens_per_second": 812.0}],
     "probes": [{"step": 50, "stopped": 15, "prompts": 16, "rate": 0.9375, "mean_tokens": 21.4, "seconds": 0.4}]}

The file is replaced as a whole, so that a reader never sees half of it. It stays small: where there are too many
points, neighbors become their mean. A resumed training drops the points after the checkpoint that it resumes from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubkit.core.errors import HubkitError
from hubkit.core.files import read_json, write_json

FILE = "curves.json"
FORMAT = 1
MOST = 2000
"""Points that are kept. With one more they become half as many."""
_PAUSE = 50
"""Writing waits this many times as long as the last write took, and at least a second."""

Point = dict[str, Any]


@dataclass
class Curves:
    """The curves of one training in ``path``. ``steps`` is how many it will have, 0 while that is unknown.

    ``off`` is why there is no probe, or none any more. ``trackers`` are the trackers that the training reports to, each
    with its ``name`` and, where it has one, the ``url`` of this training.
    """

    path: Path
    stage: str = ""
    method: str = ""
    steps: int = 0
    points: list[Point] = field(default_factory=list)
    probes: list[Point] = field(default_factory=list)
    off: str | None = None
    trackers: list[dict[str, Any]] = field(default_factory=list)
    _next_write: float = field(default=0.0, repr=False)

    @classmethod
    def resumed(cls, path: Path, step: int, stage: str, method: str) -> Curves:
        """The curves in ``path`` up to ``step``, from which the training goes on. Empty ones when there are none."""
        found = read_curves(path) if step else None
        found = found or cls(path)
        found.points = [point for point in found.points if point["step"] <= step]
        found.probes = [point for point in found.probes if point["step"] <= step]
        found.stage, found.method, found.off = stage, method, None
        return found

    def add(self, step: int, seconds: float, values: Mapping[str, Any]) -> None:
        """What was logged at ``step``, after ``seconds`` of training. Only finite numbers are kept."""
        numbers = {name: value for name, value in values.items() if _is_number(value)}
        point = {"step": step, "seconds": round(seconds, 3), **numbers}
        if self.points and self.points[-1]["step"] == step:
            self.points[-1] |= point
        else:
            self.points.append(point)
            self.points = bounded(self.points)

    def add_probe(self, step: int, values: Mapping[str, Any]) -> None:
        """What the probe found at ``step``."""
        self.probes = bounded([*self.probes, {"step": step, **values}])

    def write(self, *, now: bool = True) -> None:
        """Replace the file; without ``now`` only if enough time has passed since it was last replaced."""
        began = time.monotonic()
        if not now and began < self._next_write:
            return
        write_json(self.path, self.to_json())
        ended = time.monotonic()
        self._next_write = ended + max(1.0, _PAUSE * (ended - began))

    def to_json(self) -> dict[str, Any]:
        """What the file holds."""
        return {
            "format": FORMAT,
            "stage": self.stage,
            "method": self.method,
            "steps": self.steps,
            "off": self.off,
            "trackers": self.trackers,
            "points": self.points,
            "probes": self.probes,
        }

    def series(self, name: str) -> list[tuple[int, float]]:
        """The curve ``name``, (step, value) each; ``rate`` and the like are of the probe."""
        points = self.probes if any(name in point for point in self.probes) else self.points
        return [(point["step"], float(point[name])) for point in points if name in point]


def read_curves(path: Path) -> Curves | None:
    """The curves in the file ``path``; None when there is none, or it is not one of this format."""
    if not path.is_file():
        return None
    try:
        found = read_json(path)
        if found["format"] != FORMAT:
            return None
        points = _numbers(found["points"], {"step", "seconds"})
        probes = _numbers(found["probes"], {"step", "stopped", "prompts", "rate", "seconds"})
        return Curves(
            path,
            str(found["stage"]),
            str(found["method"]),
            int(found["steps"]),
            points,
            probes,
            None if found["off"] is None else str(found["off"]),
            [{str(key): str(value) for key, value in item.items()} for item in found["trackers"]],
        )
    except (HubkitError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _numbers(points: Any, needed: set[str]) -> list[Point]:
    """The points that have the numbers ``needed``, with their numbers alone."""
    clean = [{str(name): value for name, value in point.items() if _is_number(value)} for point in points]
    return [point for point in clean if needed <= point.keys()]


def bounded(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """``points``, or fewer where there are more than ``most``: equally wide parts of the training become their means.

    A mean has the last step of its part, and counts in ``merged`` how many points it is of.
    """
    if len(points) <= most:
        return list(points)
    width = -(-(points[-1]["step"] - points[0]["step"] + 1) // (most // 2))
    found: list[Point] = []
    for point in points:
        same = (
            found and (found[-1]["step"] - points[0]["step"]) // width == (point["step"] - points[0]["step"]) // width
        )
        if same:
            found[-1] = _mean(found[-1], point)
        else:
            found.append(point)
    return found


def _mean(first: Point, second: Point) -> Point:
    """The mean of two points, each as heavy as what it was merged of. Whole numbers are those of the second."""
    before, added = first.get("merged", 1), second.get("merged", 1)
    mean = {
        name: (first[name] * before + value * added) / (before + added)
        for name, value in second.items()
        if isinstance(value, float) and name in first and name != "seconds"
    }
    return {**first, **second, **mean, "merged": before + added}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
