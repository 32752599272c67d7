"""The signed addresses of transfers: of an LFS object to or from a repo, by a client that sends no token along.

An address is good for ten minutes, and only as long as the token that it was given to is: whether that token may still
read or write the repo is asked anew at each use (``routes.lfs``). A transfer that has begun goes on when its address
ends. A client may take hours for the files of one batch, so an address that uploads stays good while a transfer of its
batch is going on, and ten minutes after the last one: for a day at most. Clients ask for new addresses when they run
again, and git-lfs does so by itself, because it is told when they end.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hubkit.server.accounts.accounts import Actor
from hubkit.server.repos.store import Repo

SECONDS = 600
_BATCH_SECONDS = 24 * 3600
_MOST_BATCHES = 10_000

Action = Literal["get", "put", "verify"]


@dataclass(frozen=True)
class Transfer:
    """What an address allows: one action on one object of a repo, for one caller."""

    action: Action
    repo: Repo
    oid: str
    size: int
    actor: Actor | None

    def text(self) -> str:
        """Everything that must still be so when the address is used. A repo that was moved has other addresses; one
        that was made private or gated has other addresses to read from.
        """
        digest = self.actor.digest if self.actor else "-"
        state = f"{self.repo.private:d}{self.repo.gated}" if self.action == "get" else "-"
        return f"lfs {self.action} {self.repo.uid} {self.repo.id} {state} {self.oid} {self.size} {digest}"


@dataclass
class _Activity:
    going: int
    last: float


class Transfers:
    """Signs addresses and checks them; knows which batches of uploads are going on."""

    def __init__(self, secret: bytes) -> None:
        self._secret, self._lock = secret, threading.Lock()
        self._batches: dict[str, _Activity] = {}

    def batch(self) -> str:
        """The name of a new batch."""
        return secrets.token_hex(8)

    def sign(self, transfer: Transfer, batch: str) -> str:
        """The query of an address that allows ``transfer``."""
        expires = int(time.time()) + SECONDS
        token = transfer.actor.number if transfer.actor else 0
        signature = self._signature(transfer, batch, expires)
        return f"size={transfer.size}&expires={expires}&token={token}&batch={batch}&signature={signature}"

    def is_signed(self, transfer: Transfer, batch: str, expires: int, signature: str, *, begun: bool = False) -> bool:
        """Whether an address was signed here for exactly this, and has not ended; ``begun``: the transfer had begun."""
        expected = self._signature(transfer, batch, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
            return False
        return begun or time.time() < expires or (transfer.action != "get" and self._is_going(batch, expires))

    def begin(self, batch: str) -> Callable[[], None]:
        """A transfer of the batch begins; the function that is returned says that it has ended."""
        with self._lock:
            self._forget()
            self._batches.setdefault(batch, _Activity(0, 0.0)).going += 1

        def end() -> None:
            with self._lock:
                if activity := self._batches.get(batch):
                    activity.going -= 1
                    activity.last = time.monotonic()

        return end

    def _is_going(self, batch: str, expires: int) -> bool:
        with self._lock:
            activity = self._batches.get(batch)
            busy = activity is not None and (activity.going > 0 or time.monotonic() - activity.last < SECONDS)
        return busy and time.time() < expires - SECONDS + _BATCH_SECONDS

    def _forget(self) -> None:
        """Forget the batches that ended, when there are many."""
        if len(self._batches) >= _MOST_BATCHES:
            until = time.monotonic() - SECONDS
            ended = [name for name, item in self._batches.items() if item.going == 0 and item.last < until]
            for name in ended or [next(iter(self._batches))]:
                del self._batches[name]

    def _signature(self, transfer: Transfer, batch: str, expires: int) -> str:
        return hmac.new(self._secret, f"{transfer.text()} {batch} {expires}".encode(), "sha256").hexdigest()
