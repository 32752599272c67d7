"""The installed git, with a home of its own, against a Hub."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub.utils import httpx

from hubkit.server.process import Running

Git = Callable[..., subprocess.CompletedProcess[str]]

needs_git = pytest.mark.skipif(
    shutil.which("git-lfs") is None or shutil.which("git") is None,
    reason="git and git-lfs are not both installed (apt-get install git git-lfs): git over HTTP is UNTESTED",
)


def git_environment(home: Path) -> dict[str, str]:
    """The variables of a git that has only the settings in ``home``."""
    names = {"HOME": str(home), "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    names |= {f"GIT_{who}_{what}": "me@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {"PATH": os.environ["PATH"], **names}


def real_git(home: Path) -> Git:
    """Run git; fails when git fails, unless ``check`` is False."""
    home.mkdir(exist_ok=True)

    def run(*words: str, at: Path, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["git", *words], cwd=at, env=git_environment(home) | more, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


def address(url: str, token: str, path: str) -> str:
    """The address of a repo for git, with the token as the password."""
    return f"{url.replace('//', f'//me:{token}@')}/{path}"


def pack_of(home: Path, work: Path, *revisions: str) -> bytes:
    """A pack of what ``revisions`` (as of rev-list) reach in the work tree ``work``."""
    words = ["git", "pack-objects", "--revs", "--stdout", "-q"]
    given = "".join(f"{revision}\n" for revision in revisions).encode()
    done = subprocess.run(words, cwd=work, env=git_environment(home), input=given, capture_output=True, check=True)
    return done.stdout


def push_body(*commands: tuple[str | None, str | None, str], pack: bytes = b"", more: str = "") -> bytes:
    """What git sends to push: old id, new id and name of each ref, then the pack."""
    body = b""
    for number, (old, new, ref) in enumerate(commands):
        line = f"{old or '0' * 40} {new or '0' * 40} {ref}" + ("" if number else f"\0report-status side-band-64k{more}")
        body += b"%04x" % (len(line.encode()) + 4) + line.encode()
    return body + b"0000" + pack


def push_raw(hub: Running, repo: str, body: bytes, **headers: str) -> str:
    """Send a push as it is; what the Hub answers, as text."""
    response = httpx.post(
        f"{hub.url}/{repo}.git/git-receive-pack", content=body, timeout=60,
        headers={"Content-Type": "application/x-git-receive-pack-request", "Authorization": f"Bearer {hub.token}"}
        | headers,
    )  # fmt: skip
    assert response.status_code == 200, response.text
    return response.content.decode("utf-8", "replace")


@pytest.fixture
def git(tmp_path: Path) -> Iterator[Git]:
    """The installed git."""
    yield real_git(tmp_path / "home")
