"""Scripted faults, for tests of Hub clients. Off unless the server was started with ``--faults``.

A fault names a route (a regular expression over ``METHOD path``), from which matching request on it strikes,
how often, and what happens (``http.fault_middleware`` does it):

- ``status``: respond with ``status``, ``headers`` and ``body``; the request does not reach the Hub;
- ``drop-before``: close the connection; the request does not reach the Hub;
- ``drop-after``: let the Hub do it, then close the connection without a response;
- ``drop-upload``: close the connection once ``after`` bytes of the body have arrived;
- ``stall-upload``: take no more of the body once ``after`` bytes have arrived, for ``seconds`` at most;
- ``slow-upload``: take the body piece by piece with a pause of ``seconds`` after each;
- ``rewrite``: change ``find`` in the request's body to ``body`` before the Hub reads it;
- ``truncate``: send only the first ``after`` bytes of the response's body, then close the connection;
- ``hang``: accept and never respond, for ``seconds`` at most.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hubkit.core.errors import UsageError

ACTIONS = frozenset(
    ["status", "drop-before", "drop-after", "drop-upload", "stall-upload", "slow-upload", "rewrite", "truncate", "hang"]
)


@dataclass
class Fault:
    """One scripted fault. ``nth`` counts from 1; ``count`` 0 means forever. ``seen`` and ``struck`` are counted."""

    route: str
    action: str
    nth: int = 1
    count: int = 1
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = '{"error": "scripted fault"}'
    find: str = ""
    after: int = 0
    seconds: float = 3600.0
    seen: int = 0
    struck: int = 0

    @classmethod
    def of(cls, value: Any) -> Fault:
        """A fault from JSON; UsageError when it is not one."""
        try:
            fault = cls(**value)
            re.compile(fault.route)
        except (TypeError, re.error) as error:
            raise UsageError(f"Not a fault: {error}.") from None
        if fault.action not in ACTIONS:
            raise UsageError(f"{fault.action!r} is not an action: {', '.join(sorted(ACTIONS))}.")
        return fault

    def strikes(self, line: str) -> bool:
        """Count a request; True when the fault strikes it."""
        if not re.search(self.route, line):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.count and self.struck >= self.count):
            return False
        self.struck += 1
        return True


class FaultScript:
    """The faults to play, and the requests that came since they were set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._script: list[Fault] = []
        self._requests: list[str] = []
        self._times: list[float] = []

    def set(self, script: list[Fault]) -> None:
        """Replace the script and forget the requests seen."""
        with self._lock:
            self._script, self._requests, self._times = script, [], []

    def to_json(self) -> dict[str, Any]:
        """The script with its counts, and the requests since it was set with their times (seconds)."""
        with self._lock:
            script = [asdict(fault) for fault in self._script]
            return {"faults": script, "requests": list(self._requests), "times": list(self._times)}

    def record(self, line: str) -> Fault | None:
        """Record a request (``METHOD path``); the fault that strikes it, or None."""
        with self._lock:
            if len(self._requests) < 100_000:
                self._requests.append(line)
                self._times.append(time.monotonic())
            faults = [fault for fault in self._script if fault.strikes(line)]
            return faults[0] if faults else None
