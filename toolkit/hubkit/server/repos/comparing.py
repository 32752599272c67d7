"""Two commits compared: what differs, what conflicts, what they make together. Bounded, and computed once.

What takes its time runs in a child process with limits; its results are kept by the two commits. Paths that only one
side changed need no child.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pygit2

from hubkit.core import numbers
from hubkit.core.processes.parent import JobFailed, run_job
from hubkit.server.repos import compare_job
from hubkit.server.repos.git import Git
from hubkit.server.repos.history import changes
from hubkit.server.repos.reader import Item
from hubkit.server.storage.cache import ResultCache

FILE_LIMIT, PATCH_LIMIT, FILES = 2**18, 2**20, 300
"""Bytes of a file whose difference is shown, characters of a whole difference, files in one."""
MERGE_LIMIT = 2**20
"""Bytes of a file that is merged line by line. A larger one that both sides changed is a conflict."""
_READ_LIMIT = 2**24
_MEMORY, _SECONDS, _PATIENCE = 2**31, 8, 15.0
_CACHE_LIMIT = 2**25
_ROOM = 2**20
_LINES, _LINES_EACH, _LINE_CHARACTERS = 5000, 1000, 2000
"""Lines of a difference that a page shows, in all and of one file; characters of one of them."""
log = logging.getLogger("hubkit.server")
_Changed = dict[str, tuple[Item | None, Item | None]]


class TooLargeError(Exception):
    """A merge took longer than it may."""


@dataclass(frozen=True)
class _Sides:
    """What each of two commits changed since their merge base: item before and after, by path."""

    fork: str | None
    ours: _Changed
    theirs: _Changed

    @property
    def disputed(self) -> list[str]:
        """Paths that both changed, not in the same way; and files of one side where the other has a folder."""
        disputed = {path for path in self.ours.keys() & self.theirs.keys() if self.ours[path] != self.theirs[path]}
        for mine, other in ((self.ours, self.theirs), (self.theirs, self.ours)):
            files = {path for path, (_, after) in mine.items() if after}
            for path, (_, after) in other.items():
                parts = path.split("/") if after else []
                disputed |= files & {"/".join(parts[:end]) for end in range(1, len(parts))}
        return sorted(disputed)


def conflicts(git: Git, ours: str, theirs: str) -> list[str]:
    """Paths that both sides changed differently and that cannot be merged line by line. BusyError."""
    return list(_conflicts.get((git.path, ours, theirs), lambda: _find_conflicts(git, ours, theirs)))


def _find_conflicts(git: Git, ours: str, theirs: str) -> tuple[str, ...]:
    sides = _sides(git, ours, theirs)
    if not (disputed := sides.disputed):
        return ()
    if large := _large(git, sides, disputed):
        return tuple(large)
    try:
        return tuple(_merge(git, sides, ours, theirs, write=False)["conflicts"])
    except JobFailed as failed:
        log.warning("two commits were not merged to find their conflicts: %s: %s", failed, failed.errors)
        return tuple(disputed)


def merged_tree(git: Git, ours: str, theirs: str) -> str | None:
    """The tree of both sides together, or None when they conflict. TooLargeError when that takes too long."""
    sides = _sides(git, ours, theirs)
    disputed = sides.disputed
    if not disputed:
        return _united(git, ours, sides.theirs)
    if _large(git, sides, disputed):
        return None
    try:
        tree: str | None = _merge(git, sides, ours, theirs, write=True)["tree"]
    except JobFailed as failed:
        if shutil.disk_usage(git.path).free < _ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from failed
        log.warning("two commits were not merged: %s: %s", failed, failed.errors)
        raise TooLargeError from failed
    if tree is not None:
        git.require_written(tree)
    return tree


def diff(git: Git, old: str, new: str) -> str:
    """The difference between two commits as a patch. A file that is too large has a sentence instead. BusyError."""
    return _patches.get((git.path, old, new), lambda: _diff(git, old, new))


def _diff(git: Git, old: str, new: str) -> str:
    before, after = git.links(old).tree, git.links(new).tree
    shown: list[str] = []
    notes, total = {}, 0
    git.require_trees(before)
    git.require_trees(after)
    for path, *items in changes(git, before, after):
        size = max(git.size(item.oid) for item in items if item)
        if size > FILE_LIMIT:
            notes[path] = f"Too large to show ({numbers.size(size)})."
        elif len(shown) < FILES and total < _READ_LIMIT:
            total += size
            shown.append(path)
            _read(git, items)
    job = {
        "path": str(git.path), "old": before, "new": after, "shown": shown, "notes": notes, "most": PATCH_LIMIT,
    }  # fmt: skip
    try:
        return str(_run(job)["patch"])
    except JobFailed as failed:
        log.warning("a difference was not computed: %s: %s", failed, failed.errors)
        return "The difference takes too long to compute.\n"


def line_changes(git: Git, old: str | None, new: str, paths: Iterable[str]) -> dict[str, Any]:
    """The lines that differ between two commits in small files: ``{path: {hunks, cut, added, removed} or {binary}}``.

    ``old`` None: before the first commit. Paths whose lines are too many, or take too long, are left out. BusyError.
    """
    wanted = tuple(paths)
    return _lines.get((git.path, old, new, wanted), lambda: _line_changes(git, old, new, wanted))


def _line_changes(git: Git, old: str | None, new: str, paths: tuple[str, ...]) -> dict[str, Any]:
    trees = [git.links(commit).tree if commit else None for commit in (old, new)]
    for tree in trees:
        if tree:
            git.require_trees(tree)
            items = (git.item(tree, path) for path in paths)
            _read(git, (item for item in items if item and not item.folder))
    job = {
        "path": str(git.path), "old": trees[0], "new": trees[1], "lines": list(paths), "most_lines": _LINES,
        "most_lines_each": _LINES_EACH, "most_characters": _LINE_CHARACTERS,
    }  # fmt: skip
    try:
        files: dict[str, Any] = _run(job)["files"]
    except JobFailed as failed:
        log.warning("lines were not compared: %s: %s", failed, failed.errors)
        return {}
    return files


def _sides(git: Git, ours: str, theirs: str) -> _Sides:
    fork = git.merge_base(ours, theirs)
    base = git.links(fork).tree if fork else None

    def changed(commit: str) -> _Changed:
        return {path: (before, after) for path, before, after in changes(git, base, git.links(commit).tree)}

    return _Sides(base, changed(ours), changed(theirs))


def _large(git: Git, sides: _Sides, paths: Iterable[str]) -> list[str]:
    """The paths of which one version is too large to be merged line by line."""
    return [path for path in paths if any(git.size(item.oid) > MERGE_LIMIT for item in _versions(sides, path))]


def _versions(sides: _Sides, path: str) -> list[Item]:
    return [item for side in (sides.ours, sides.theirs) for item in side.get(path, ()) if item]


def _united(git: Git, ours: str, theirs: _Changed) -> str:
    """The tree of ``ours`` with changes that nothing of it contradicts."""
    tree = git.links(ours).tree
    git.require_trees(tree)
    index = pygit2.Index()
    index.read_tree(git.repo[tree])
    for path, (_, after) in theirs.items():
        if after is None and path in index:
            index.remove(path)
    for path, (_, after) in theirs.items():
        if after is not None:
            _read(git, (after,))
            index.add(pygit2.IndexEntry(path, pygit2.Oid(hex=after.oid), after.mode))
    written = str(index.write_tree(git.repo))
    git.require_written(written)
    return written


def _merge(git: Git, sides: _Sides, ours: str, theirs: str, *, write: bool) -> Any:
    """The merge in a child, once all that it reads was read here. JobFailed past a limit."""
    trees = {"fork": sides.fork, "ours": git.links(ours).tree, "theirs": git.links(theirs).tree}
    for tree in trees.values():
        if tree:
            git.require_trees(tree)
    for path in {*sides.ours, *sides.theirs}:
        _read(git, _versions(sides, path))
    _ = git.repo  # packs are sound, and libgit2 can open it
    incoming = str(git.incoming) if git.incoming else None
    return _run({"path": str(git.path), "incoming": incoming, "write": write, **trees})


def _read(git: Git, items: Iterable[Item | None]) -> None:
    for item in items:
        if item:
            git.objects.load(item.oid, "blob")


def _run(job: dict[str, Any]) -> Any:
    return run_job(
        Path(compare_job.__file__), job, memory=_MEMORY, cpu_seconds=_SECONDS, timeout=_PATIENCE
    )  # fmt: skip


_patches: ResultCache[str] = ResultCache(_CACHE_LIMIT, lambda text: len(text) + 1000)
_conflicts: ResultCache[tuple[str, ...]] = ResultCache(2**22, lambda paths: sum(map(len, paths)) + 1000)
_lines: ResultCache[dict[str, Any]] = ResultCache(_CACHE_LIMIT, lambda files: len(repr(files)) + 1000)
