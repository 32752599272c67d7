"""Environments of readers, with a stand-in for pip and npm: interrupted, incomplete, moved away and unused ones."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from read_models import questions

from hubkit.core.errors import RemoteError, UsageError
from hubkit.models.readers import environments
from hubkit.models.readers.asking import Places, ask
from hubkit.models.readers.environments import environment, installed
from hubkit.models.readers.readers import Reader, reader_of

READER = reader_of("transformers-4")
SCRIPT = """
import sys
from pathlib import Path
from hubkit.models.readers import environments
from hubkit.models.readers.readers import reader_of
def install(reader, folder):
    environments._run(reader, [sys.executable, "-c", sys.argv[2], str(folder)])
environments._install_by_pip = install
environments.environment(reader_of("transformers-4"), Path(sys.argv[1]), print)
"""
LONG = """
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "pid.new").write_text(str(os.getpid()))
(folder / "pid.new").rename(folder / "pid")
time.sleep(600)
"""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were installed into; an environment is a link to this Python."""
    folders: list[Path] = []

    def install(reader: Reader, folder: Path) -> None:
        folders.append(folder)
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(sys.executable)

    monkeypatch.setattr(environments, "_install_by_pip", install)
    return folders


def get(home: Path, reader: Reader = READER) -> Path:
    return environment(reader, home, lambda text: None)


def test_it_is_installed_once_and_anew_when_it_is_incomplete(made: list[Path], tmp_path: Path) -> None:
    assert not installed(READER, tmp_path)
    folder = get(tmp_path)
    assert installed(READER, tmp_path) and installed(reader_of("transformers"), tmp_path)
    assert get(tmp_path) == folder and len(made) == 1

    (folder / "INSTALLED").unlink()  # as when the machine stopped in the middle
    assert not installed(READER, tmp_path)
    assert get(tmp_path) == folder and len(made) == 2

    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to(tmp_path / "removed" / "python")
    assert not installed(READER, tmp_path)
    assert get(tmp_path) == folder and len(made) == 3 and installed(READER, tmp_path)


def test_a_killed_installation_is_removed_and_its_folder_is_not_used_again(made: list[Path], tmp_path: Path) -> None:
    running = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path), LONG], stdout=subprocess.DEVNULL)
    pid = installer(running, tmp_path)
    running.kill()
    running.wait()
    try:
        (left,) = (tmp_path / "readers").glob(".*partial*")
        folder = get(tmp_path)
        assert made[0] != left, "the installer that still runs writes into another folder"
        assert not left.exists() and not (folder / "pid").exists()
    finally:
        os.kill(pid, signal.SIGKILL)


def test_an_interrupted_installation_leaves_neither_process_nor_folder(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), LONG], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    pid = installer(running, tmp_path)
    assert os.getpgid(pid) == pid, "what it starts can be ended with it"
    running.send_signal(signal.SIGINT)
    running.wait()
    assert not running_still(pid)
    assert not list((tmp_path / "readers").glob(".*partial*")), "nor what it wrote"


def installer(running: subprocess.Popen[bytes], home: Path) -> int:
    """The pid of the stand-in for pip, when it runs."""
    while not (found := list(home.glob("readers/.*/pid"))):
        assert running.poll() is None
        time.sleep(0.01)
    return int(found[0].read_text())


def test_an_installation_that_takes_too_long_ends_with_what_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Late(subprocess.Popen[bytes]):
        """Its time is over as soon as what it started runs."""

        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                return super().wait()
            while not (tmp_path / "pid").exists():
                time.sleep(0.01)
            raise subprocess.TimeoutExpired(self.args, timeout)

    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LONG!r}, sys.argv[1]])"
    monkeypatch.setattr(subprocess, "Popen", Late)
    with pytest.raises(RemoteError, match="more than an hour"):
        environments._run(READER, [sys.executable, "-c", script, str(tmp_path)])
    assert not running_still(int((tmp_path / "pid").read_text()))


def running_still(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        child = psutil.Process(pid)
        psutil.wait_procs([child], timeout=60)
        return child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    return False


def test_what_was_not_used_for_a_week_is_removed_and_no_other_readers(made: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "readers"
    names = ("transformers-4-0123456789ab", "transformers-4-ba9876543210", "transformers-4.36-0123456789ab")
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "INSTALLED").touch()
    month = time.time() - 30 * 86_400
    for name in (names[0], names[2]):
        os.utime(root / name / "INSTALLED", (month, month))
    (root / ".transformers-4-aaaaaaaaaaaa.partial-x").mkdir()
    folder = get(tmp_path)
    left = {path.name for path in root.iterdir() if path.is_dir()}
    assert left == {folder.name, *names[1:]}

    os.utime(folder / "INSTALLED", (month, month))
    get(tmp_path)
    assert (folder / "INSTALLED").stat().st_mtime > month, "a use is noted"


def test_an_environment_that_does_not_start_is_named(tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path)
    with pytest.raises(UsageError, match="transformers-4 cannot be run") as told:
        ask(READER, tmp_path / "gone", places, questions(), timeout=60)
    assert told.value.hint and f"Remove {tmp_path / 'gone'}" in told.value.hint
