"""Data folders that earlier versions wrote, one of each form of the storage: they open, whole, and go on."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from filled_hub import PARTS, fill, see
from forked_hubs import ForkedHubs
from real_git import needs_git

from hubkit.server import process
from hubkit.server.fsck import fsck

ARCHIVES = sorted((Path(__file__).parents[1] / "data" / "hubs").glob("*.tar.xz"))


@needs_git
@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def test_a_folder_of_an_earlier_version_opens_and_goes_on(
    archive: Path, forked_hubs: ForkedHubs, tmp_path: Path
) -> None:
    """All that the version wrote is read; what it did not know is written, and read after another start."""
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    parts = json.loads((tmp_path / "parts.json").read_text())
    assert fsck(tmp_path / "hub") == [], "before any start"
    hub = forked_hubs.start(tmp_path / "hub")
    try:
        see(hub, parts)
        missing = [part for part in PARTS if part not in parts]
        assert fill(hub, tmp_path / "home", missing) == missing
        see(hub, list(PARTS))
        process.stop(hub.data)
        see(forked_hubs.start(hub.data), list(PARTS))
        assert fsck(hub.data) == []
    finally:
        process.stop(hub.data)
