"""Checksums of the rows of the database: SQLite has none, and a bit that changed on the disk would be read as it is.

A row gets its sum by a trigger in the transaction that writes it. These triggers belong to this connection and not to
the file, so that other programs can open it. Those in the file only remove the sum of a row that changes: a row that
another program or an earlier version wrote has none until the Hub itself changes it. A later version may add columns,
which come last: a sum counts for those that there were. One that removes columns must remove the sums of the table.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

_SUMS = "row_sums"
SCHEMA = f"CREATE TABLE IF NOT EXISTS {_SUMS} (tab TEXT, id INTEGER, sum TEXT, PRIMARY KEY (tab, id)) WITHOUT ROWID"


def _sum(*values: object) -> str:
    found = hashlib.blake2b(digest_size=8)
    for value in values:
        raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
        found.update(b"%s %d " % (type(value).__name__.encode(), len(raw)) + raw)
    return found.hexdigest()


def keep(connection: sqlite3.Connection) -> None:
    """Have this connection keep the sums of what it writes."""
    connection.execute(SCHEMA)
    connection.create_function("row_sum", -1, _sum, deterministic=True)
    there = {name for (name, *_) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'trigger'")}
    needed = {
        name: f"CREATE TRIGGER IF NOT EXISTS main.{name} BEFORE {event} ON {table} "
        f"BEGIN DELETE FROM {_SUMS} WHERE tab = '{table}' AND id = OLD.rowid; END"
        for table in _tables(connection)
        for event in ("UPDATE", "DELETE")
        if (name := f"{table}_before_{event.lower()}") not in there
    }
    if needed:
        connection.executescript("BEGIN IMMEDIATE; " + "; ".join(needed.values()) + "; COMMIT")
    for table in _tables(connection):
        new = ", ".join(f"NEW.{column}" for column in _columns(connection, table))
        for event in ("INSERT", "UPDATE"):
            connection.execute(
                f"CREATE TEMP TRIGGER {table}_{event.lower()} AFTER {event} ON main.{table} "
                f"BEGIN INSERT OR REPLACE INTO {_SUMS} VALUES ('{table}', NEW.rowid, row_sum({new})); END"
            )


def check(path: Path) -> Iterator[str]:
    """What is wrong with a database, a sentence each: its structure, then every row that has another sum."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        for (problem,) in connection.execute("PRAGMA integrity_check(20)"):
            if problem != "ok":
                yield f"The database {path.name} is damaged: {problem}. Restore it from a backup."
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [_SUMS]).fetchone():
            return  # of an earlier version
        for table in _tables(connection):
            columns = ", ".join(f"t.{column}" for column in _columns(connection, table))
            rows = connection.execute(
                f"SELECT s.sum, t.rowid, {columns} FROM {_SUMS} AS s JOIN {table} AS t ON t.rowid = s.id "
                f"WHERE s.tab = '{table}'"
            )
            for found, number, *values in rows:
                if not any(_sum(*values[:count]) == found for count in range(len(values), 0, -1)):
                    yield (
                        f"Row {number} of {table} in {path.name} is damaged: it is not what the Hub wrote. Look at "
                        "what the Hub shows of it and change it there; restore a backup only if that does not help."
                    )


def _tables(connection: sqlite3.Connection) -> list[str]:
    names = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY name")
    return [name for (name, *_) in names if name != _SUMS and not name.startswith("sqlite_")]


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [str(row[1]) for row in connection.execute(f"PRAGMA main.table_info({table})")]
