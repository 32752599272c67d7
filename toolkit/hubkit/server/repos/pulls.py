"""Pull requests: moves of refs that a discussion tells of. Both are done or neither, whenever the server is killed.

A move is noted in the database before the ref moves, and the note becomes rows of the discussion afterwards. At the
next start a note whose ref has moved is made rows, and any other is dropped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from hubkit.server.repos.discussions import Discussions
from hubkit.server.repos.git import Git
from hubkit.server.repos.store import Repo, Store
from hubkit.server.storage.database import Database

log = logging.getLogger("hubkit.server")


@dataclass(frozen=True)
class Note:
    """What a pull request tells of a move: ``open`` (``data``: its title, text, base, status, subject of its first
    commit), ``commit`` (``data``: its subject) or ``merge``.
    """

    kind: Literal["open", "commit", "merge"]
    number: int
    author: str
    data: dict[str, str] = field(default_factory=dict)


class PullRequests:
    """The pull requests of one data folder. Call its methods with the repo's lock held."""

    def __init__(self, database: Database, discussions: Discussions, store: Store) -> None:
        self._db, self._discussions, self._store = database, discussions, store

    def open(
        self, git: Git, repo: Repo, oid: str, author: str, *, title: str, text: str, base: str, status: str,
        subject: str = "",
    ) -> int:  # fmt: skip
        """Open a pull request to the ref ``base`` with the commit ``oid``, which ``subject`` tells of; its number."""
        number = self._discussions.next_number(repo)
        data = {"title": title, "text": text, "base": base, "status": status, "subject": subject}
        self._move(git, repo, f"refs/pr/{number}", oid, None, Note("open", number, author, data))
        return number

    def commit(self, git: Git, repo: Repo, ref: str, oid: str, old: str, *, subject: str, author: str) -> None:
        """Move any ref to a new commit; that of a pull request tells of it. Raises as :meth:`Git.move` does."""
        number = int(ref[8:]) if ref.startswith("refs/pr/") and ref[8:].isdigit() else 0
        if number and self._discussions.row(repo, number):
            self._move(git, repo, ref, oid, old, Note("commit", number, author, {"subject": subject}))
        else:
            git.move(ref, oid, old)

    def merge(self, git: Git, repo: Repo, number: int, base: str, oid: str, old: str, author: str) -> None:
        """Move the ref ``base`` to the commit that merges a pull request. Raises as :meth:`Git.move` does."""
        self._move(git, repo, base, oid, old, Note("merge", number, author))

    def repair(self) -> None:
        """Finish or drop what a killed server left; close pull requests that have no ref. Call before serving."""
        for row in self._db.rows("SELECT * FROM unfinished ORDER BY id"):
            try:
                self._settle(row["id"], Note(**json.loads(row["note"])), self._known(row["repo"]), row)
            except Exception:
                log.exception("the pull requests of the repo %s cannot be repaired", row["repo"])
        lost = self._db.rows("SELECT repo, num, author FROM discussions WHERE pull AND status IN ('open', 'draft')")
        for row in lost:
            try:
                repo = self._known(row["repo"])
                git = self._store.git(repo)
                git.head()  # of a damaged repo nobody knows which refs it had
                if git.value(f"refs/pr/{row['num']}") is None:
                    with self._db.transaction():
                        self._discussions.set_status(repo, row["num"], "closed", row["author"])
            except Exception:
                log.exception("the pull request %s of the repo %s cannot be read", row["num"], row["repo"])

    def _known(self, uid: str) -> Repo:
        repo = self._store.by_uid(uid)
        assert repo is not None
        return repo

    def _settle(self, key: int, note: Note, repo: Repo, row: Any) -> None:
        done = self._store.git(repo).value(row["ref"]) == row["commit_id"]
        with self._db.transaction():
            if done:
                self._apply(repo, row["commit_id"], note)
            self._db.run("DELETE FROM unfinished WHERE id = ?", key)

    def _move(self, git: Git, repo: Repo, ref: str, oid: str, old: str | None, note: Note) -> None:
        text = json.dumps(asdict(note))
        with self._db.transaction():
            self._db.run("INSERT INTO unfinished VALUES (NULL, ?, ?, ?, ?)", repo.uid, ref, oid, text)
            row = self._db.row("SELECT last_insert_rowid() AS id")
        assert row is not None

        def write() -> None:
            with self._db.transaction():
                self._apply(repo, oid, note)
                self._db.run("DELETE FROM unfinished WHERE id = ?", row["id"])

        try:
            git.move(ref, oid, old, then=write)
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # the next start drops it
                self._db.run("DELETE FROM unfinished WHERE id = ?", row["id"])
            raise

    def _apply(self, repo: Repo, oid: str, note: Note) -> None:
        discussions, number, author, data = self._discussions, note.number, note.author, note.data
        if note.kind == "open":
            discussions.insert(
                repo, number, data["title"], data["text"], author, base=data["base"], status=data["status"]
            )
        if subject := data.get("subject"):
            discussions.add_event(repo, number, "commit", author, {"subject": subject, "oid": oid})
        if note.kind == "merge":
            discussions.change(repo, number, merged=oid)
            discussions.set_status(repo, number, "merged", author)
