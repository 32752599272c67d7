"""From a commit to a folder that can be run: the parts that no client of the Hub can reach."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pygit2.enums import FileMode

from hubkit.server.hub import Hub
from hubkit.server.repos.git import Change, Git
from hubkit.server.spaces import build
from hubkit.server.spaces.build import Failure, checkout, read_plan

PLAN = "---\nsdk: gradio\nstartup_duration_timeout: {}\n---\n"


@pytest.fixture
def git(tmp_path: Path) -> Git:
    return Git.create(tmp_path / "repo.git")


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path / "hub")


def commit(git: Git, files: dict[str, bytes]) -> str:
    changes = [Change(path, git.write_blob(content)) for path, content in files.items()]
    return git.write_commit(git.write_tree(None, changes), [], "x", "somebody")


@pytest.mark.parametrize(
    ("given", "seconds"), [("30s", 30), ("1.5 min", 90), ("10m", 600), ("2 hours", 7200), ("999h", 24 * 3600)]
)
def test_the_time_to_start(git: Git, given: str, seconds: float) -> None:
    made = commit(git, {"README.md": PLAN.format(given).encode(), "app.py": b""})
    assert read_plan(git, made).startup_seconds == seconds


@pytest.mark.parametrize("given", ["30", "'30'", "soon", "-1s", "1d", "10ms", "[1s]"])
def test_times_that_are_none(git: Git, given: str) -> None:
    made = commit(git, {"README.md": PLAN.format(given).encode(), "app.py": b""})
    with pytest.raises(Failure, match="startup_duration_timeout") as told:
        read_plan(git, made)
    assert told.value.stage == "CONFIG_ERROR"


def test_a_link_becomes_a_file_and_leads_nowhere(git: Git, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("old", encoding="utf-8")
    inner = git.repo.TreeBuilder()
    inner.insert("w.bin", git.write_blob(b"new"), FileMode.BLOB)
    top = git.repo.TreeBuilder()
    top.insert("link", git.write_blob(str(tmp_path / "outside").encode()), FileMode.LINK)
    top.insert("folder", inner.write(), FileMode.TREE)
    made = git.write_commit(top.write(), [], "x", "somebody")
    target = tmp_path / "out" / made
    checkout(git, made, "0" * 32, hub.lfs, target)
    assert (target / "folder" / "w.bin").read_bytes() == b"new"
    assert not (target / "link").is_symlink() and (target / "link").read_text() == str(tmp_path / "outside")
    assert (tmp_path / "outside").read_text() == "old"


def test_what_an_app_left_in_a_checkout_is_gone_in_the_next(git: Git, hub: Hub, tmp_path: Path) -> None:
    made, target = commit(git, {"a": b"1"}), tmp_path / "out"
    checkout(git, made, "0" * 32, hub.lfs, target)
    (target / "a").write_text("changed", encoding="utf-8")
    (target / "b").touch()
    checkout(git, made, "0" * 32, hub.lfs, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"a": b"1"}


def test_a_large_file_of_another_repo_is_not_laid_out(git: Git, hub: Hub, tmp_path: Path) -> None:
    oid = "ab" * 32
    hub.lfs.path(oid).parent.mkdir(parents=True)
    hub.lfs.path(oid).write_bytes(b"private")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 7\n".encode()
    with pytest.raises(Failure, match=r"w\.bin is not in this repo"):
        checkout(git, commit(git, {"w.bin": pointer}), "0" * 32, hub.lfs, tmp_path / "out")


def test_a_path_that_a_repo_should_not_have(git: Git, hub: Hub, tmp_path: Path) -> None:
    top = git.repo.TreeBuilder()
    top.insert("a\\b", git.write_blob(b""), FileMode.BLOB)
    made = git.write_commit(top.write(), [], "x", "somebody")
    with pytest.raises(Failure, match="backslash"):
        checkout(git, made, "0" * 32, hub.lfs, tmp_path / "out")


def test_an_environment_sees_what_is_installed_here(tmp_path: Path) -> None:
    python = build.make_environment(tmp_path / "venv")
    code = "import sys, gradio, psutil; print(sys.prefix)"
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    assert Path(said.strip()) == tmp_path / "venv"
