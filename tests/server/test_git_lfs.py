"""The real ``git lfs`` pushes to the Hub and pulls from it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import httpx

from hubkit.server.fsck import fsck
from hubkit.server.process import Running

pytestmark = pytest.mark.skipif(
    shutil.which("git-lfs") is None, reason="git-lfs is not installed (apt-get install git-lfs): `git lfs` is UNTESTED"
)
Git = Callable[..., subprocess.CompletedProcess[str]]
FILES = 130


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """Run git with a home of its own; fails when git fails, unless ``check`` is False."""
    home = tmp_path / "home"
    home.mkdir()
    names = {"HOME": str(home), "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    names |= {f"GIT_{who}_{what}": "me@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def run(*words: str, at: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["git", *words], cwd=at, env={"PATH": os.environ["PATH"], **names}, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


def work(git: Git, tmp_path: Path, address: str) -> Path:
    """A work tree with large files, whose commits go to a bare repo on disk and whose large files go to the Hub."""
    place, bare = tmp_path / "work", tmp_path / "bare.git"
    place.mkdir()
    git("init", "-q", "--bare", "-b", "main", str(bare), at=tmp_path)
    git("init", "-q", "-b", "main", at=place)
    git("lfs", "install", "--local", at=place)
    git("lfs", "track", "*.bin", at=place)
    git("remote", "add", "origin", str(bare), at=place)
    git("config", "lfs.url", address, at=place)
    for number in range(FILES):
        (place / f"{number}.bin").write_bytes(os.urandom(1000) * (1 + 2000 * (number == 0)))
    git("add", "-A", at=place)
    git("commit", "-qm", "large files", at=place)
    return place


def test_git_lfs_pushes_and_pulls(api: HfApi, hub: Running, git: Git, tmp_path: Path) -> None:
    api.create_repo("me/model", private=True)
    address = f"{hub.url.replace('//', f'//me:{hub.token}@')}/me/model.git/info/lfs"
    place = work(git, tmp_path, address)
    git("push", "-q", "origin", "main", at=place)
    stored = {item.file_oid: item.size for item in api.list_lfs_files("me/model")}
    assert len(stored) == FILES and max(stored.values()) == 2_001_000 and fsck(hub.data) == []
    git("lfs", "push", "--all", "origin", at=place)
    clone = tmp_path / "clone"
    git("clone", "-q", str(tmp_path / "bare.git"), str(clone), at=tmp_path)
    assert (clone / "0.bin").stat().st_size < 200, "pointers only, as git-lfs is not set up there yet"
    git("lfs", "install", "--local", at=clone)
    git("config", "lfs.url", address, at=clone)
    git("lfs", "pull", at=clone)
    for number in range(FILES):
        assert (clone / f"{number}.bin").read_bytes() == (place / f"{number}.bin").read_bytes()


def test_git_lfs_hears_why_it_may_not_push(
    api: HfApi, hub: Running, git: Git, tmp_path: Path, raw: httpx.Client
) -> None:
    api.create_repo("me/model")
    raw.post("/api/hubkit/users", json={"name": "reader"})
    reader = raw.post("/api/hubkit/tokens", json={"user": "reader", "role": "read"}).json()["token"]
    place = work(git, tmp_path, f"{hub.url.replace('//', f'//me:{reader}@')}/me/model.git/info/lfs")
    refused = git("push", "-q", "origin", "main", at=place, check=False)
    assert refused.returncode != 0 and "read-only" in refused.stderr + refused.stdout
    assert list(api.list_lfs_files("me/model")) == []
