"""The trainings of a run and their curves, read from its files alone: while they run, and afterwards."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hubkit.core.errors import HubkitError
from hubkit.core.files import read_json
from hubkit.core.processes.named import is_gone
from hubkit.pipeline.runs import Run
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.watching.curves import FILE, Curves, read_curves

State = Literal["training", "interrupted", "finished"]


@dataclass(frozen=True)
class WatchedTraining:
    """The training ``step`` of a run, its curves, and how many seconds ago they were written."""

    step: str
    state: State
    curves: Curves
    age: float

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"step": self.step, "state": self.state, **self.curves.to_json()}


def is_over(run: Run) -> bool:
    """Whether the run ended: it released, or it stopped."""
    ended = [line["event"] for line in run.journal() if line.get("event") in {"begin", "released", "stopped"}]
    return not ended or ended[-1] != "begin"


def is_abandoned(run: Run) -> bool:
    """Whether the run did not end, and its process is gone: it was killed, or the machine was restarted.

    False where that cannot be known: the run is of another machine, or from before its process was written down.
    """
    begun = [line.get("process") for line in run.journal() if line.get("event") == "begin"]
    return bool(begun) and is_gone(begun[-1]) and not is_over(run)  # in this order: it may just have ended


def trainings(run: Run) -> list[WatchedTraining]:
    """The trainings of ``run`` that have curves, in the order in which they began."""
    journal = run.journal()
    began = [str(line.get("step")) for line in journal if line.get("event") == "start"]
    steps = [step for step in dict.fromkeys(began) if step.startswith("train[")]
    found, runs = [], not (is_over(run) or is_abandoned(run))
    for step in steps:
        working = run.scratch(step) / FILE
        finished = run.find(step)
        place = finished.path if finished is not None and not working.is_file() else None
        curves = read_curves(working) if place is None else read_curves(place / FILE) or _of_artifact(place)
        if curves is None or not (curves.points or curves.probes or place is None):
            continue
        state: State = "finished" if place is not None else "training" if runs else "interrupted"
        found.append(WatchedTraining(step, state, curves, _age(curves.path)))
    return found


def _age(path: Path) -> float:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0


def _of_artifact(folder: Path) -> Curves | None:
    """The curves of a training from before there was a file for them: what was logged, from its report."""
    path = folder / TrainedAdapter.FILE
    try:
        trained = TrainedAdapter.parse(read_json(path), folder)
    except (HubkitError, OSError):
        return None
    points = [dict(point) for point in trained.curve if "step" in point]
    return Curves(
        path, trained.stage, trained.method or "", trained.steps or 0, points, list(map(dict, trained.probes))
    )
