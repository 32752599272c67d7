"""Locks of large files (``git lfs lock``): who works on a file that cannot be merged. They are advice to git-lfs.

A push by git-lfs stops at the locks of others; a commit over the API does not ask for them.
"""

from __future__ import annotations

import secrets
import sqlite3
from typing import Any

from hubkit.core.errors import UsageError
from hubkit.server.repos.store import Repo
from hubkit.server.storage.database import Database, now

MOST = 10_000


class LockedError(Exception):
    """A file is locked already. ``lock`` is that lock, as clients read it."""

    def __init__(self, lock: dict[str, Any]) -> None:
        super().__init__(lock["path"])
        self.lock = lock


class Locks:
    """The locks of one data folder. A lock is ``{id, path, locked_at, owner: {name}}``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def listed(self, repo: Repo, *, start: int, most: int, path: str | None = None) -> list[dict[str, Any]]:
        """``most`` locks of a repo, oldest first, without the first ``start`` of them."""
        rows = self._db.rows(
            "SELECT * FROM lfs_locks WHERE repo = ? AND (? IS NULL OR path = ?) ORDER BY locked, id LIMIT ? OFFSET ?",
            repo.uid, path, path, most, start,
        )  # fmt: skip
        return [_lock(row) for row in rows]

    def find(self, repo: Repo, key: str) -> dict[str, Any] | None:
        """A lock by its id."""
        row = self._db.row("SELECT * FROM lfs_locks WHERE repo = ? AND id = ?", repo.uid, key)
        return _lock(row) if row else None

    def add(self, repo: Repo, path: str, owner: str) -> dict[str, Any]:
        """A new lock. LockedError; UsageError when the repo has too many."""
        with self._db.transaction():
            if taken := self.listed(repo, start=0, most=1, path=path):
                raise LockedError(taken[0])
            count = self._db.row("SELECT COUNT(*) AS n FROM lfs_locks WHERE repo = ?", repo.uid)
            if count and count["n"] >= MOST:
                raise UsageError(f"A repo has {MOST:,} locks at most.")
            key = secrets.token_hex(12)
            self._db.run("INSERT INTO lfs_locks VALUES (?, ?, ?, ?, ?)", key, repo.uid, path, owner, now())
        lock = self.find(repo, key)
        assert lock is not None
        return lock

    def remove(self, key: str) -> None:
        """Remove a lock."""
        self._db.run("DELETE FROM lfs_locks WHERE id = ?", key)


def _lock(row: sqlite3.Row) -> dict[str, Any]:
    return {"id": row["id"], "path": row["path"], "locked_at": row["locked"], "owner": {"name": row["owner"]}}
