"""Checkpoints sealed by a manifest, which is written last; incomplete ones are ignored."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from hubkit.core.errors import HubkitError
from hubkit.core.files import MANIFEST, Manifest, read_json, write_json

SPENT = "hubkit_spent.json"
"""In each checkpoint: what the training took until then (``seconds``, ``peak_memory_bytes``)."""


def seal(folder: Path) -> None:
    """Write the manifest of the checkpoint ``folder``: all of its files are written."""
    if folder.is_dir():
        write_json(folder / MANIFEST, Manifest.of(folder).to_json())


def last_complete(folder: Path) -> Path | None:
    """The newest complete ``checkpoint-N`` in ``folder``; None when there is none.

    Newer ones that are incomplete (a kill during the save, a byte changed) are removed: the trainer would trip
    over them.
    """
    if not folder.is_dir():
        return None
    numbered = [
        (int(found[1]), item) for item in folder.iterdir() if (found := re.fullmatch(r"checkpoint-(\d+)", item.name))
    ]
    for _, item in sorted(numbered, reverse=True):
        if _is_complete(item):
            return item
        shutil.rmtree(item)
    return None


def seconds_spent(folder: Path) -> float:
    """How long it took to come to the newest sealed checkpoint in ``folder``; 0.0 when there is none. Reads only."""
    spent = [0.0]
    for item in folder.glob("checkpoint-*"):
        if (item / MANIFEST).is_file() and (item / SPENT).is_file():
            spent.append(float(read_json(item / SPENT).get("seconds") or 0.0))
    return max(spent)


def _is_complete(folder: Path) -> bool:
    try:
        return not Manifest.from_json(read_json(folder / MANIFEST)).differences(folder)
    except (HubkitError, OSError, KeyError, TypeError):
        return False
