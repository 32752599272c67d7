"""What the objects of a repo say: commits, trees, files. Nothing here writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from hubkit.server.repos.lfs import POINTER_LIMIT, Pointer, read_pointer
from hubkit.server.repos.objects import DamagedError, Objects

_SIGNATURE = re.compile(rb"(.*?) ?<[^>]*> (-?[0-9]{1,15})(?: [+-][0-9]{2,5})?")
_OID = re.compile(r"[0-9a-f]{40}")
_FOLDER, _MODULE = 0o040000, 0o160000
_SMALL_TREE = 40_000
"""Bytes of a tree, about a thousand entries, up to which it is kept in memory."""
_DEEPEST = 500


@dataclass(frozen=True)
class Entry:
    """One file or folder of a tree. ``size`` is that of the file itself, 0 for folders."""

    path: str
    oid: str
    folder: bool
    size: int
    pointer: Pointer | None
    pointer_size: int

    @property
    def etag(self) -> str:
        """What identifies the content to clients: the sha256 of large files, the git blob id of others."""
        return self.pointer.oid if self.pointer else self.oid


@dataclass(frozen=True)
class Links:
    """What history is walked by: the tree of a commit, its parents, its time in seconds."""

    tree: str
    parents: tuple[str, ...]
    time: int


@dataclass(frozen=True)
class Commit:
    """A commit. ``author`` is a name; ``time`` that of the committer."""

    id: str
    tree: str
    parents: tuple[str, ...]
    author: str
    time: datetime
    message: str


@dataclass(frozen=True)
class Item:
    """A line of a tree object."""

    name: str
    oid: str
    mode: int

    @property
    def folder(self) -> bool:
        """Whether it is a tree."""
        return self.mode == _FOLDER

    @property
    def module(self) -> bool:
        """Whether it names a commit of another repo, which this Hub leaves out everywhere."""
        return self.mode == _MODULE


Tree = dict[str, Item]


class Reader:
    """The commits and trees of one bare repo. DamagedError for whatever cannot be read.

    Small things are kept in memory by their digest, so what was read once is right whatever becomes of its file. Not by
    who writes: objects in ``incoming`` may never become the repo's.
    """

    def __init__(self, path: Path, incoming: Path | None = None) -> None:
        self.path, self.incoming = path, incoming
        self.objects = Objects(path, incoming)

    def commit(self, oid: str) -> Commit:
        """A commit with its message."""
        return parse_commit(oid, self.objects.load(oid, "commit"))

    def links(self, commit: str) -> Links:
        """Tree, parents and time of a commit."""
        return _read_links(self.objects, commit) if self.incoming else _links(self.path, commit)

    def tree(self, oid: str) -> Tree:
        """The entries of one tree object by name, in git's order."""
        small = None if self.incoming else _small_tree(self.path, oid)
        return parse_tree(oid, self.objects.load(oid, "tree")) if small is None else small

    def blob(self, oid: str) -> bytes:
        """The content of a blob."""
        return self.objects.load(oid, "blob")

    def size(self, blob: str) -> int:
        """Bytes of a blob."""
        return self._fact(blob)[0]

    def _fact(self, blob: str) -> tuple[int, Pointer | None]:
        return _read_fact(self.objects, blob) if self.incoming else _fact(self.path, blob)

    def entry_of(self, path: str, item: Item) -> Entry:
        """An item of a tree as an entry at ``path``."""
        if item.folder:
            return Entry(path, item.oid, True, 0, None, 0)
        size, pointer = self._fact(item.oid)
        return Entry(path, item.oid, False, pointer.size if pointer else size, pointer, size)

    def item(self, tree: str, path: str) -> Item | None:
        """The item at ``path`` below a tree, or None."""
        *folders, name = path.split("/")
        for folder in folders:
            above = self.tree(tree).get(folder)
            if above is None or not above.folder:
                return None
            tree = above.oid
        found = self.tree(tree).get(name)
        return None if found is None or found.module else found

    def below(self, tree: str, prefix: str = "", *, recursive: bool = True, depth: int = 0) -> Iterator[Entry]:
        """The entries below a tree, in git's order; their paths start with ``prefix``."""
        if depth > _DEEPEST:
            raise DamagedError(f"the folders of the tree {tree} are nested too deeply")
        for item in self.tree(tree).values():
            if item.module:
                continue
            entry = self.entry_of(prefix + item.name, item)
            yield entry
            if recursive and item.folder:
                yield from self.below(item.oid, f"{entry.path}/", depth=depth + 1)

    def require_trees(self, tree: str) -> None:
        """Read a tree and all trees below it: libgit2 may then read them, too. DamagedError."""
        left = [tree]
        while left:
            for item in parse_tree(oid := left.pop(), self.objects.load(oid, "tree")).values():
                if item.folder:
                    left.append(item.oid)


def parse_commit(oid: str, content: bytes) -> Commit:
    """A commit from the content of its object. DamagedError."""
    head, _, body = content.partition(b"\n\n")
    tree, parents, author, time, encoding = "", [], b"", None, "utf-8"
    for line in head.split(b"\n"):
        key, _, value = line.partition(b" ")
        if key == b"tree" and not tree:
            tree = value.decode("ascii", "replace")
        elif key == b"parent":
            parents.append(value.decode("ascii", "replace"))
        elif key in {b"author", b"committer"} and (match := _SIGNATURE.fullmatch(value)):
            if key == b"author":
                author = match[1]
            else:
                time = int(match[2])
        elif key == b"encoding":
            encoding = value.decode("ascii", "replace")
    if not all(_OID.fullmatch(name) for name in (tree, *parents)) or time is None:
        raise DamagedError(f"the commit {oid} is not written as git does")
    return Commit(oid, tree, tuple(parents), _text(author, encoding), _moment(time), _text(body, encoding))


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _text(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding, "replace")
    except (LookupError, ValueError):
        return content.decode("utf-8", "replace")


def parse_tree(oid: str, content: bytes) -> Tree:
    """The items of a tree object by name. A name that is no UTF-8 is shown with replacement characters."""
    items, start, end = {}, 0, len(content)
    while start < end:
        space = content.find(b" ", start, start + 8)
        null = content.find(b"\0", space + 1) if space > 0 else -1
        if null < 0 or null + 21 > end:
            raise DamagedError(f"the tree {oid} is not written as git does")
        try:
            mode = int(content[start:space], 8)
        except ValueError:
            raise DamagedError(f"the tree {oid} is not written as git does") from None
        name = content[space + 1 : null].decode("utf-8", "replace")
        items[name] = Item(name, content[null + 1 : null + 21].hex(), mode)
        start = null + 21
    return items


@lru_cache(maxsize=65_536)
def _links(path: Path, oid: str) -> Links:
    return _read_links(Objects(path), oid)


def _read_links(objects: Objects, oid: str) -> Links:
    commit = parse_commit(oid, objects.load(oid, "commit"))
    return Links(commit.tree, commit.parents, int(commit.time.timestamp()))


@lru_cache(maxsize=1024)
def _small_tree(path: Path, oid: str) -> Tree | None:
    """A tree; None when it is too large to be kept. Callers do not change it."""
    content = Objects(path).load(oid, "tree")
    return parse_tree(oid, content) if len(content) <= _SMALL_TREE else None


@lru_cache(maxsize=100_000)
def _fact(path: Path, oid: str) -> tuple[int, Pointer | None]:
    return _read_fact(Objects(path), oid)


def _read_fact(objects: Objects, oid: str) -> tuple[int, Pointer | None]:
    """Bytes of a blob, and the pointer that it holds."""
    content = objects.load(oid, "blob")
    return len(content), read_pointer(content) if len(content) < POINTER_LIMIT else None


def split_message(message: str) -> tuple[str, str]:
    """First line of a commit message, and what follows it."""
    title, _, rest = message.strip("\n").partition("\n")
    return title, rest.strip("\n")
