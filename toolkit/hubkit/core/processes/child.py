"""What a child process does about itself: limits, dying with its parent, adopting orphans; and running one JSON job.

Imports the standard library alone. Run as a script it is the child of :func:`hubkit.core.processes.parent.run_job`:
``child.py SCRIPT MEMORY SECONDS``, where SCRIPT is a Python file with a function ``answer(job)``.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER, _GET_CHILD_SUBREAPER = 1, 36, 37
"""Of Linux's prctl(2)."""
_LINUX = sys.platform == "linux"


def set_limits(*, address_space: int | None = None, data: int | None = None, cpu_seconds: int | None = None) -> None:
    """Limit this process, in bytes and seconds of CPU time; it writes no core file either. A lower hard limit stays.

    ``address_space`` counts everything that is mapped (macOS has no such limit); ``data`` leaves out mapped files, such
    as a model's weights. Past a limit of memory Python raises MemoryError, past that of time the process is killed.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, limit in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_DATA, data),
        (resource.RLIMIT_CPU, cpu_seconds),
    ):
        if limit is not None:
            _, hard = resource.getrlimit(kind)
            lowest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (lowest, lowest))


def die_with_parent(parent: int) -> None:
    """Have the system kill this process when its parent, the process ``parent``, ends; at once when it has ended.

    On Linux alone. Elsewhere a child notices by the end of its input (:func:`end_with_input`).
    """
    if _LINUX:
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def end_with_parent(parent: int) -> None:
    """:func:`die_with_parent` on every system: where there is no such call, a thread looks for the parent."""
    die_with_parent(parent)
    if not _LINUX:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def end_with_input(take: Callable[[str], None]) -> None:
    """Give each line of standard input to ``take``; when the input ends, kill this process and its group.

    The input is a pipe from the parent, so it ends when the parent does, however it does.
    """
    for line in sys.stdin:
        take(line)
    os.killpg(0, signal.SIGKILL)


def adopt_orphans() -> None:
    """On Linux, make this process the parent of descendants whose own parent ended, so that none is lost."""
    if _LINUX:
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """:func:`adopt_orphans` for as long as the block runs."""
    before = ctypes.c_int(0)
    if _LINUX:
        ctypes.CDLL(None).prctl(_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    adopt_orphans()
    try:
        yield
    finally:
        if _LINUX:
            ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def answer_question(answer: Callable[[Any], Any]) -> None:
    """The child of :func:`hubkit.core.processes.parent.ask_module`: ``answer`` the question on standard input.

    Whatever else writes to standard output meanwhile is written to standard error.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        json.dump(answer(json.load(sys.stdin)), output)


def _main() -> None:
    """Set the limits, load the script, read a job as JSON from stdin, write its answer as JSON to stdout."""
    script, memory, seconds, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    die_with_parent(parent)
    set_limits(address_space=memory, cpu_seconds=seconds)
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.stdout.write(json.dumps(module.answer(json.load(sys.stdin))))


if __name__ == "__main__":
    _main()
