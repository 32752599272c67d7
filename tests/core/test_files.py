"""Files: whole or not there."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from hubkit.core.errors import ConflictError, HubkitError
from hubkit.core.files import Manifest, digests, resource_dir, walk, write_atomic, write_json


def test_digests_are_those_of_sha256sum_and_git(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"turn end\n" * 1000)
    found = digests(path)
    assert found.size == 9000
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    asked = subprocess.run(["git", "hash-object", str(path)], capture_output=True, text=True, check=True)
    assert found.git == asked.stdout.strip()


def test_a_manifest_finds_each_difference(tmp_path: Path) -> None:
    for name in ("a", "b/c", "d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    manifest = Manifest.from_json(Manifest.of(tmp_path).to_json())
    assert manifest.differences(tmp_path) == []
    (tmp_path / "a").write_text("x")
    (tmp_path / "d").unlink()
    (tmp_path / "e").write_text("new")
    assert manifest.differences(tmp_path) == ["a has other content", "d is missing", "e is not in the manifest"]


@pytest.mark.fault("S3")
def test_links_and_fifos_are_refused_and_do_not_block(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(ConflictError, match="symbolic link"):
        list(walk(tmp_path))
    (tmp_path / "link").unlink()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConflictError, match="not a regular file"):
        list(walk(tmp_path))


def test_a_reader_never_sees_half_a_file_and_no_temporary_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [item.name for item in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
@pytest.mark.fault("F8")
def test_a_full_disk_names_path_and_bytes_and_keeps_the_old_file(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        write_atomic(disk / "kept", "old")
        with pytest.raises(HubkitError, match=r"disk is full at .*kept \(200,000 bytes") as caught:
            write_atomic(disk / "kept", b"x" * 200_000)
        assert caught.value.exit_code == 1
        assert (disk / "kept").read_text() == "old"
        assert [item.name for item in disk.iterdir()] == ["kept"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_resources_are_found() -> None:
    assert (resource_dir("card_templates") / "model.md.jinja").is_file()
