"""Turns: how many children work at once, in all and for one caller. Who comes later waits, first come first served."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hubkit.server.http.exceptions import HTTPException

STRANGER = "address "
"""How the name of a caller without a token begins."""
_BUSY = "The Hub is busy with other clones and pushes; run the command again in a minute."


class Turns:
    """At most ``total`` turns at a time, at most ``each`` of one caller. Used in the event loop only.

    All callers without a token, who may give themselves many addresses, have at most ``strangers`` together. Of turns
    that last longer than ``SOON``, ``long`` do not count among the ``total``: a few callers whose work is long do not
    hold up all others. They count for their callers.
    """

    SOON = 20.0

    def __init__(
        self, total: int, each: int, patience: float, strangers: int | None = None, *, long: int = 0
    ) -> None:  # fmt: skip
        self._total, self._each, self._patience, self._long = total, each, patience, long
        self._begun: dict[object, float] = {}
        self._strangers = total if strangers is None else strangers
        self._taken: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """A turn for as long as the block runs; 503 when none came in time."""
        if self._waiting or not self._may(caller):  # who waits goes first, if it may
            await self._wait(caller)
        else:
            self._taken[caller] += 1
        loop, turn = asyncio.get_running_loop(), object()
        self._begun[turn] = loop.time()
        grown = loop.call_later(self.SOON, self._admit)
        try:
            yield
        finally:
            grown.cancel()
            del self._begun[turn]
            self._taken[caller] -= 1
            self._taken += Counter()  # forget who has none
            self._admit()

    def _counted(self) -> int:
        """How many turns count among the total."""
        until = asyncio.get_running_loop().time() - self.SOON
        return self._taken.total() - min(self._long, sum(begun <= until for begun in self._begun.values()))

    def counts(self) -> tuple[int, int]:
        """How many turns are taken, and how many callers wait for one."""
        return self._taken.total(), len(self._waiting)

    def _may(self, caller: str) -> bool:
        if caller.startswith(STRANGER):
            strangers = sum(number for name, number in self._taken.items() if name.startswith(STRANGER))
            if strangers >= self._strangers:
                return False
        return self._counted() < self._total and self._taken[caller] < self._each

    async def _wait(self, caller: str) -> None:
        admitted = asyncio.get_running_loop().create_future()
        entry = (caller, admitted)
        self._waiting.append(entry)
        self._admit()
        try:
            await asyncio.wait_for(asyncio.shield(admitted), self._patience)
        except BaseException as error:
            if admitted.done():  # admitted, but nobody is there to use it
                self._taken[caller] -= 1
            else:
                self._waiting.remove(entry)
            self._admit()
            if isinstance(error, TimeoutError):
                raise HTTPException(503, _BUSY, headers={"Retry-After": "30"}) from None
            raise

    def _admit(self) -> None:
        for entry in list(self._waiting):
            caller, admitted = entry
            if self._may(caller):
                self._waiting.remove(entry)
                self._taken[caller] += 1
                admitted.set_result(None)
