"""The whole core as one test; it needs a package index, so it is not part of every run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from soak_figures import record


@pytest.mark.soak
@pytest.mark.parametrize("xet", [False, True])
def test_the_clients_own_tests_pass(tmp_path: Path, xet: bool) -> None:
    command = [sys.executable, str(Path(__file__).with_name("run.py")), "--work", str(tmp_path), "-q"]
    done = subprocess.run([*command, *(["--xet"] if xet else [])], capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "125 passed" in done.stdout
    record(f"the client's own tests (CORE-125), Xet {'on' if xet else 'off'}", "125 of 125 passed")
