"""The real `hubkit` command, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import asked_once
import psutil

HUBKIT = Path(sys.executable).with_name("hubkit")


def environment(home: Path, **more: str) -> dict[str, str]:
    """The variables of a user with nothing set but ``HUBKIT_HOME``, and ``more``."""
    own = ("HF_", "HUGGING", "HUBKIT_", "COLUMNS", "LINES")  # the last two: a size that is not that of its terminal
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return {**kept, "HUBKIT_HOME": str(home), "NO_COLOR": "1", **more}


def hubkit(*args: str, home: Path, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run ``hubkit args`` to its end and assert what holds for every command: no traceback, a documented code."""
    plans = bool({"plan", "release", "init"}.intersection(args[:1]))
    if plans and (home.is_dir() or args[0] == "plan"):
        asked_once.lend(home)
    done = subprocess.run(
        [HUBKIT, *args],
        env=environment(home, **more),
        cwd=cwd or home.parent,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=900,
        check=False,
    )
    if plans:
        asked_once.keep(home)
    said = done.stdout + done.stderr
    assert "Traceback (most recent call last)" not in said, said
    assert done.returncode in {0, 1, 2, 3, 4, 5, 130, 143}, said
    return done


def hubkit_json(*args: str, home: Path, cwd: Path | None = None, **more: str) -> Any:
    """What ``hubkit args --json`` printed; it must have ended with 0."""
    done = hubkit(*args, "--json", home=home, cwd=cwd, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def until(condition: Callable[[], Any], seconds: float) -> Any:
    """Wait for ``condition`` and return what it came to; fail when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the awaited condition did not come true"
        time.sleep(0.05)
    return found


def read_until(stream: IO[str], word: str) -> str:
    """The next line of ``stream`` with ``word`` in it; fails when the stream ends without one."""
    for line in stream:
        if word in line:
            return line
    raise AssertionError(f"{word!r} was never said")


def workers_of(pid: int) -> list[psutil.Process]:
    """The workers of the command ``pid`` and their children; not the embedded Hub, which is to outlive it."""
    found = [child for child in psutil.Process(pid).children() if "hubkit.pipeline.worker" in child.cmdline()]
    return found + [grandchild for worker in found for grandchild in worker.children(recursive=True)]
