"""Many files flushed to disk together."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hubkit.core.files import fsync_folder

# The disk is told of several at once and makes them durable together, where each alone would wait for its own turn.
_AT_ONCE = 8
_FEW = 16
"""Files or folders that one thread flushes while others flush, too: to wake more would cost more than it saves."""
_threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="flush")
Item = TypeVar("Item")


def _renew() -> None:
    """A child that was forked has none of the threads, and would wait for them and for those that flush."""
    global _threads, _going
    _threads, _going = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="flush"), _Going()


os.register_at_fork(after_in_child=_renew)


def flush_files(paths: Iterable[Path]) -> None:
    """Flush every file; OSError when one cannot be.

    The system is first told of all of them that they are not needed in memory, so that it begins to write: who waits
    for the first one then waits for most of the others too. Each is opened for itself, so that many callers at once do
    not hold many files open.
    """
    paths = list(paths)
    for path in paths if len(paths) > 1 else ():
        _with(path, _announce)
    flush = _together if len(paths) > _FEW else _few
    flush(lambda path: _with(path, os.fsync), paths)


def flush_folders(folders: Iterable[Path]) -> None:
    """Make what was renamed in these folders survive a power cut."""
    distinct = sorted(set(folders))
    if len(distinct) > _FEW:
        _together(fsync_folder, distinct)
    else:
        _few(fsync_folder, distinct)


class _Going:
    """How many callers flush a few at this moment."""

    def __init__(self) -> None:
        self._lock, self._count = threading.Lock(), 0

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody else did when this block began."""
        with self._lock:
            self._count += 1
            alone = self._count == 1
        try:
            yield alone
        finally:
            with self._lock:
                self._count -= 1


_going = _Going()


def _few(flush: Callable[[Item], None], items: list[Item]) -> None:
    """Flush a few: together when nobody else flushes, which is sooner; else one after the other, which costs less."""
    with _going.alone() as alone:
        if alone and len(items) > 1:
            _together(flush, items)
            return
        for item in items:
            flush(item)


def _together(flush: Callable[[Item], None], items: list[Item]) -> None:
    """Flush all; a few at a time, so that a caller with few does not wait for all of one with thousands."""
    begun = deque[Future[None]]()
    try:
        for item in items:
            if len(begun) == _AT_ONCE:
                begun.popleft().result()
            begun.append(_threads.submit(flush, item))
        while begun:
            begun.popleft().result()
    finally:
        wait(begun)


def _announce(handle: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def _with(path: Path, work: Callable[[int], None]) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        work(handle)
    finally:
        os.close(handle)
