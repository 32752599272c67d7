"""Results that cost a child process: a few are computed at a time, and kept by what they were computed from."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_RUNNING = threading.BoundedSemaphore(2)
_WAITING = threading.BoundedSemaphore(12)
"""Requests that compute or wait to compute: each holds one of the Hub's forty threads, which others need too."""
_T = TypeVar("_T")


class BusyError(Exception):
    """Too many requests wait for results to be computed."""


class ResultCache(Generic[_T]):
    """Results by key, up to ``most`` characters together; the least recently used is evicted first."""

    def __init__(self, most: int, length: Callable[[_T], int]) -> None:
        self._most, self._length, self._total = most, length, 0
        self._lock = threading.Lock()
        self._results: OrderedDict[Hashable, _T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """The result of ``key``, computed by ``make`` if it is not cached. BusyError when too many requests wait."""
        if key not in self:
            if not _WAITING.acquire(blocking=False):
                raise BusyError
            try:
                with _RUNNING:
                    if key not in self:  # another request may have computed it meanwhile
                        return self._keep(key, make())
            finally:
                _WAITING.release()
        with self._lock:
            if (result := self._results.get(key)) is not None:
                self._results.move_to_end(key)
                return result
        return self.get(key, make)  # it was evicted meanwhile

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._results

    def _keep(self, key: Hashable, result: _T) -> _T:
        with self._lock:
            if (old := self._results.pop(key, None)) is not None:
                self._total -= self._length(old)
            self._results[key] = result
            self._total += self._length(result)
            while self._total > self._most:
                self._total -= self._length(self._results.popitem(last=False)[1])
        return result
