"""Checkpoints sealed by a manifest, which is written last; incomplete ones are ignored."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from hubkit.core.errors import HubkitError
from hubkit.core.files import MANIFEST, Manifest, read_json, write_json


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


def _is_complete(folder: Path) -> bool:
    try:
        return not Manifest.from_json(read_json(folder / MANIFEST)).differences(folder)
    except (HubkitError, OSError, KeyError, TypeError):
        return False
