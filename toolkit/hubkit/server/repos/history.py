"""Walks over commits: history, what changed between two trees, the last change of each path, merge bases."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import count

from hubkit.server.repos.reader import Commit, Item, Reader, Tree

_NOTHING: Tree = {}


def history(reader: Reader, commit: str) -> Iterator[Commit]:
    """Commits, newest first, none before a child of it."""
    return (reader.commit(oid) for oid in ids(reader, commit))


def ids(reader: Reader, commit: str) -> Iterator[str]:
    """The ids of :func:`history`. As long as there is one line of commits only those asked for are read."""
    while len(parents := reader.links(commit).parents) == 1:
        yield commit
        (commit,) = parents
    if not parents:
        yield commit
        return
    children: dict[str, int] = defaultdict(int)
    left, seen = [commit], {commit}
    while left:
        for parent in reader.links(left.pop()).parents:
            children[parent] += 1
            if parent not in seen:
                seen.add(parent)
                left.append(parent)
    order = count()
    ready = [(-reader.links(commit).time, next(order), commit)]
    while ready:
        _, _, oid = heapq.heappop(ready)
        yield oid
        for parent in reader.links(oid).parents:
            children[parent] -= 1
            if not children[parent]:
                heapq.heappush(ready, (-reader.links(parent).time, next(order), parent))


def changes(
    reader: Reader, old: str | None, new: str, prefix: str = ""
) -> Iterator[tuple[str, Item | None, Item | None]]:
    """The files that differ between two trees: path, item before, item after. Equal folders are not read."""
    before, after = reader.tree(old) if old else _NOTHING, reader.tree(new)
    yield from _changes(reader, before, after, prefix)


def _changes(reader: Reader, before: Tree, after: Tree, prefix: str) -> Iterator[tuple[str, Item | None, Item | None]]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        folders = [item if item and item.folder else None for item in (old, new)]
        files = [item if item and not item.folder and not item.module else None for item in (old, new)]
        if any(files):
            yield f"{prefix}{name}", files[0], files[1]
        if any(folders):
            trees = [reader.tree(item.oid) if item else _NOTHING for item in folders]
            yield from _changes(reader, trees[0], trees[1], f"{prefix}{name}/")


def last_changes(
    reader: Reader, commit: str, paths: Iterable[str], stop: Callable[[], bool] = lambda: False
) -> dict[str, str]:
    """For each path the newest commit that changed it, found in one walk. Ends early when ``stop()`` says so."""
    wanted: dict[str, set[str]] = defaultdict(set)  # names by their folder
    for path in paths:
        folder, _, name = path.rpartition("/")
        wanted[folder].add(name)
    found: dict[str, str] = {}
    for oid in ids(reader, commit):
        if not wanted or stop():
            break
        links = reader.links(oid)
        parents = [reader.links(parent).tree for parent in links.parents]
        if links.tree in parents:
            continue
        for folder in list(wanted):
            here = _folder(reader, links.tree, folder)
            if here is None:
                continue
            above = [_folder(reader, tree, folder) for tree in parents]
            if here in above:
                continue
            items, others = reader.tree(here), [reader.tree(tree) if tree else _NOTHING for tree in above]
            for name in list(wanted[folder]):
                if (item := items.get(name)) and all(_oid(other, name) != item.oid for other in others):
                    found[f"{folder}/{name}" if folder else name] = oid
                    wanted[folder].discard(name)
            if not wanted[folder]:
                del wanted[folder]
    return found


def _oid(tree: Tree, name: str) -> str | None:
    item = tree.get(name)
    return item.oid if item else None


def _folder(reader: Reader, tree: str, path: str) -> str | None:
    """The tree of a folder below a tree, or None."""
    if not path:
        return tree
    item = reader.item(tree, path)
    return item.oid if item and item.folder else None


def merge_base(reader: Reader, one: str, other: str) -> str | None:
    """A newest common ancestor of two commits, or None. Only what is newer than it is read, and a little more."""
    ours, theirs, stale = 1, 2, 4
    marks: dict[str, int] = defaultdict(int)
    marks[one] |= ours
    marks[other] |= theirs
    order = count()
    waiting = [(-reader.links(oid).time, next(order), oid) for oid in {one, other}]
    heapq.heapify(waiting)
    found: dict[str, int] = {}  # commits that both have, with their times

    def undecided() -> bool:
        """Whether a newer one may come, or it may turn out that one of several is behind another."""
        if any(not marks[oid] & stale for _, _, oid in waiting):
            return True
        return len(found) > 1 and bool(waiting) and -waiting[0][0] >= min(found.values())

    while undecided():
        _, _, oid = heapq.heappop(waiting)
        mark = marks[oid]
        if mark & (ours | theirs) == ours | theirs and not mark & stale:
            found[oid] = reader.links(oid).time
            mark |= stale
        for parent in reader.links(oid).parents:
            if marks[parent] | mark != marks[parent]:
                marks[parent] |= mark
                heapq.heappush(waiting, (-reader.links(parent).time, next(order), parent))
    return next((oid for oid in found if not marks[oid] & stale), next(iter(found), None))
