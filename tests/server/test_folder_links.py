"""Links in the data folder: none is followed, and nothing that they lead to is deleted or written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hubkit.core.errors import ConflictError, HubkitError
from hubkit.server import process
from hubkit.server.process import Running
from hubkit.server.storage.folder import Folder, Lock

pytestmark = pytest.mark.fault("R2")
FOLDERS = ("git", "lfs", "tmp", "spaces", "log")
FILES = (
    "hub.sqlite",
    "hub.sqlite-wal",
    "server.json",
    "owner.token",
    "serving.lock",
    "starting.lock",
    "log/hub.log",
    "log/process.log",
)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody else, with the names that a sweep looks for."""
    folder = tmp_path / "outside"
    for name in (
        "thesis.txt", "0" * 32 + "/kept", "f" * 32 + ".new/kept", "main.lock", "refs/heads/x.lock", "tmp_1", "pack/tmp",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def stopped(hub: Running) -> Path:
    """The data folder of a Hub that has run, with one repo."""
    HfApi(endpoint=hub.url, token=hub.token).create_repo("me/model")
    process.stop(hub.data)
    return hub.data


def test_a_start_is_refused_and_deletes_nothing(stopped: Path, outside: Path) -> None:
    before = contents(outside)
    for name in (*FOLDERS, *FILES):
        place, aside = stopped / name, stopped / "aside"
        target = outside if name in FOLDERS else outside / "thesis.txt"
        if place.exists():
            place.rename(aside)
        place.symlink_to(target)
        kept = contents(stopped)
        with pytest.raises(ConflictError) as refused:
            process.start(stopped, port=0)
        assert f"{place} is a link to {target}" in refused.value.message and "HUBKIT_HOME" in (refused.value.hint or "")
        assert contents(outside) == before and contents(stopped) == kept
        place.unlink()
        if aside.exists():
            aside.rename(place)
    assert process.start(stopped, port=0).pid


def test_a_link_to_the_data_folder_itself_is_followed(stopped: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(stopped)
    running = process.start(tmp_path / "link", port=0)
    assert HfApi(endpoint=running.url, token=running.token).repo_exists("me/model")
    process.stop(stopped)


def test_links_inside_lead_a_sweep_nowhere(stopped: Path, outside: Path) -> None:
    before = contents(outside)
    [repo] = (stopped / "git").iterdir()
    (stopped / "tmp" / "link").symlink_to(outside)
    (stopped / "spaces" / ("a" * 32)).symlink_to(outside)
    (stopped / "spaces" / ("b" * 32)).mkdir()
    (stopped / "spaces" / ("b" * 32) / "home").symlink_to(outside)
    (stopped / "git" / ("c" * 32 + ".git")).symlink_to(outside)
    (stopped / "git" / ("d" * 32 + ".new")).symlink_to(outside)
    (stopped / "lfs" / "aa").symlink_to(outside)
    (outside / "aa").mkdir()
    (outside / "aa" / ("a" * 64)).write_text("mine")
    before = contents(outside)
    (repo / "refs" / "heads" / "linked").symlink_to(outside)
    (repo / "objects" / "ab").symlink_to(outside)
    for stale in ("HEAD.lock", "refs/heads/main.lock", "objects/tmp_1", "objects/cd/tmp_2", "objects/pack/tmp_3"):
        (repo / stale).parent.mkdir(exist_ok=True)
        (repo / stale).touch()
    running = process.start(stopped, port=0)
    try:
        assert contents(outside) == before
        assert not list((stopped / "tmp").iterdir()) and not (stopped / "spaces" / ("b" * 32)).exists()
        assert not [*repo.rglob("*.lock"), *repo.glob("objects/**/tmp_[123]")], "the stale ones are gone"
        assert HfApi(endpoint=running.url, token=running.token).repo_exists("me/model")
    finally:
        process.stop(stopped)


def test_a_folder_that_becomes_a_link_after_the_check_is_not_swept(tmp_path: Path, outside: Path) -> None:
    before, folder = contents(outside), Folder(tmp_path / "hub")
    folder.create()
    folder.database.write_text("x")
    for name in ("tmp", "spaces", "git"):
        (folder.root / name).rmdir()
        (folder.root / name).symlink_to(outside)
        with pytest.raises(OSError, match=r"Not a directory|symbolic"):
            folder.sweep(set())
        assert contents(outside) == before
        (folder.root / name).unlink()
        (folder.root / name).mkdir()


def test_a_lock_is_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HubkitError, match="Cannot open"):
        Lock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


def test_the_folders_are_closed_to_other_users(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = Folder(tmp_path / "hub")
        folder.create()
    finally:
        os.umask(before)
    for path in (folder.root, folder.git, folder.lfs, folder.spool, folder.spaces, folder.log.parent):
        assert path.stat().st_mode & 0o777 == 0o700
    folder.spaces.chmod(0o755)
    folder.create()
    assert folder.spaces.stat().st_mode & 0o777 == 0o700
    folder.spaces.chmod(0o711)
    folder.create()
    assert folder.spaces.stat().st_mode & 0o777 == 0o711, "the way to a Space that runs as another user stays"
