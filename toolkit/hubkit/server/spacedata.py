"""What the database keeps of Spaces: their ports, secrets and variables, and which processes they left running."""

from __future__ import annotations

import threading
from typing import Any

from hubkit.core.processes.ports import free_port, is_free
from hubkit.server.database import Database, now


class SpaceData:
    """The Spaces of one data folder; a Space is named by its repo's internal id."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._ports = threading.Lock()

    # Settings ----------------------------------------------------------------------------------------------

    def values(self, repo: str, *, secret: bool) -> dict[str, str]:
        """Values of the secrets, or of the variables, by key."""
        rows = self._db.rows(
            "SELECT key, value FROM space_settings WHERE repo = ? AND secret = ? ORDER BY key", repo, secret
        )
        return {row["key"]: row["value"] for row in rows}

    def shown(self, repo: str, *, secret: bool) -> dict[str, dict[str, Any]]:
        """What may be told of them, by key: of a variable its value too, of a secret never."""
        rows = self._db.rows("SELECT * FROM space_settings WHERE repo = ? AND secret = ? ORDER BY key", repo, secret)
        return {
            row["key"]: {"key": row["key"], "updatedAt": row["updated"]}
            | ({"description": row["description"]} if row["description"] else {})
            | ({} if secret else {"value": row["value"]})
            for row in rows
        }

    def put(self, repo: str, key: str, value: str, *, secret: bool, description: str | None = None) -> None:
        """Add or replace one."""
        self._db.run(
            "INSERT OR REPLACE INTO space_settings VALUES (?, ?, ?, ?, ?, ?)",
            repo, secret, key, value, description, now(),
        )  # fmt: skip

    def drop(self, repo: str, key: str, *, secret: bool) -> None:
        """Forget one."""
        self._db.run("DELETE FROM space_settings WHERE repo = ? AND secret = ? AND key = ?", repo, secret, key)

    # State -------------------------------------------------------------------------------------------------

    def _get(self, repo: str, column: str) -> Any:
        row = self._db.row(f"SELECT {column} FROM spaces WHERE repo = ?", repo)
        return row[column] if row else None

    def _set(self, repo: str, column: str, value: Any) -> None:
        self._db.run(
            f"INSERT INTO spaces (repo, {column}) VALUES (?, ?) "
            f"ON CONFLICT (repo) DO UPDATE SET {column} = excluded.{column}",
            repo, value,
        )  # fmt: skip

    def paused(self, repo: str) -> bool:
        """Whether somebody paused it."""
        return bool(self._get(repo, "paused"))

    def pause(self, repo: str, paused: bool) -> None:
        """Remember that it is paused, or is not any more."""
        self._set(repo, "paused", paused)

    def sleep_time(self, repo: str) -> int | None:
        """The seconds that somebody asked for."""
        found = self._get(repo, "sleep")
        return None if found is None else int(found)

    def set_sleep_time(self, repo: str, seconds: int) -> None:
        """Remember the seconds after which a Space is to sleep. This Hub tells them and puts none to sleep."""
        self._set(repo, "sleep", seconds)

    def port(self, repo: str) -> int | None:
        """The port that it had last."""
        found = self._get(repo, "port")
        return None if found is None else int(found)

    def usable_port(self, repo: str) -> int:
        """Its port, so that its address stays; a new one when it has none or another program listens there."""
        with self._ports:
            last = self.port(repo)
            if last is not None and is_free(last):
                return last
            taken = {row["port"] for row in self._db.rows("SELECT port FROM spaces")}
            while (found := free_port()) in taken or not is_free(found):
                pass
            self._set(repo, "port", found)
            return found

    # Children ----------------------------------------------------------------------------------------------

    def add_child(self, repo: str, pid: int, created: float) -> None:
        """Remember a process, so that the next Hub can end what this one left when it was killed."""
        self._db.run("INSERT INTO space_children VALUES (?, ?, ?)", repo, pid, created)

    def drop_child(self, pid: int) -> None:
        """Forget a process that has ended."""
        self._db.run("DELETE FROM space_children WHERE pid = ?", pid)

    def children(self, repo: str) -> list[tuple[int, float]]:
        """Number and start of the processes that were remembered."""
        rows = self._db.rows("SELECT pid, created FROM space_children WHERE repo = ?", repo)
        return [(int(row["pid"]), float(row["created"])) for row in rows]
