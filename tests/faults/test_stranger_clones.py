"""Clones, downloads and releases of strangers that look like one's own: no block of theirs runs without --trust."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import HUBKIT, environment
from releases import target_of

from hubkit.cards.snippets import clones
from hubkit.cards.snippets.trust import path_stranger
from hubkit.core.target import Target
from hubkit.hub.auth import Account
from hubkit.hub.client import Hub, connect
from hubkit.server.process import Running

HUB = "http://127.0.0.1:8750"
OWN, THEIRS = f"{HUB}/me/model", f"{HUB}/them/model"


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``git`` in the clone, with a home of its own."""
    for name in [key for key in os.environ if key.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text("[user]\n\tname = x\n\temail = x@example.org\n")
    clone = tmp_path / "clone"
    subprocess.run(["git", "init", "-q", "-b", "main", str(clone)], check=True)
    (clone / "README.md").write_text("# Card\n")

    def call(*words: str) -> None:
        subprocess.run(["git", "-C", str(clone), *words], check=True, capture_output=True)

    return call


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub on which one is ``me``."""
    hub = connect(Target(HUB, tmp_path / "hf", "hf_" + "x" * 34))
    monkeypatch.setattr(hub, "whoami", lambda: Account("me"))
    return hub


def _alias(tmp_path: Path, git: Callable[..., None]) -> None:
    git("config", "--global", f"url.{HUB}/them/.insteadOf", f"{HUB}/me/")
    git("remote", "add", "origin", OWN)


def _push_alias(tmp_path: Path, git: Callable[..., None]) -> None:
    git("config", "--global", f"url.{HUB}/them/.pushInsteadOf", f"{HUB}/me/")
    git("remote", "add", "origin", OWN)


def _included(tmp_path: Path, git: Callable[..., None]) -> None:
    (tmp_path / "more").write_text(f'[remote "other"]\n\turl = {THEIRS}\n')
    git("config", "include.path", str(tmp_path / "more"))


def _two_lines(tmp_path: Path, git: Callable[..., None]) -> None:
    with (tmp_path / "clone" / ".git" / "config").open("a") as config:
        config.write(f'[remote "origin"]\n\turl = {HUB}/\\\nthem/model\n')


def _worktree_settings(tmp_path: Path, git: Callable[..., None]) -> None:
    git("config", "extensions.worktreeConfig", "true")
    git("config", "--worktree", "remote.origin.url", THEIRS)


def _removed_remote(tmp_path: Path, git: Callable[..., None]) -> None:
    git("commit", "-q", "--allow-empty", "-m", "x")
    log = tmp_path / "clone" / ".git" / "logs" / "HEAD"  # as `git clone` writes it
    log.write_text(log.read_text().replace("\tcommit (initial): x", f"\tclone: from {THEIRS}"))


def _fetched(tmp_path: Path, git: Callable[..., None]) -> None:
    other = tmp_path / "other"
    subprocess.run(["git", "init", "-q", "-b", "main", str(other)], check=True)
    subprocess.run(["git", "-C", str(other), "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    git("fetch", "-q", str(other), "main")


def _borrowed(tmp_path: Path, git: Callable[..., None]) -> None:
    git("remote", "add", "origin", OWN)
    shutil.move(tmp_path / "clone" / ".git", tmp_path / "own.git")
    (tmp_path / "clone" / ".git").write_text(f"gitdir: {tmp_path / 'own.git'}\n")


def _linked(tmp_path: Path, git: Callable[..., None]) -> None:
    git("remote", "add", "origin", OWN)
    shutil.move(tmp_path / "clone" / ".git", tmp_path / "own.git")
    (tmp_path / "clone" / ".git").symlink_to(tmp_path / "own.git")


def _damaged(tmp_path: Path, git: Callable[..., None]) -> None:
    (tmp_path / "clone" / ".git" / "config").write_text("[remote\n")


def _manifest(tmp_path: Path, git: Callable[..., None]) -> None:
    (tmp_path / "clone" / ".hubkit").mkdir()
    (tmp_path / "clone" / ".hubkit" / "manifest.json").write_text(json.dumps({"schema": 1, "repo": "them/model"}))


def _notes(tmp_path: Path, git: Callable[..., None]) -> None:
    (tmp_path / "clone" / ".cache" / "huggingface" / "download").mkdir(parents=True)
    git("remote", "add", "origin", OWN)


CLONES: dict[str, Callable[[Path, Callable[..., None]], None]] = {
    "a mirror": lambda _, git: git("remote", "add", "origin", "https://hf-mirror.com/me/model"),
    "an insteadOf alias": _alias,
    "a pushInsteadOf alias": _push_alias,
    "an included remote": _included,
    "a URL over two lines": _two_lines,
    "a remote in the worktree's settings": _worktree_settings,
    "a second remote": lambda _, git: (git("remote", "add", "a", OWN), git("remote", "add", "b", THEIRS))[0],
    "a second URL": lambda _, git: (git("remote", "add", "a", OWN), git("remote", "set-url", "--add", "a", THEIRS))[0],
    "a push URL": lambda _, git: (git("remote", "add", "a", OWN), git("config", "remote.a.pushurl", THEIRS))[0],
    "a branch that names an address": lambda _, git: git("config", "branch.main.remote", THEIRS),
    "a remote of another program": lambda _, git: (git("remote", "add", "a", OWN), git("config", "remote.a.vcs", "x"))[
        0
    ],
    "a remote that was removed": _removed_remote,
    "a fetch without a remote": _fetched,
    "the .git of another folder": _borrowed,
    "a link to the .git of another folder": _linked,
    "settings that git cannot read": _damaged,
    "a release of theirs": _manifest,
    "notes of a download": _notes,
}


@pytest.mark.fault("S14")
@pytest.mark.parametrize("kind", CLONES)
def test_it_is_not_ones_own(kind: str, git: Callable[..., None], ours: Hub, tmp_path: Path) -> None:
    assert path_stranger(tmp_path / "clone", ours) is None
    CLONES[kind](tmp_path, git)
    assert path_stranger(tmp_path / "clone", ours)
    assert path_stranger(tmp_path / "clone" / "README.md", ours)


@pytest.mark.fault("S14")
def test_ones_own_clones_stay_ones_own(git: Callable[..., None], ours: Hub, tmp_path: Path) -> None:
    git("config", "--global", f"url.{HUB}/.insteadOf", "mine:")
    git("remote", "add", "origin", "mine:me/model")
    git("remote", "add", "data", f"{HUB}/datasets/Me/data.git")
    git("commit", "-q", "--allow-empty", "-m", "x")
    git("worktree", "add", "-q", str(tmp_path / "tree"))
    _release_of_me = tmp_path / "tree" / ".hubkit"
    _release_of_me.mkdir()
    (_release_of_me / "manifest.json").write_text(json.dumps({"schema": 1, "repo": "me/model"}))
    for place in ("clone", "clone/README.md", "tree"):
        assert path_stranger(tmp_path / place, ours) is None, place
    assert path_stranger(tmp_path / "clone") is not None, "without a Hub nobody says whose it is"


@pytest.mark.fault("S14")
def test_the_environment_does_not_name_another_clone(
    git: Callable[..., None], ours: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("remote", "add", "origin", THEIRS)
    subprocess.run(["git", "init", "-q", str(tmp_path / "own")], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "own" / ".git"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{OWN}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", THEIRS)
    assert path_stranger(tmp_path / "clone", ours) == "it is a clone of a repo of them on 127.0.0.1:8750"


@pytest.mark.fault("S14")
def test_a_hostile_clone_runs_nothing_when_it_is_looked_at(git: Callable[..., None], ours: Hub, tmp_path: Path) -> None:
    canary, script = tmp_path / "canary", tmp_path / "clone" / "run"
    script.write_text(f"#!/bin/sh\necho ran >> {canary}\n")
    script.chmod(0o755)
    git("add", ".")
    git("commit", "-q", "-m", "x")
    for key in (
        "core.fsmonitor", "core.pager", "core.editor", "core.sshCommand", "core.askPass", "core.gitProxy",
        "pager.config", "pager.remote", "alias.remote", "alias.config", "credential.helper", "diff.external",
        "filter.x.clean", "trace2.normalTarget", "core.alternateRefsCommand", "gpg.program",
    ):  # fmt: skip
        git("config", key, str(script))
    for hook in list((tmp_path / "clone" / ".git" / "hooks").iterdir()):
        shutil.copy(script, hook.with_suffix(""))
    git("config", "core.hooksPath", str(tmp_path / "clone" / ".git" / "hooks"))
    git("config", "remote.origin.url", f"ext::{script} %S")
    canary.unlink(missing_ok=True)
    assert path_stranger(tmp_path / "clone", ours)
    assert not canary.exists()


@pytest.mark.fault("S14")
def test_settings_that_never_end_are_given_up(
    git: Callable[..., None], ours: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    git("config", "include.path", str(tmp_path / "pipe"))
    monkeypatch.setattr(clones, "_SECONDS", 1)
    assert path_stranger(tmp_path / "clone", ours) == "git cannot tell where its clone came from"


@pytest.mark.fault("S14")
def test_without_git_no_clone_is_ones_own(
    git: Callable[..., None], ours: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert path_stranger(tmp_path / "clone", ours) == "git cannot tell where its clone came from"


@pytest.mark.fault("S14")
@pytest.mark.parametrize("what", ["clone", "clone/README.md", "linked"])
def test_the_command_runs_no_block_of_theirs(what: str, git: Callable[..., None], hub: Running, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "clone" / "README.md").write_text(f"```python\nopen({str(canary)!r}, 'w').close()\n```\n")
    git("remote", "add", "origin", f"{hub.url}/them/model")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "README.md").symlink_to(tmp_path / "clone" / "README.md")
    given = environment(tmp_path / "home", HF_ENDPOINT=hub.url, HF_TOKEN=hub.token)
    words = [HUBKIT, "card", "run", str(tmp_path / what), "--hub", hub.url, "--json"]
    done = subprocess.run(words, env=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3 and "a clone of a repo of them" in json.loads(done.stdout)["error"], done.stdout
    assert not canary.exists()
    assert target_of(hub, tmp_path).token not in done.stdout + done.stderr
