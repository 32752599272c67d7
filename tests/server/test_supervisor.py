"""The thread of one Space, when what it stands on fails."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, cast

from commands import until

from hubkit.server.spaces.supervisor import Supervisor


class FailsOnce:
    """A database whose first question fails; then there is no such repo."""

    asked = 0

    def children(self, uid: str) -> list[tuple[int, float]]:
        self.asked += 1
        if self.asked == 1:
            raise sqlite3.OperationalError("disk I/O error")
        return []

    def by_uid(self, uid: str) -> None:
        return None


def test_after_a_failure_of_the_database_the_next_order_is_still_done(tmp_path: Path) -> None:
    broken = cast(Any, FailsOnce())
    space = Supervisor("a" * 32, tmp_path / "space", "http://127.0.0.1:9", broken, broken, broken)
    space.order("build")
    until(lambda: space.stage == "RUNTIME_ERROR", 10)
    assert "see the Hub's log" in space.error
    space.order("build")
    until(lambda: space.stage == "STOPPED" and "deleted" in space.error, 10)
    space.order("close")
    space.join(10)
