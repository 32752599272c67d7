"""Two file trees compared. Pure: what they hold is given, nothing is read.

A Hub shows the sha256 of a file in LFS and the git blob id of any other, so an entry knows one of them or
both; entries are equal when a digest that both know agrees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.core.files import Digests, Manifest, digest_of
from hubkit.core.numbers import count, counted


@dataclass(frozen=True)
class Entry:
    """One file of a tree: size in bytes, and the digests that are known of its content.

    ``git`` is the blob id of the content itself, never that of an LFS pointer.
    """

    size: int
    sha256: str | None = None
    git: str | None = None

    def same(self, other: Entry) -> bool:
        """Whether both hold the same bytes; False also when they share no kind of digest."""
        if self.size != other.size:
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        return bool(self.git) and self.git == other.git


Tree = Mapping[str, Entry]
"""A file tree: entries by path in POSIX form."""


def tree_of(manifest: Manifest) -> dict[str, Entry]:
    """The tree that ``manifest`` promises; every entry knows both digests."""
    return {path: entry_of(item) for path, item in manifest.files.items()}


def entry_of(item: Digests) -> Entry:
    """``item`` as an entry of a tree."""
    return Entry(item.size, item.sha256, item.git)


def content_entry(content: bytes) -> Entry:
    """The entry of a file with this content; it knows both digests."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return Entry(len(content), hashlib.sha256(content).hexdigest(), git)


def tree_digest(tree: Tree) -> str:
    """sha256 over the paths and the digests that a Hub shows: equal for two of its commits that hold the same files."""
    return digest_of([[path, item.size, item.sha256 or item.git] for path, item in sorted(tree.items())])


@dataclass(frozen=True)
class Change:
    """One path that differs; ``before`` or ``after`` is None when it was added or removed."""

    path: str
    before: Entry | None
    after: Entry | None

    @property
    def kind(self) -> str:
        """``added``, ``removed`` or ``changed``."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"

    def to_json(self) -> dict[str, Any]:
        """``{path, kind, before, after}``: sizes in bytes, None where there is no such file."""
        sizes = [entry.size if entry else None for entry in (self.before, self.after)]
        return {"path": self.path, "kind": self.kind, "before": sizes[0], "after": sizes[1]}

    @property
    def sentence(self) -> str:
        """The change in words, with sizes."""
        if self.before is None:
            return f"{self.path} was added ({counted(self.after.size if self.after else 0, 'byte')})"
        if self.after is None:
            return f"{self.path} was removed ({counted(self.before.size, 'byte')})"
        return f"{self.path} has other content ({count(self.before.size)} → {counted(self.after.size, 'byte')})"


@dataclass(frozen=True)
class TreeDiff:
    """What turns one tree into another, sorted by path."""

    changes: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)

    def of_kind(self, kind: str) -> tuple[Change, ...]:
        """The changes that are ``added``, ``removed`` or ``changed``."""
        return tuple(change for change in self.changes if change.kind == kind)

    @property
    def added(self) -> tuple[Change, ...]:
        """Paths that only the second tree has."""
        return self.of_kind("added")

    @property
    def removed(self) -> tuple[Change, ...]:
        """Paths that only the first tree has."""
        return self.of_kind("removed")

    @property
    def changed(self) -> tuple[Change, ...]:
        """Paths whose content differs."""
        return self.of_kind("changed")


def compare(before: Tree, after: Tree) -> TreeDiff:
    """What turns ``before`` into ``after``; empty when both hold the same files."""
    changes = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old is None or new is None or not old.same(new):
            changes.append(Change(path, old, new))
    return TreeDiff(tuple(changes))


def short_list(paths: list[str] | tuple[str, ...], most: int = 5) -> str:
    """``a, b and 3 more``: paths for a sentence."""
    if len(paths) <= most:
        return ", ".join(paths)
    return f"{', '.join(paths[:most])} and {len(paths) - most} more"
