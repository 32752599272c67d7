"""Work that is killed at its N-th change of a file, or request."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2

CHANGES_OF_FILES = ((Path, "rename"), (Path, "replace"), (shutil, "rmtree"), (os, "fsync"))
REQUESTS = ((httpx2.Client, "send"), (os, "fsync"))


def a_write(client: object, request: httpx2.Request, *_: object) -> bool:
    """Whether the request, an argument of :data:`REQUESTS`'s first call, changes something on the Hub."""
    return request.method not in {"GET", "HEAD"}


def killed_at(
    number: int,
    moment: str,
    work: Callable[[], object],
    calls: Sequence[tuple[Any, str]] = CHANGES_OF_FILES,
    counts: Callable[..., bool] = lambda *args: True,
) -> int:
    """Do ``work`` in a fork that kills itself before or after its ``number``-th call of one of ``calls``.

    Only calls count whose arguments ``counts`` accepts. Returns the fork's exit code.
    """
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    numbers = itertools.count(1)

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            last = counts(*args) and next(numbers) == number
            if last and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            answer = real(*args, **keywords)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return call

    for module, name in calls:
        setattr(module, name, counted(getattr(module, name)))
    try:
        work()
    finally:
        os._exit(0)
