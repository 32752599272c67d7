"""A Hub is copied while it is written to, and restored: the copy is the state of one moment, and whole."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from hubkit.core.errors import ConflictError
from hubkit.server import process
from hubkit.server.backup import NOTE, backup, restore
from hubkit.server.fsck import fsck
from hubkit.server.process import Running


def test_a_backup_under_writing_load_is_whole(api: HfApi, hub: Running, tmp_path: Path) -> None:
    for name in ("one", "two"):
        api.create_repo(f"me/{name}", private=True)
    ended, failed = threading.Event(), list[Exception]()

    def write(name: str) -> None:
        number = 0
        try:
            while not ended.is_set():
                number += 1
                added = [CommitOperationAdd(f"{number}.bin", os.urandom(3000)), CommitOperationAdd("n", b"%d" % number)]
                api.create_commit(f"me/{name}", added, commit_message=f"number {number}", create_pr=number % 3 == 0)
        except Exception as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    made = [backup(hub.data, tmp_path / "b0")]
    for number in (1, 2):
        made.append(backup(hub.data, tmp_path / f"b{number}", tmp_path / f"b{number - 1}"))
    ended.set()
    for writer in writers:
        writer.join()
    assert not failed and not list((hub.data / "tmp").glob("snapshot-*"))
    assert made[1].shared and made[2].shared and made[0].files < made[2].files
    for number in range(3):
        assert restore(tmp_path / f"b{number}", tmp_path / f"r{number}") == []
    last = backup(hub.data, tmp_path / "last")
    heads = {name: api.model_info(f"me/{name}").sha for name in ("one", "two")}
    process.stop(hub.data)
    assert backup(hub.data, tmp_path / "stopped").files == last.files, "no server runs"
    assert restore(tmp_path / "last", tmp_path / "hub2") == []
    again = process.start(tmp_path / "hub2", port=0)
    try:
        assert again.token == hub.token
        restored = HfApi(endpoint=again.url, token=again.token)
        for name, head in heads.items():
            assert restored.model_info(f"me/{name}").sha == head
        restored.create_commit("me/one", [CommitOperationAdd("x.bin", os.urandom(9))], commit_message="goes on")
        assert fsck(again.data) == []
    finally:
        process.stop(again.data)


def test_what_cannot_be_copied_or_restored(hub: Running, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("me/one")
    api.upload_file(path_or_fileobj=os.urandom(50), path_in_repo="w.bin", repo_id="me/one")
    backup(hub.data, tmp_path / "made")
    for target, word in {tmp_path / "made": "exists already", hub.data / "in": "inside the Hub"}.items():
        with pytest.raises(ConflictError, match=word):
            backup(hub.data, target)
    with pytest.raises(ConflictError, match="not a complete backup"):
        backup(hub.data, tmp_path / "new", tmp_path)
    with pytest.raises(ConflictError, match="no Hub in"):
        backup(tmp_path / "absent", tmp_path / "new")
    with pytest.raises(ConflictError, match="is not empty"):
        restore(tmp_path / "made", hub.data)
    with pytest.raises(ConflictError, match="not a complete backup"):
        restore(hub.data, tmp_path / "new")
    assert not (tmp_path / "new").exists() and (tmp_path / "made" / NOTE).exists()
    large = next((tmp_path / "made" / "lfs").glob("*/*/*"))
    large.chmod(0o600)
    large.write_bytes(bytes(50))
    assert backup(hub.data, tmp_path / "later", tmp_path / "made").shared > 5
    assert restore(tmp_path / "later", tmp_path / "restored") == [], "what rotted in an earlier backup is not taken"
    large.unlink()
    problems = restore(tmp_path / "made", tmp_path / "new")
    assert any(large.name in problem for problem in problems) and "files" in problems[0]
