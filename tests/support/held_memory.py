"""What memory a process and its children hold for themselves, sampled. Linux alone."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path


class Memory(threading.Thread):
    """The most memory that this process and its children held together, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._ended = 0, threading.Event()

    def run(self) -> None:
        """Look every fifth of a second."""
        while not self._ended.wait(0.2):
            self.peak = max(self.peak, sum(map(_held, _tree(os.getpid()))))

    def end(self) -> int:
        """Stop looking; the peak."""
        self._ended.set()
        self.join()
        return max(self.peak, sum(map(_held, _tree(os.getpid()))))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))


def _held(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])
    return 0
