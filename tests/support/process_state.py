"""What a test must leave as it was in the process of the tests: what hubkit, its children and other tests read."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

READ = ("HF_", "HUBKIT_", "HUGGING", "PYTHON", "XDG_", "GITHUB_", "GITLAB_", "ACTIONS_")
"""Variables that begin like this are hubkit's, of the Hub's libraries, of Python's, or of a CI."""
ALSO = ("HOME", "PATH", "TMPDIR", "TERM", "NO_COLOR", "CI", "COLUMNS", "LINES", "OMP_NUM_THREADS")
OF_LIBRARIES = {"HF_XET_HIGH_PERFORMANCE"}
"""lm-evaluation-harness sets it when it is imported."""


def take_interrupts() -> None:
    """Let Ctrl-C end this process and its children, also where a shell runs it in the background and ignores Ctrl-C.

    Children inherit an ignored signal; a test that interrupts a command would wait for its end in vain.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def now() -> dict[str, Any]:
    """The environment, as far as it is read, the working folder and the umask."""
    mask = os.umask(0o022)
    os.umask(mask)
    read = {
        name: value
        for name, value in os.environ.items()
        if (name in ALSO or name.startswith(READ)) and name not in OF_LIBRARIES
    }
    return {"working folder": str(Path.cwd()), "umask": oct(mask), **read}


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs: (before, after), None for what is not there."""
    names = [*before, *(name for name in after if name not in before)]
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}
