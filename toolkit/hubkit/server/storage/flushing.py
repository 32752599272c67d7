"""Many files flushed to disk together."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from hubkit.core.files import fsync_folder

# The disk is told of several at once and makes them durable together, where each alone would wait for its own turn.
_AT_ONCE = 8
_threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="flush")


def _renew() -> None:
    """A child that was forked has none of the threads, and would wait for them."""
    global _threads
    _threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="flush")


os.register_at_fork(after_in_child=_renew)


def flush_files(paths: Iterable[Path]) -> None:
    """Flush every file; OSError when one cannot be.

    The system is first told of all of them that they are not needed in memory, so that it begins to write: who waits
    for the first one then waits for most of the others too.
    """
    paths = list(paths)
    if len(paths) > 1 and hasattr(os, "posix_fadvise"):
        for path in paths:
            _with(path, lambda handle: os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED))
    _together(lambda path: _with(path, os.fsync), paths)


def flush_folders(folders: Iterable[Path]) -> None:
    """Make what was renamed in these folders survive a power cut."""
    _together(fsync_folder, sorted(set(folders)))


def _together(flush: Callable[[Path], None], paths: list[Path]) -> None:
    """Flush all; a few at a time, so that a caller with few does not wait for all of one with thousands."""
    if len(paths) == 1:
        flush(paths[0])
        return
    begun = deque[Future[None]]()
    try:
        for path in paths:
            if len(begun) == _AT_ONCE:
                begun.popleft().result()
            begun.append(_threads.submit(flush, path))
        while begun:
            begun.popleft().result()
    finally:
        wait(begun)


def _with(path: Path, work: Callable[[int], None]) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        work(handle)
    finally:
        os.close(handle)
