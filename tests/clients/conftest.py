"""One embedded Hub for the scripts of a module, and what runs them: a shell, with HF_ENDPOINT and HF_TOKEN set."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked_hubs import ForkedHubs

from hubkit.server import process
from hubkit.server.fsck import fsck
from hubkit.server.process import Running

SCRIPTS = Path(__file__).with_name("scripts")
Script = Callable[..., str]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, forked_hubs: ForkedHubs) -> Iterator[Running]:
    """One Hub for all scripts of a module. At its end nothing in its store may be wrong, and nothing have failed."""
    data = tmp_path_factory.mktemp("clients") / "hub"
    yield forked_hubs.start(data)
    process.stop(data)
    assert fsck(data) == []
    for log in (data / "process.log", data / "log" / "hub.log"):
        assert "Traceback" not in log.read_text("utf-8")


@pytest.fixture
def script(hub: Running, tmp_path: Path) -> Script:
    """Run a file of ``scripts/`` as a user would: a new home, an empty folder, and nothing set but these two."""
    home, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()

    def run(name: str, at: Path | None = None) -> str:
        own = ("HF_", "HUGGING", "HUBKIT_", "XDG_", "PYTHON")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(own)}
        environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(home)}
        environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token}
        program = {".sh": ["bash", "-euo", "pipefail"], ".py": [sys.executable], ".mjs": ["node"]}[Path(name).suffix]
        file = SCRIPTS / name
        if at:  # where what it imports is installed
            file = Path(shutil.copy(file, at))
        done = subprocess.run(
            [*program, str(file)],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
        )
        assert done.returncode == 0, f"{name} ended with {done.returncode}\n{done.stdout}\n{done.stderr[-6000:]}"
        return done.stdout

    return run
