"""Spaces in the database: their secrets, variables and ports, and the processes that they left running."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.core import numbers
from hubkit.core.errors import UsageError
from hubkit.core.processes.ports import free_port, is_free
from hubkit.server.spaces.policy import MODES, Mode
from hubkit.server.storage.database import Database, now

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_VALUE_LIMIT = 65_536
_DESCRIPTION_LIMIT = 1000


@dataclass(frozen=True)
class Setting:
    """A secret or a variable: the app gets it in its environment."""

    key: str
    value: str
    secret: bool
    description: str | None = None

    @classmethod
    def of(cls, item: Mapping[str, Any], *, secret: bool) -> Setting:
        """A setting from ``{key, value, description?}``; UsageError when an environment cannot hold it."""
        key, value, description = item.get("key"), item.get("value"), item.get("description")
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise UsageError("A key must consist of letters, digits and '_', and must not begin with a digit.")
        if not isinstance(value, str) or len(value) > _VALUE_LIMIT or "\0" in value:
            raise UsageError(
                f"The value of {key} must be a text of at most {numbers.count(_VALUE_LIMIT)} characters without NUL."
            )
        return cls(key, value, secret, description[:_DESCRIPTION_LIMIT] if isinstance(description, str) else None)


def settings_of(body: Mapping[str, Any]) -> list[Setting]:
    """The ``secrets`` and ``variables`` (lists of ``{key, value}``) that a new Space is to have; or UsageError."""
    settings = []
    for name in ("secrets", "variables"):
        items = body.get(name) or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise UsageError(f"'{name}' must be a list of objects.")
        settings += [Setting.of(item, secret=name == "secrets") for item in items]
    return settings


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

    def listed(self, repo: str, *, secret: bool) -> dict[str, dict[str, Any]]:
        """The secrets, or the variables, by key as clients read them: a variable with its value, a secret never."""
        rows = self._db.rows("SELECT * FROM space_settings WHERE repo = ? AND secret = ? ORDER BY key", repo, secret)
        return {
            row["key"]: {"key": row["key"], "updatedAt": row["updated"]}
            | ({"description": row["description"]} if row["description"] else {})
            | ({} if secret else {"value": row["value"]})
            for row in rows
        }

    def put(self, repo: str, setting: Setting) -> None:
        """Add or replace a setting."""
        self._db.run(
            "INSERT OR REPLACE INTO space_settings VALUES (?, ?, ?, ?, ?, ?)",
            repo, setting.secret, setting.key, setting.value, setting.description, now(),
        )  # fmt: skip

    def drop(self, repo: str, key: str, *, secret: bool) -> None:
        """Remove a setting."""
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
        """Whether it is paused."""
        return bool(self._get(repo, "paused"))

    def pause(self, repo: str, paused: bool) -> None:
        """Store whether it is paused."""
        self._set(repo, "paused", paused)

    def sleep_time(self, repo: str) -> int | None:
        """The requested sleep time in seconds."""
        seconds = self._get(repo, "sleep")
        return None if seconds is None else int(seconds)

    def set_sleep_time(self, repo: str, seconds: int) -> None:
        """Store the seconds after which a Space is to sleep. This Hub reports them and never suspends a Space."""
        self._set(repo, "sleep", seconds)

    def port(self, repo: str) -> int | None:
        """The port that it had last."""
        port = self._get(repo, "port")
        return None if port is None else int(port)

    def usable_port(self, repo: str) -> int:
        """Its port, so that its address stays; a new one when it has none or another program listens there."""
        with self._ports:
            last = self.port(repo)
            if last is not None and is_free(last):
                return last
            used = {row["port"] for row in self._db.rows("SELECT port FROM spaces")}
            while (port := free_port()) in used or not is_free(port):
                pass
            self._set(repo, "port", port)
            return port

    def mode(self) -> Mode:
        """Whether this Hub runs Spaces, as it was last started."""
        row = self._db.row("SELECT value FROM meta WHERE key = 'spaces'")
        return next((mode for mode in MODES if row and mode == row["value"]), MODES[0])

    def set_mode(self, mode: Mode) -> None:
        """Store whether this Hub runs Spaces."""
        self._db.run("INSERT OR REPLACE INTO meta VALUES ('spaces', ?)", mode)

    # Children ----------------------------------------------------------------------------------------------

    def add_child(self, repo: str, pid: int, created: float) -> None:
        """Remember a process, so that the next Hub can end what this one left when it was killed."""
        self._db.run("INSERT INTO space_children VALUES (?, ?, ?)", repo, pid, created)

    def drop_child(self, pid: int) -> None:
        """Remove a process that has exited."""
        self._db.run("DELETE FROM space_children WHERE pid = ?", pid)

    def children(self, repo: str) -> list[tuple[int, float]]:
        """Number and start of the processes that were remembered."""
        rows = self._db.rows("SELECT pid, created FROM space_children WHERE repo = ?", repo)
        return [(int(row["pid"]), float(row["created"])) for row in rows]
