"""Checksums of the rows of the database: what they name, and what is no damage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hubkit.server.storage import row_sums
from hubkit.server.storage.database import Database

ROWS = 5


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A closed database with some rows."""
    database = Database(tmp_path / "hub.sqlite")
    for number in range(ROWS):
        database.run("INSERT INTO meta VALUES (?, ?)", f"key{number}", "value")
        database.run("INSERT INTO accounts VALUES (?, 'user', 'n', ?, 'f', 0, 0, 'now')", str(number), str(number))
        database.run("INSERT INTO tokens VALUES (?, ?, 'l', 'write', 'now')", f"token{number}", str(number))
    database.run("UPDATE meta SET value = 'new' WHERE key = 'key1'")
    database.run("INSERT OR REPLACE INTO meta VALUES ('key2', 'another')")
    database.run("DELETE FROM accounts WHERE id = '2'")
    database.close()
    yield tmp_path / "hub.sqlite"


def changed(path: Path, *statements: str) -> list[str]:
    """What is wrong with a database after another program ran these statements."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in ("PRAGMA foreign_keys=ON", *statements):
            connection.execute(statement)
    return list(row_sums.check(path))


@pytest.mark.parametrize(
    "statements",
    [
        ["SELECT 1"],
        ["UPDATE accounts SET fullname = 'g'", "UPDATE meta SET value = 'x' WHERE key LIKE 'key%'"],
        ["DELETE FROM accounts WHERE id = '4'", "INSERT INTO accounts VALUES ('9', 'org', 'm', 'k', 'f', 0, 0, 'now')"],
        ["INSERT OR REPLACE INTO meta VALUES ('key4', 'x')", "INSERT OR REPLACE INTO meta VALUES ('key4', 'y')"],
        ["ALTER TABLE accounts ADD COLUMN age INTEGER", "ALTER TABLE tokens ADD COLUMN used TEXT DEFAULT 'no'"],
        ["VACUUM"],
    ],
)
def test_what_another_version_writes_is_no_damage(path: Path, statements: list[str]) -> None:
    assert changed(path, *statements) == []
    database = Database(path)  # and this one goes on
    database.run("UPDATE accounts SET fullname = 'h'")
    database.run("INSERT OR REPLACE INTO meta VALUES ('key3', 'z')")
    database.close()
    assert list(row_sums.check(path)) == []


@pytest.mark.parametrize("column", [[], ["ALTER TABLE accounts ADD COLUMN age INTEGER"]])
def test_a_value_that_changed_on_the_disk_is_named(path: Path, column: list[str]) -> None:
    """Such a change sets off no trigger. The first thing to do is to look: a restoration loses what came since."""
    change = "UPDATE accounts SET created = 'not' WHERE id = '1'"
    [problem] = changed(path, *column, "DROP TRIGGER accounts_before_update", change)
    assert problem.startswith("Row 2 of accounts in hub.sqlite is damaged")
    assert problem.index("Look") < problem.index("restore")
