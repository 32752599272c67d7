"""The suite itself: a test leaves its process as it was, and no test is told of a terminal that is not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import process_state
import pytest


def test_what_a_test_leaves_changed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = process_state.now()
    assert process_state.changes(before, process_state.now()) == {}
    mask = os.umask(0o077)
    try:
        monkeypatch.setenv("HUBKIT_HOME", "elsewhere")
        monkeypatch.delenv("PATH")
        monkeypatch.chdir(tmp_path)
        found = process_state.changes(before, process_state.now())
    finally:
        os.umask(mask)
    assert set(found) == {"working folder", "umask", "HUBKIT_HOME", "PATH"}
    assert found["HUBKIT_HOME"] == (before.get("HUBKIT_HOME"), "elsewhere") and found["PATH"][1] is None


def test_commands_can_be_interrupted_where_the_tests_run_in_the_background() -> None:
    code = """import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
import process_state
process_state.take_interrupts()
child = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('it goes on')"
print(subprocess.run([sys.executable, "-c", child], stderr=subprocess.DEVNULL).returncode)"""
    variables = {**os.environ, "PYTHONPATH": str(Path(process_state.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables)
    assert done.stdout == f"{-signal.SIGINT}\n"


def test_no_process_is_told_the_size_of_a_terminal() -> None:
    """Of the environment that C has, which `os.environ` does not show: readline, which pytest imports, writes there."""
    code = "import os; print([name for name in ('COLUMNS', 'LINES') if name in os.environ])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
