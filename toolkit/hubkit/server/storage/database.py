"""One SQLite file for everything that is not file content: small, transactional, safe to kill."""

from __future__ import annotations

import contextlib
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from hubkit.core.errors import ConflictError
from hubkit.server.storage import row_sums

T = TypeVar("T")
_PATIENCE, _PAUSE = 2.0, 0.02

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS accounts (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('user', 'org')), name TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE, fullname TEXT NOT NULL, admin INTEGER NOT NULL DEFAULT 0,
    private_repos INTEGER NOT NULL DEFAULT 0, created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS members (
    org TEXT NOT NULL REFERENCES accounts(id) ON DELETE CASCADE,
    user TEXT NOT NULL REFERENCES accounts(id) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('admin', 'write', 'read')), PRIMARY KEY (org, user));
CREATE TABLE IF NOT EXISTS tokens (
    digest TEXT PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts(id) ON DELETE CASCADE,
    label TEXT NOT NULL, role TEXT NOT NULL CHECK (role IN ('write', 'read')), created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS token_limits (
    digest TEXT PRIMARY KEY REFERENCES tokens(digest) ON DELETE CASCADE, grants TEXT, expires REAL);
CREATE TABLE IF NOT EXISTS publishers (
    repo TEXT NOT NULL REFERENCES repos(uid) ON DELETE CASCADE, account TEXT NOT NULL REFERENCES accounts(id)
    ON DELETE CASCADE, secret TEXT NOT NULL, claims TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS repos (
    uid TEXT PRIMARY KEY, type TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, key TEXT NOT NULL,
    private INTEGER NOT NULL, gated TEXT NOT NULL DEFAULT '', sdk TEXT, creator TEXT NOT NULL,
    created TEXT NOT NULL, UNIQUE (type, key));
CREATE TABLE IF NOT EXISTS aliases (
    type TEXT NOT NULL, key TEXT NOT NULL, repo TEXT NOT NULL REFERENCES repos(uid) ON DELETE CASCADE,
    PRIMARY KEY (type, key));
CREATE TABLE IF NOT EXISTS lfs (
    repo TEXT NOT NULL REFERENCES repos(uid) ON DELETE CASCADE, oid TEXT NOT NULL, size INTEGER NOT NULL,
    pushed TEXT NOT NULL, PRIMARY KEY (repo, oid));
CREATE INDEX IF NOT EXISTS lfs_by_oid ON lfs (oid);
CREATE TABLE IF NOT EXISTS lfs_unflushed (oid TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS lfs_locks (
    id TEXT PRIMARY KEY, repo TEXT NOT NULL REFERENCES repos(uid) ON DELETE CASCADE, path TEXT NOT NULL,
    owner TEXT NOT NULL, locked TEXT NOT NULL, UNIQUE (repo, path));
CREATE TABLE IF NOT EXISTS xet_files (hash TEXT PRIMARY KEY, oid TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS xet_files_by_oid ON xet_files (oid);
CREATE TABLE IF NOT EXISTS xet_parts (
    file TEXT NOT NULL REFERENCES xet_files(hash) ON DELETE CASCADE, position INTEGER NOT NULL, count INTEGER NOT NULL,
    offset INTEGER NOT NULL, length INTEGER NOT NULL, xorb TEXT NOT NULL, PRIMARY KEY (file, position));
CREATE TABLE IF NOT EXISTS xet_terms (
    xorb TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    file TEXT NOT NULL REFERENCES xet_files(hash) ON DELETE CASCADE, position INTEGER NOT NULL,
    PRIMARY KEY (xorb, first, last, file));
CREATE INDEX IF NOT EXISTS xet_terms_by_file ON xet_terms (file);
CREATE TABLE IF NOT EXISTS xet_chunks (
    chunk TEXT NOT NULL, file TEXT NOT NULL REFERENCES xet_files(hash) ON DELETE CASCADE, position INTEGER NOT NULL,
    PRIMARY KEY (chunk, file));
CREATE INDEX IF NOT EXISTS xet_chunks_by_file ON xet_chunks (file);
CREATE TABLE IF NOT EXISTS commit_facts (
    repo TEXT NOT NULL REFERENCES repos(uid) ON DELETE CASCADE, commit_id TEXT NOT NULL, form INTEGER NOT NULL,
    facts TEXT NOT NULL, files BLOB NOT NULL, stored TEXT NOT NULL, PRIMARY KEY (repo, commit_id));
CREATE TABLE IF NOT EXISTS discussions (
    repo TEXT NOT NULL REFERENCES repos(uid) ON DELETE CASCADE, num INTEGER NOT NULL, title TEXT NOT NULL,
    status TEXT NOT NULL, pull INTEGER NOT NULL, base TEXT, merged TEXT, author TEXT NOT NULL,
    created TEXT NOT NULL, PRIMARY KEY (repo, num));
CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY, repo TEXT NOT NULL, num INTEGER NOT NULL, position INTEGER NOT NULL, type TEXT NOT NULL,
    author TEXT NOT NULL, created TEXT NOT NULL, data TEXT NOT NULL,
    FOREIGN KEY (repo, num) REFERENCES discussions(repo, num) ON DELETE CASCADE);
CREATE TABLE IF NOT EXISTS collections (
    id TEXT PRIMARY KEY, namespace TEXT NOT NULL, title TEXT NOT NULL, description TEXT, private INTEGER NOT NULL,
    theme TEXT NOT NULL, position INTEGER NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS collection_items (
    id TEXT PRIMARY KEY, collection TEXT NOT NULL REFERENCES collections(id) ON DELETE CASCADE, type TEXT NOT NULL,
    repo TEXT REFERENCES repos(uid) ON DELETE CASCADE, name TEXT NOT NULL, note TEXT, position INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS collection_items_by_repo ON collection_items (repo);
CREATE TABLE IF NOT EXISTS unfinished (
    id INTEGER PRIMARY KEY, repo TEXT NOT NULL REFERENCES repos(uid) ON DELETE CASCADE, ref TEXT NOT NULL,
    commit_id TEXT NOT NULL, note TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pushes (
    id INTEGER PRIMARY KEY, repo TEXT NOT NULL REFERENCES repos(uid) ON DELETE CASCADE, moves TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spaces (
    repo TEXT PRIMARY KEY REFERENCES repos(uid) ON DELETE CASCADE, port INTEGER UNIQUE,
    paused INTEGER NOT NULL DEFAULT 0, sleep INTEGER);
CREATE TABLE IF NOT EXISTS space_settings (
    repo TEXT NOT NULL REFERENCES repos(uid) ON DELETE CASCADE, secret INTEGER NOT NULL, key TEXT NOT NULL,
    value TEXT NOT NULL, description TEXT, updated TEXT NOT NULL, PRIMARY KEY (repo, secret, key));
CREATE TABLE IF NOT EXISTS space_children (
    repo TEXT NOT NULL REFERENCES repos(uid) ON DELETE CASCADE, pid INTEGER NOT NULL, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS likes (
    repo TEXT NOT NULL REFERENCES repos(uid) ON DELETE CASCADE,
    account TEXT NOT NULL REFERENCES accounts(id) ON DELETE CASCADE, created TEXT NOT NULL,
    PRIMARY KEY (repo, account));
CREATE TABLE IF NOT EXISTS access_requests (
    id TEXT PRIMARY KEY, repo TEXT NOT NULL REFERENCES repos(uid) ON DELETE CASCADE,
    account TEXT NOT NULL REFERENCES accounts(id) ON DELETE CASCADE,
    status TEXT NOT NULL CHECK (status IN ('pending', 'accepted', 'rejected')), created TEXT NOT NULL, fields TEXT,
    reason TEXT, UNIQUE (repo, account));
CREATE TABLE IF NOT EXISTS webhooks (
    id TEXT PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts(id) ON DELETE CASCADE, url TEXT NOT NULL,
    secret TEXT, watched TEXT NOT NULL, domains TEXT NOT NULL, disabled INTEGER NOT NULL, created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS webhook_deliveries (
    id INTEGER PRIMARY KEY, webhook TEXT NOT NULL REFERENCES webhooks(id) ON DELETE CASCADE, body TEXT NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL);
"""


def now() -> str:
    """The current time as clients parse it: ``2026-01-31T12:00:00.000Z``; they fail on other forms of UTC."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """``moment`` in UTC, milliseconds, with a ``Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process holds the database: the same statement may succeed later."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class Database:
    """One connection, shared by the server's threads and guarded by a lock.

    While another process holds the database, a thread tries for two seconds, then raises an error that :func:`is_busy`.
    It pauses without the lock, so that other threads can read meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        path.touch(mode=0o600)
        path.chmod(0o600)
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        self._connection.row_factory = sqlite3.Row
        try:
            for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                self._connection.execute(f"PRAGMA {setting}")
            self._connection.executescript(_SCHEMA)
            row_sums.keep(self._connection)
        except UnicodeDecodeError:  # SQLite quotes the damaged schema in its error, and sqlite3 cannot read that
            self._connection.close()
            raise sqlite3.DatabaseError("the schema is not text") from None
        with self.transaction():
            self.run("INSERT OR IGNORE INTO meta VALUES ('secret', ?)", secrets.token_hex(32))
        if not re.fullmatch("[0-9a-f]{64}", self.meta("secret")):
            self._connection.close()
            raise ConflictError(
                f"{path} is damaged: the key that signs addresses is none.", hint="Restore it from a backup."
            )
        self._connection.execute("PRAGMA busy_timeout=0")

    def close(self) -> None:
        """Close the connection; what was committed is on disk already."""
        with self._lock:
            self._connection.close()

    def copy_to(self, path: Path) -> None:
        """Copy the database, as it is between two transactions, to a new file."""
        with self._lock, contextlib.closing(sqlite3.connect(path)) as copy:
            self._connection.backup(copy)
        path.chmod(0o600)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the statements inside, or none. Blocks nest: the outermost one commits."""
        begun = self._patiently(self._begin)
        try:
            yield
            if begun:
                self._connection.execute("COMMIT")
        except BaseException:
            if begun and self._connection.in_transaction:  # SQLite itself ends it when the disk is full
                self._connection.execute("ROLLBACK")
            raise
        finally:
            self._lock.release()

    @contextmanager
    def lax_transaction(self) -> Iterator[None]:
        """A transaction that a power failure may undo: it does not wait for the disk. For what can be read again."""
        with self._lock:
            lax = not self._connection.in_transaction
            if lax:
                self._connection.execute("PRAGMA synchronous=NORMAL")
            try:
                with self.transaction():
                    yield
            finally:
                if lax:
                    self._connection.execute("PRAGMA synchronous=FULL")

    def _begin(self) -> bool:
        """Begin a transaction and keep the lock; False inside one, which is not begun again."""
        begun = not self._connection.in_transaction
        if begun:
            self._connection.execute("BEGIN IMMEDIATE")
        self._lock.acquire()
        return begun

    def run(self, sql: str, *values: Any) -> int:
        """Run one statement; how many rows it changed."""
        return self._patiently(lambda: self._connection.execute(sql, values).rowcount)

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """All rows of a query."""
        return self._patiently(lambda: self._connection.execute(sql, values).fetchall())

    def _patiently(self, work: Callable[[], T]) -> T:
        """What ``work``, done with the lock, returns; tried again while another process holds the database."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            with self._lock:
                try:
                    return work()
                except sqlite3.OperationalError as error:
                    if not is_busy(error) or self._connection.in_transaction or time.monotonic() > deadline:
                        raise
            time.sleep(_PAUSE)

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        rows = self.rows(sql, *values)
        return rows[0] if rows else None

    def meta(self, key: str) -> str:
        """A value of this data folder: ``secret``, the key that signs upload addresses and the proof of the status."""
        row = self.row("SELECT value FROM meta WHERE key = ?", key)
        assert row is not None
        return str(row["value"])
