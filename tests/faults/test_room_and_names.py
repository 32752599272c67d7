"""A disk without room while a release is published (row F8), and branch names on both sides (row S10)."""

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from huggingface_hub.utils import httpx
from hypothesis import example, given, settings
from hypothesis import strategies as st
from releases import REPO, Release, assert_whole, hub_of, target_of
from samples import RECIPE_TEXT

from hubkit.core.errors import HubkitError, UsageError
from hubkit.hub.client import connect
from hubkit.publishing import revisions
from hubkit.recipe.loading import parse_recipe
from hubkit.server.process import Running

BLOCK = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, free: int) -> Path:
    """Take all the room but ``free`` bytes."""
    stat = os.statvfs(disk)
    path = disk / "filler"
    path.write_bytes(bytes(stat.f_bavail * stat.f_frsize - free))
    return path


@pytest.mark.fault("F8")
def test_no_room_at_any_write_of_a_publication(
    hub: Running, disk: Path, record_property: Callable[[str, object], None]
) -> None:
    """With room for 0, 1, 2, ... blocks, until a publication comes through."""
    release = Release.on(hub, disk).train()
    sound = {path: hashlib.sha256(path.read_bytes()).digest() for path in release.run.artifacts.rglob("*.*")}
    full = 0
    for blocks in range(100):
        filler = fill(disk, blocks * BLOCK)
        try:
            release.publish()
            release.promote()
        except HubkitError as error:
            full += 1
            assert error.exit_code == 1 and str(disk) in error.message and "full" in error.message, error.message
        else:
            break
        finally:
            filler.unlink()
        assert all(hashlib.sha256(path.read_bytes()).digest() == digest for path, digest in sound.items())
    assert 3 < full < 99, "it was struck at several places, and the loop came to its end"
    for name in ("main", "dpo-v0"):
        assert_whole(release, name)
        assert len(hub_of(release).history(REPO, name)) == 2, "the repo's first commit and one more"
    record_property("figure", f"full at {full} sizes of free room; then one commit a branch")


@pytest.mark.fault("S10")
def test_client_recipe_and_hub_agree_on_every_branch_name(
    hub: Running, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    connected = connect(target_of(hub, tmp_path))
    connected.ensure_repo(REPO, "public")
    seen: dict[str, bool] = {}

    def client(name: str) -> bool:
        try:
            revisions.create(connected, REPO, name, dry_run=True)
        except UsageError as error:
            return "cannot be a branch" not in error.message
        return True

    def recipe(name: str) -> bool:
        quoted = '"' + "".join(char if char.isalnum() else f"\\U{ord(char):08X}" for char in name) + '"'
        try:
            parse_recipe(RECIPE_TEXT + f"protected: [{quoted}]\n")
        except UsageError:
            return False
        return True

    with httpx.Client(base_url=hub.url, headers={"Authorization": f"Bearer {hub.token}"}, timeout=20) as raw:

        @settings(max_examples=150, deadline=None, derandomize=True)
        @given(st.text(st.sampled_from("abA/.-@{~^: \\*[?\x01\x7fé🙂"), min_size=1, max_size=8))
        @example("a b")
        @example("../x")
        @example("-x")
        @example("x..y")
        @example("x.lock")
        @example("@{0}")
        @example("HEAD")
        @example("refs/pr/1")
        @example("x" * 300)
        @example("🙂")
        @example("V1")
        @example("v1")
        @example("0f" * 20)
        def agree(name: str) -> None:
            answer = raw.post(f"/api/models/{REPO}/branch/{quote(name, safe='')}", json={})
            if name in {".", ".."}:
                return  # no client sends these: they are steps of the address, not names
            seen[name] = answer.status_code in {200, 409}
            assert seen[name] or answer.status_code in {400, 404}, (name, answer.text)
            assert client(name) == seen[name], name
            assert recipe(name) == seen[name], name

        agree()
    assert not client("") and not recipe("")
    there = set(connected.refs(REPO).branches)
    assert {name for name, good in seen.items() if good} >= there - {"main"}, "no branch but those that all sides take"
    record_property("figure", f"{len(seen)} names, {sum(seen.values())} of them taken, by all sides or by none")
