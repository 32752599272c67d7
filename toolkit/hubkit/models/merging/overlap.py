"""Work spread over all cores whose results are consumed in order: what keeps memory, threads and errors in bounds.

    with Overlap(workers=2, memory=64 * MIB) as overlap:
        hashes, file = overlap.consumer(digest.update), overlap.consumer(file.write)
        for block in blocks:
            overlap.put(lambda block=block: compute(block), [hashes, file], memory=block.size)

Any thread's first exception ends all the others' work; leaving the block raises it. No thread outlives the block.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Overlap(Generic[T]):
    """Computes items in ``workers`` threads; each consumer has a thread that meets its items in the order of ``put``.

    ``memory`` is how many bytes of items may be under way at a time; one item that is larger goes alone.
    """

    def __init__(self, workers: int, memory: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="merge")
        self._memory = memory
        self._used = 0
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._consumers: list[Consumer[T]] = []

    def consumer(self, consume: Callable[[T], None]) -> Consumer[T]:
        """A thread of its own that is given its items in order."""
        consumer = Consumer(self, consume)
        self._consumers.append(consumer)
        return consumer

    def put(self, compute: Callable[[], T], consumers: Sequence[Consumer[T]], memory: int) -> None:
        """Have ``compute`` called in a worker and its result given to ``consumers``; waits while memory is short.

        Raises what another thread raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._used or self._used + memory <= self._memory)
            if self._error:
                raise self._error
            self._used += memory
        item = Item(self._pool.submit(self._guarded, compute), memory, len(consumers))
        for consumer in consumers:
            consumer.items.put(item)

    def fail(self, error: BaseException) -> None:
        """End all work because of ``error``; the first one counts."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    @property
    def failed(self) -> bool:
        """Whether a thread has failed: what is left need not be computed."""
        return self._error is not None

    def release(self, item: Item[T]) -> None:
        """A consumer has done with ``item``."""
        with self._changed:
            item.readers -= 1
            if not item.readers:
                self._used -= item.memory
                self._changed.notify_all()

    def _guarded(self, compute: Callable[[], T]) -> T | None:
        if self.failed:
            return None
        try:
            return compute()
        except BaseException as error:
            self.fail(error)
            return None

    def __enter__(self) -> Overlap[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            self.fail(error)
        for consumer in self._consumers:
            consumer.items.put(None)
        for consumer in self._consumers:
            consumer.thread.join()
        self._pool.shutdown()
        if self._error is not None and self._error is not error:
            raise self._error


class Item(Generic[T]):
    """A result under way, and how many consumers still need it."""

    __slots__ = ("future", "memory", "readers")

    def __init__(self, future: Future[T | None], memory: int, readers: int) -> None:
        self.future, self.memory, self.readers = future, memory, readers


class Consumer(Generic[T]):
    """The end of a line of items."""

    def __init__(self, overlap: Overlap[T], consume: Callable[[T], None]) -> None:
        self.items: SimpleQueue[Item[T] | None] = SimpleQueue()
        self._overlap, self._consume = overlap, consume
        self.thread = threading.Thread(target=self._run, name="merge-consumer", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (item := self.items.get()) is not None:
            value = item.future.result()
            try:
                if not self._overlap.failed and value is not None:
                    self._consume(value)
            except BaseException as error:
                self._overlap.fail(error)
            del value
            self._overlap.release(item)
            del item
