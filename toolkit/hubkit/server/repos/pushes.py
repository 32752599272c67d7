"""Pushes: moves of several refs that are made together or not at all, whenever the server is killed.

The moves are noted in the database when the repo has their objects, before the first ref moves. The note becomes rows
of pull requests when all have moved. At the next start the moves of a note are completed if one of them was made and
the others still can be; else the note is dropped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from hubkit.server.repos.discussions import Discussions
from hubkit.server.repos.git import Git, Move
from hubkit.server.repos.objects import MissingError
from hubkit.server.repos.store import Repo, Store
from hubkit.server.storage.database import Database

log = logging.getLogger("hubkit.server")


@dataclass(frozen=True)
class Told:
    """A commit that a pull request tells of."""

    number: int
    commit: str
    subject: str


class Pushes:
    """The pushes to the repos of one data folder. Call :meth:`apply` with the repo's lock held."""

    def __init__(self, database: Database, discussions: Discussions, store: Store) -> None:
        self._db, self._discussions, self._store = database, discussions, store

    def apply(self, git: Git, repo: Repo, moves: Sequence[Move], told: Sequence[Told], author: str) -> None:
        """Make all moves; the pull requests tell of the commits ``told``. Raises as :meth:`Git.move_all` does."""
        note = {"moves": list(map(asdict, moves)), "told": list(map(asdict, told)), "author": author}
        keys: list[int] = []

        def begin() -> None:
            with self._db.transaction():
                self._db.run("DELETE FROM pushes WHERE repo = ?", repo.uid)  # of a push that failed with the database
                self._db.run("INSERT INTO pushes VALUES (NULL, ?, ?)", repo.uid, json.dumps(note))
                row = self._db.row("SELECT last_insert_rowid() AS id")
                assert row is not None
                keys.append(row["id"])

        try:
            git.move_all(moves, begin=begin, then=lambda: self._finish(keys[0], repo, told, author))
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # the next start drops it
                for key in keys:
                    self._db.run("DELETE FROM pushes WHERE id = ?", key)
            raise

    def _finish(self, key: int, repo: Repo, told: Sequence[Told], author: str) -> None:
        with self._db.transaction():
            for item in told:
                event = {"subject": item.subject, "oid": item.commit}
                self._discussions.add_event(repo, item.number, "commit", author, event)
            self._db.run("DELETE FROM pushes WHERE id = ?", key)

    def repair(self) -> None:
        """Complete or drop what a killed server left. Call before serving."""
        for row in self._db.rows("SELECT * FROM pushes ORDER BY id"):
            try:
                self._settle(row["id"], row["repo"], json.loads(row["moves"]))
            except Exception:
                log.exception("a push to the repo %s cannot be completed", row["repo"])

    def _settle(self, key: int, uid: str, note: dict[str, object]) -> None:
        repo = self._store.by_uid(uid)
        assert repo is not None
        moves = [Move(**move) for move in note["moves"]]  # type: ignore[attr-defined]
        told = [Told(**item) for item in note["told"]]  # type: ignore[attr-defined]
        git = self._store.git(repo)
        left = [move for move in moves if git.value(move.ref) != move.new]
        if len(left) == len(moves) or not all(_may_be_made(git, move) for move in left):
            self._db.run("DELETE FROM pushes WHERE id = ?", key)
            return
        git.move_all(left)
        self._finish(key, repo, told, str(note["author"]))
        log.info("completed a push to %s that was interrupted", repo.web)


def _may_be_made(git: Git, move: Move) -> bool:
    """Whether a ref is still where a push found it, and what it would lead to is there: not so after other moves."""
    if git.value(move.ref) != move.old:
        return False
    try:
        return move.new is None or bool(git.objects.head(move.new))
    except MissingError:
        return False
