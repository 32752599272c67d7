"""New trees from an old one and changes to it. Only the folders on the way to a change are read and written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pygit2

from hubkit.server.repos.objects import DamagedError, object_id

_FILE, _FOLDER = b"100644", b"40000"
_OLD_FOLDER = b"040000"
"""As some old programs wrote it."""
_ITEM = re.compile(rb"([0-7]{5,6}) ([^\0]+)\0(.{20})", re.DOTALL)
_AS_USUAL = re.compile(rb"(?:[0-7]{5,6} [^\0]+\0.{20})*+", re.DOTALL)
_SHORT = 2**20
"""Bytes of a tree up to which it is read at once, in which time no other thread runs: some 30 ms."""
Read = Callable[[str], bytes]
Write = Callable[[bytes], str]


@dataclass(frozen=True)
class Change:
    """One line of a commit: a new blob at ``path``, or with ``blob`` None its removal (``folder``: all below)."""

    path: str
    blob: pygit2.Oid | None
    folder: bool = False


@dataclass
class _Folder:
    """A folder: of each name its mode and id, or the folder itself once it was read."""

    items: dict[bytes, tuple[bytes, bytes] | _Folder] = field(default_factory=dict)
    oid: str = ""


def changed(read: Read, write: Write, base: str | None, changes: Iterable[Change]) -> str:
    """The id of the tree ``base`` with ``changes``, in order. ``read`` gets the content of a tree, ``write`` stores it.

    FileNotFoundError naming the path when something is removed that is not there. What a new file replaces goes: a
    folder of its name, and files where its folders must be. A folder without a file is none.
    """
    return _Trees(read, write).changed(base, changes)


class _Trees:
    def __init__(self, read: Read, write: Write) -> None:
        self._read, self._write = read, write

    def changed(self, base: str | None, changes: Iterable[Change]) -> str:
        root = self._open(base) if base else _Folder()
        for change in changes:
            if change.blob is not None:
                self._add(root, change.path, change.blob)
            else:
                self._remove(root, change)
        return self._stored(root) or self._write(b"")

    def _open(self, oid: str) -> _Folder:
        return _Folder(dict(_items(oid, self._read(oid))), oid)

    def _below(self, folder: _Folder, name: bytes) -> _Folder | None:
        """The folder of this name, read; None when there is none."""
        item = folder.items.get(name)
        if isinstance(item, tuple):
            if item[0] not in (_FOLDER, _OLD_FOLDER):
                return None
            item = folder.items[name] = self._open(item[1].hex())
        return item

    def _add(self, folder: _Folder, path: str, blob: pygit2.Oid) -> None:
        *above, name = path.encode().split(b"/")
        for part in above:
            below = self._below(folder, part)
            if below is None:
                below = folder.items[part] = _Folder()
            folder = below
        folder.items[name] = (_FILE, blob.raw)

    def _remove(self, folder: _Folder, change: Change) -> None:
        *above, name = change.path.rstrip("/").encode().split(b"/")
        for part in above:
            below = self._below(folder, part)
            if below is None:
                raise FileNotFoundError(change.path.rstrip("/"))
            folder = below
        below = self._below(folder, name)
        there = (name in folder.items and not change.folder) if below is None else self._has_files(below)
        if not there:
            raise FileNotFoundError(change.path.rstrip("/"))
        del folder.items[name]

    def _has_files(self, folder: _Folder) -> bool:
        return any((below := self._below(folder, name)) is None or self._has_files(below) for name in folder.items)

    def _stored(self, folder: _Folder) -> str | None:
        """The id of a folder, which is stored unless it is as it was read; None for one without files."""
        items: dict[bytes, tuple[bytes, bytes]] = {}
        for name, item in folder.items.items():
            if isinstance(item, tuple):
                items[name] = (_FOLDER, item[1]) if item[0] == _OLD_FOLDER else item
            elif below := self._stored(item):
                items[name] = (_FOLDER, bytes.fromhex(below))
        if not items:
            return None
        order = sorted(items, key=lambda name: name + b"/" if items[name][0] == _FOLDER else name)
        content = b"".join([items[name][0] + b" " + name + b"\0" + items[name][1] for name in order])
        return folder.oid if folder.oid and object_id("tree", content) == folder.oid else self._write(content)


def _items(oid: str, content: bytes) -> Iterable[tuple[bytes, tuple[bytes, bytes]]]:
    if len(content) <= _SHORT and _AS_USUAL.fullmatch(content):
        return [(name, (mode, raw)) for mode, name, raw in _ITEM.findall(content)]
    return _one_by_one(oid, content)


def _one_by_one(oid: str, content: bytes) -> Iterable[tuple[bytes, tuple[bytes, bytes]]]:
    start, end = 0, len(content)
    while start < end:
        space = content.find(b" ", start, start + 8)
        null = content.find(b"\0", space + 1) if space > 0 else -1
        if null < 0 or null + 21 > end:
            raise DamagedError(f"the tree {oid} is not written as git does")
        yield content[space + 1 : null], (content[start:space], content[null + 1 : null + 21])
        start = null + 21
