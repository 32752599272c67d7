"""A process named for good, in a file that others read: does it still run?"""

from __future__ import annotations

import os
import socket
from typing import Any


def this_process() -> dict[str, Any]:
    """This process, as plain values: number, machine, and seconds from the start of the machine to its own.

    Numbers are used again; together with the start they are not. A clock that is set changes none of it.
    """
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}


def is_gone(process: Any) -> bool:
    """Whether the ``process`` of :func:`this_process` has certainly ended. False where this machine cannot tell."""
    import psutil

    if not isinstance(process, dict) or process.get("host") != socket.gethostname():
        return False
    pid, started = process.get("pid"), process.get("started")
    if not isinstance(pid, int) or not isinstance(started, int | float):
        return False
    try:
        found = _started(pid)
        return abs(found - started) > 1 or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _started(pid: int) -> float:
    """Seconds from the start of the machine to that of the process ``pid``."""
    import psutil

    boot = psutil.boot_time()  # first: psutil counts from what was read last
    return round(psutil.Process(pid).create_time() - boot, 2)
