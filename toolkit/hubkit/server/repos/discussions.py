"""Discussions and pull requests of repos, kept as a list of events each."""

from __future__ import annotations

import html
import json
import sqlite3
import uuid
from typing import Any

from hubkit.server.repos.store import Repo
from hubkit.server.storage.database import Database, now


class Discussions:
    """The discussions of one data folder. Numbers count up per repo and are never used again."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def open(self, repo: Repo, title: str, text: str, author: str) -> int:
        """A new discussion; its number. Pull requests are opened by :mod:`hubkit.server.repos.pulls`."""
        with self._db.transaction():
            number = self.next_number(repo)
            self.insert(repo, number, title, text, author)
        return number

    def next_number(self, repo: Repo) -> int:
        """The number that the next discussion gets, unless another one is opened first."""
        row = self._db.row("SELECT COALESCE(MAX(num), 0) + 1 AS num FROM discussions WHERE repo = ?", repo.uid)
        assert row is not None
        return int(row["num"])

    def insert(
        self, repo: Repo, number: int, title: str, text: str, author: str, *, base: str | None = None,
        status: str = "open",
    ) -> None:  # fmt: skip
        """Write the rows of a new discussion; with ``base`` it is a pull request to that ref."""
        with self._db.transaction():
            self._db.run(
                "INSERT INTO discussions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                repo.uid, number, title, status, base is not None, base, None, author, now(),
            )  # fmt: skip
            self.add_comment(repo, number, author, text)

    def row(self, repo: Repo, number: int) -> sqlite3.Row | None:
        """One discussion, or None."""
        return self._db.row("SELECT * FROM discussions WHERE repo = ? AND num = ?", repo.uid, number)

    def listed(self, repo: Repo) -> list[sqlite3.Row]:
        """All discussions, newest first."""
        return self._db.rows("SELECT * FROM discussions WHERE repo = ? ORDER BY num DESC", repo.uid)

    def add_event(self, repo: Repo, number: int, kind: str, author: str, data: dict[str, Any]) -> dict[str, Any]:
        """Append an event; returns it as clients read it."""
        identity = uuid.uuid4().hex[:24]
        with self._db.transaction():
            self._db.run(
                "INSERT INTO events SELECT ?, ?, ?, COALESCE(MAX(position), 0) + 1, ?, ?, ?, ? FROM events "
                "WHERE repo = ? AND num = ?",
                identity, repo.uid, number, kind, author, now(), json.dumps(data), repo.uid, number,
            )  # fmt: skip
            row = self._db.row("SELECT * FROM events WHERE id = ?", identity)
        assert row is not None
        return _event(row)

    def add_comment(self, repo: Repo, number: int, author: str, text: str) -> dict[str, Any]:
        """Append a comment."""
        return self.add_event(repo, number, "comment", author, _comment(text, author))

    def events(self, repo: Repo, number: int) -> list[dict[str, Any]]:
        """The events of a discussion, oldest first."""
        rows = self._db.rows("SELECT * FROM events WHERE repo = ? AND num = ? ORDER BY position", repo.uid, number)
        return [_event(row) for row in rows]

    def change(
        self, repo: Repo, number: int, *, title: str | None = None, status: str | None = None, merged: str | None = None
    ) -> None:
        """Set title, status or the commit of the merge."""
        for column, value in (("title", title), ("status", status), ("merged", merged)):
            if value is not None:
                self._db.run(f"UPDATE discussions SET {column} = ? WHERE repo = ? AND num = ?", value, repo.uid, number)

    def set_status(self, repo: Repo, number: int, status: str, author: str) -> dict[str, Any]:
        """Set the status; the event that tells of it."""
        with self._db.transaction():
            self.change(repo, number, status=status)
            return self.add_event(repo, number, "status-change", author, {"status": status})

    def edit_comment(
        self, repo: Repo, number: int, identity: str, *, by: str, text: str | None = None
    ) -> dict[str, Any] | None:
        """Change a comment to ``text``, or without one hide it for good: its words are deleted, earlier ones too.

        Returns the event; None when there is none of that id, or when it was hidden and is to be changed.
        """
        with self._db.transaction():
            row = self._db.row(
                "SELECT * FROM events WHERE id = ? AND repo = ? AND num = ? AND type = 'comment'",
                identity,
                repo.uid,
                number,
            )
            data: dict[str, Any] = json.loads(row["data"]) if row else {"hidden": True}
            if row is None or (text is not None and data["hidden"]):
                return None
            if text is not None:
                fresh = _comment(text, row["author"])
                data |= {"edited": True, "latest": fresh["latest"], "history": [*data["history"], data["latest"]]}
            elif not data["hidden"]:
                data = _hidden(data | {"hidden": True, "hiddenBy": by})
            self._db.run("UPDATE events SET data = ? WHERE id = ?", json.dumps(data), identity)
            changed = self._db.row("SELECT * FROM events WHERE id = ?", identity)
        return _event(changed) if changed else None


def _comment(text: str, author: str) -> dict[str, Any]:
    latest = {"raw": text, "html": f"<p>{html.escape(text)}</p>", "updatedAt": now(), "author": {"name": author}}
    return {"edited": False, "hidden": False, "latest": latest, "history": []}


def _hidden(data: dict[str, Any]) -> dict[str, Any]:
    """A hidden comment without any of its words."""
    words = "This comment has been hidden"
    return data | {"latest": data["latest"] | {"raw": words, "html": words}, "history": []}


def _event(row: sqlite3.Row) -> dict[str, Any]:
    data = json.loads(row["data"])
    if data.get("hidden"):
        data = _hidden(data)  # earlier versions of the Hub kept the words of a hidden comment
    return {
        "id": row["id"], "type": row["type"], "createdAt": row["created"],
        "author": {"name": row["author"], "type": "user"}, "data": data,
    }  # fmt: skip


def summary(repo: Repo, row: sqlite3.Row) -> dict[str, Any]:
    """A discussion as lists of discussions contain it."""
    return {
        "num": row["num"], "title": row["title"], "status": row["status"], "isPullRequest": bool(row["pull"]),
        "createdAt": row["created"], "author": {"name": row["author"], "type": "user"},
        "repo": {"name": repo.id, "type": repo.type}, "pinned": False,
    }  # fmt: skip
