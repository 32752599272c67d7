"""Checkpoints that are whole or do not count: sealed by a manifest, written after all their files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from hubkit.core.errors import HubkitError
from hubkit.core.files import MANIFEST, Manifest, read_json, write_json


def seal(folder: Path) -> None:
    """Say that all files of the checkpoint ``folder`` are written, with their digests."""
    if folder.is_dir():
        write_json(folder / MANIFEST, Manifest.of(folder).to_json())


def last_complete(folder: Path) -> Path | None:
    """The newest whole ``checkpoint-N`` in ``folder``; None when there is none.

    Newer ones that are not whole (a kill during the save, a byte changed) are removed: the trainer would trip
    over them.
    """
    if not folder.is_dir():
        return None
    numbered = [
        (int(found[1]), item) for item in folder.iterdir() if (found := re.fullmatch(r"checkpoint-(\d+)", item.name))
    ]
    for _, item in sorted(numbered, reverse=True):
        if _whole(item):
            return item
        shutil.rmtree(item)
    return None


def _whole(folder: Path) -> bool:
    try:
        return not Manifest.from_json(read_json(folder / MANIFEST)).differences(folder)
    except (HubkitError, OSError, KeyError, TypeError):
        return False
