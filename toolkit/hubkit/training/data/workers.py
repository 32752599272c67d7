"""Work on many rows, spread over the cores of this machine by processes; few rows are worked on in this process.

Jinja and Python hold the interpreter's lock, so threads would not do. The processes are started anew and not forked: a
process in which torch or tokenizers has threads cannot be forked safely.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from hubkit.core.errors import HubkitError

FEW = 4000
"""Below this number of rows it takes longer to start processes than to do the work here."""
_work: Callable[[Any], Any] | None = None


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """``work`` done in as many processes as there are cores, or here when there are few rows. A context manager.

    ``work`` is sent to each process once, so it can be pickled.
    """

    def __init__(self, work: Callable[[Any], Any], rows: int) -> None:
        self._work, self.processes = work, cores() if rows >= FEW else 1
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self.processes > 1:
            import multiprocessing

            self._pool = ProcessPoolExecutor(
                self.processes,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self._work,),
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, parts: Iterable[Any]) -> Iterator[Any]:
        """What the work makes of each of ``parts``, in order. At most two parts a process are ahead of the reader."""
        if self._pool is None:
            yield from map(self._work, parts)
            return
        ahead: deque[Future[Any]] = deque()
        try:
            for part in parts:
                ahead.append(self._pool.submit(_do, part))
                if len(ahead) > 2 * self.processes:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool as error:
            raise HubkitError(
                "A process that tokenizes rows was ended from outside; often the machine ran out of memory.",
                hint="Free memory and run the same command again.",
            ) from error


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a core, and each tokenizes alone
    _work = work


def _do(part: Any) -> Any:
    assert _work is not None
    return _work(part)
