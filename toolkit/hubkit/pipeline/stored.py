"""Artifacts on disk: reading a finished one, and moving trainings aside instead of removing them.

earlier/train[dpo]/1/{manifest.json, training.json, adapter/}      a finished one
earlier/train[dpo]/2/{key, made_from.json, scratch/checkpoints/}   the checkpoints of an unfinished one
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hubkit.core.errors import HubkitError
from hubkit.core.files import MANIFEST, Manifest, fsync_folder, read_json
from hubkit.recipe.artifact import StoredArtifact
from hubkit.recipe.names import ADOPT
from hubkit.training.adapter import Form, TrainedAdapter
from hubkit.training.checkpoints import seconds_spent

DEAR_SECONDS = 60.0
"""A training that took longer is not discarded unasked, and is kept aside when it is replaced."""
KEY, MADE_FROM, SCRATCH = "key", "made_from.json", "scratch"
"""In the folder of an unfinished step: its key, what it is made from, and what survives a kill."""


def folder_name(step: str) -> str:
    """``step`` as one folder's name: a branch may hold '/', never '~'."""
    return step.replace("/", "~")


def read_stored(folder: Path) -> StoredArtifact | None:
    """The finished artifact in ``folder``; None when there is none or a file of it is gone."""
    if not (folder / MANIFEST).is_file():
        return None
    kept = read_json(folder / MANIFEST)
    manifest = Manifest.from_json(kept)
    complete = all(
        (folder / name).is_file() and (folder / name).stat().st_size == item.size
        for name, item in manifest.files.items()
    )
    if not complete:
        return None
    return StoredArtifact(folder, kept["key"], manifest, kept["summary"], kept["seconds"], kept.get("made_from"))


def training_seconds(artifact: StoredArtifact) -> float:
    """How long ``artifact`` took, processes that were killed included where it says so."""
    path = artifact.path / TrainedAdapter.FILE
    with contextlib.suppress(HubkitError, OSError, AttributeError, TypeError, ValueError):
        facts = read_json(path)
        if facts.get("uses") == ADOPT:  # copied, however long that took
            return 0.0
        return max(artifact.seconds, float(facts.get("seconds") or 0.0))
    return artifact.seconds


def trained_form(artifact: StoredArtifact) -> Form:
    """What the finished training ``artifact`` left."""
    return "weights" if any(name.startswith("weights/") for name in artifact.manifest.files) else "adapter"


def unfinished_seconds(folder: Path) -> float:
    """How long the unfinished training in ``folder`` took until its newest checkpoint."""
    return seconds_spent(folder / SCRATCH / "checkpoints")


@dataclass(frozen=True)
class KeptTraining:
    """A training that was moved aside. ``stored`` is None for one that was not finished: its checkpoints are there."""

    id: str
    step: str
    path: Path
    key: str
    seconds: float
    stored: StoredArtifact | None
    made_from: Any

    @property
    def bytes(self) -> int:
        """What it takes on disk."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    @property
    def made(self) -> str:
        """When it was made (UTC, ISO 8601)."""
        named = self.path / (MANIFEST if self.stored else KEY)
        return datetime.fromtimestamp(named.stat().st_mtime, UTC).isoformat(timespec="seconds")

    def to_json(self) -> dict[str, Any]:
        """What `hubkit runs show` prints of it."""
        return {
            "id": self.id,
            "step": self.step,
            "finished": self.stored is not None,
            "seconds": self.seconds,
            "bytes": self.bytes,
            "made": self.made,
            "path": str(self.path),
            "made_from": self.made_from,
        }


def kept_trainings(aside: Path) -> list[KeptTraining]:
    """The trainings in the folder ``aside``, by step and oldest first."""
    found = []
    for path in sorted(aside.glob("*/*"), key=lambda item: (item.parent.name, _number(item.name))):
        if _number(path.name) and (training := _read_kept(path)) is not None:
            found.append(training)
    return found


def _read_kept(path: Path) -> KeptTraining | None:
    step = path.parent.name.replace("~", "/")
    name = step.partition("[")[2].rstrip("]") or step
    id = f"{name}-{path.name}"
    if (stored := read_stored(path)) is not None:
        return KeptTraining(id, step, path, stored.key, training_seconds(stored), stored, stored.made_from)
    if not (path / KEY).is_file():
        return None
    record = read_json(path / MADE_FROM) if (path / MADE_FROM).is_file() else None
    return KeptTraining(id, step, path, (path / KEY).read_text(), unfinished_seconds(path), None, record)


def put_aside(folder: Path, aside: Path) -> Path:
    """Move ``folder`` of a step into ``aside`` by one rename; where it is now."""
    place = aside / folder.name
    place.mkdir(parents=True, exist_ok=True)
    numbers = [_number(item.name) for item in place.iterdir()]
    target = place / str(max(numbers, default=0) + 1)
    folder.rename(target)
    fsync_folder(place)
    return target


def _number(name: str) -> int:
    return int(name) if name.isdecimal() else 0
