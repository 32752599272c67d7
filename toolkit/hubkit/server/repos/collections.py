"""Collections: lists of repos, papers and other collections, each with a title, and notes on its items.

An item that is a repo follows it when it is moved, and goes when it is deleted. The slug is made of the title; the id
at its end stays.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hubkit.server.repos.store import Repo, Store
from hubkit.server.storage.database import Database, now

TITLE_LIMIT, DESCRIPTION_LIMIT, NOTE_LIMIT = 59, 150, 500
"""Characters, as the Hub limits them."""
THEMES = ("blue", "green", "indigo", "orange", "pink", "purple")
REPO_TYPES = ("model", "dataset", "space")
_ID = re.compile(r"[0-9a-f]{24}")
_PAPER = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7}")
_MOST_ITEMS = 1000


class TakenError(Exception):
    """Such a collection, or such an item in it, is there already."""


class NoItemError(Exception):
    """What is to be added does not exist."""


@dataclass(frozen=True)
class Collection:
    """One collection as the database knows it."""

    id: str
    namespace: str
    title: str
    description: str | None
    private: bool
    theme: str
    position: int
    created: str
    updated: str

    @property
    def slug(self) -> str:
        """``namespace/words-of-the-title-id``."""
        return f"{self.namespace}/{_words(self.title)}-{self.id}"

    @classmethod
    def of(cls, row: sqlite3.Row) -> Collection:
        """A collection from its row."""
        return cls(
            row["id"], row["namespace"], row["title"], row["description"], bool(row["private"]), row["theme"],
            row["position"], row["created"], row["updated"],
        )  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One item: ``type`` is model, dataset, space, paper or collection; ``repo`` is the uid of a repo."""

    id: str
    type: str
    repo: str | None
    name: str
    note: str | None


def _words(title: str) -> str:
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "collection"


class Collections:
    """The collections of one data folder."""

    def __init__(self, database: Database, store: Store) -> None:
        self._db, self._store = database, store

    def find(self, slug: str) -> Collection | None:
        """A collection by the id at the end of its slug, whatever its title was when the slug was made."""
        found = _ID.fullmatch(slug[-24:])
        row = self._db.row("SELECT * FROM collections WHERE id = ?", found[0]) if found else None
        namespace = slug.partition("/")[0]
        return Collection.of(row) if row and row["namespace"].lower() == namespace.lower() else None

    def by_id(self, collection: str) -> Collection | None:
        """A collection by its id."""
        row = self._db.row("SELECT * FROM collections WHERE id = ?", collection)
        return Collection.of(row) if row else None

    def all(self, namespace: str = "") -> list[Collection]:
        """Every collection, or those of a namespace: in the order of their owner, the last changed first."""
        rows = self._db.rows("SELECT * FROM collections ORDER BY position, updated DESC, id")
        found = map(Collection.of, rows)
        return [item for item in found if not namespace or item.namespace.lower() == namespace.lower()]

    def holding(self, kind: str, name: str) -> list[Collection]:
        """The collections that hold a repo (by its id), a paper or a collection (by its slug)."""
        repo = self._store.find(kind, name) if kind in REPO_TYPES else None
        key = ("repo", repo.uid) if repo else ("name", name[-24:] if kind == "collection" else name)
        rows = self._db.rows(
            "SELECT collections.* FROM collections JOIN collection_items AS item ON collections.id = item.collection "
            f"WHERE item.type = ? AND item.{key[0]} = ? ORDER BY collections.updated DESC",
            kind, key[1],
        )  # fmt: skip
        return [Collection.of(row) for row in rows]

    def create(self, namespace: str, title: str, description: str | None, *, private: bool) -> Collection:
        """A new collection. TakenError when the namespace has one of that title: it is the error's argument."""
        with self._db.transaction():
            for other in self.all(namespace):
                if other.title == title:
                    raise TakenError(other)
            made = secrets.token_hex(12)
            self._db.run(
                "INSERT INTO collections VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                made, namespace, title, description, int(private), THEMES[int(made[:2], 16) % len(THEMES)],
                len(self.all(namespace)), now(), now(),
            )  # fmt: skip
            row = self._db.row("SELECT * FROM collections WHERE id = ?", made)
            assert row is not None
            return Collection.of(row)

    def change(self, collection: Collection, changes: dict[str, Any]) -> None:
        """Change its title, description, theme, position or who can see it."""
        names = ", ".join(f"{name} = ?" for name in changes)
        with self._db.transaction():
            if changes:
                self._db.run(f"UPDATE collections SET {names} WHERE id = ?", *changes.values(), collection.id)
            self._touch(collection)

    def delete(self, collection: Collection) -> None:
        """Delete it with its items, and as an item of others."""
        with self._db.transaction():
            self._db.run("DELETE FROM collections WHERE id = ?", collection.id)
            self._db.run("DELETE FROM collection_items WHERE type = 'collection' AND name = ?", collection.id)

    def items(self, collection: Collection) -> list[Item]:
        """Its items in their order."""
        rows = self._db.rows(
            "SELECT * FROM collection_items WHERE collection = ? ORDER BY position, rowid", collection.id
        )
        return [Item(row["id"], row["type"], row["repo"], row["name"], row["note"]) for row in rows]

    def add(self, collection: Collection, kind: str, name: str, note: str | None, repo: Repo | None = None) -> None:
        """Add an item at the end. TakenError when it is there, NoItemError when there is nothing of that name."""
        other = self.find(name) if kind == "collection" else None
        if (kind == "paper" and not _PAPER.fullmatch(name)) or (kind == "collection" and other is None):
            raise NoItemError(name)
        with self._db.transaction():
            items = self.items(collection)
            key = other.id if other else name
            if any(item.type == kind and (item.repo == repo.uid if repo else item.name == key) for item in items):
                raise TakenError(name)
            if len(items) >= _MOST_ITEMS:
                raise NoItemError(f"more than {_MOST_ITEMS} items")
            self._db.run(
                "INSERT INTO collection_items VALUES (?, ?, ?, ?, ?, ?, ?)",
                secrets.token_hex(12), collection.id, kind, repo.uid if repo else None, key, note, len(items),
            )  # fmt: skip
            self._touch(collection)

    def change_item(self, collection: Collection, item: Item, note: str | None, position: int | None) -> None:
        """Change the note of an item (None: as it is), or move it to a position from 0 on."""
        with self._db.transaction():
            if note is not None:
                self._db.run("UPDATE collection_items SET note = ? WHERE id = ?", note or None, item.id)
            if position is not None:
                others = [other.id for other in self.items(collection) if other.id != item.id]
                others.insert(max(0, position), item.id)
                self._number(others)
            self._touch(collection)

    def remove(self, collection: Collection, item: Item) -> None:
        """Remove an item."""
        with self._db.transaction():
            self._db.run("DELETE FROM collection_items WHERE id = ?", item.id)
            self._number([other.id for other in self.items(collection)])
            self._touch(collection)

    def _number(self, ids: Sequence[str]) -> None:
        for position, item in enumerate(ids):
            self._db.run("UPDATE collection_items SET position = ? WHERE id = ?", position, item)

    def _touch(self, collection: Collection) -> None:
        self._db.run("UPDATE collections SET updated = ? WHERE id = ?", now(), collection.id)
