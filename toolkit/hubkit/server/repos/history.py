"""Walks over commits: history, what changed between two trees, the last change of each path, merge bases."""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path

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
    fresh = {one, other}  # those of them that are not stale
    found: dict[str, int] = {}  # commits that both have, with their times
    oldest = 0

    def undecided() -> bool:
        """Whether a newer one may come, or it may turn out that one of several is behind another."""
        return bool(fresh) or (len(found) > 1 and bool(waiting) and -waiting[0][0] >= oldest)

    while undecided():
        _, _, oid = heapq.heappop(waiting)
        fresh.discard(oid)
        links, mark = reader.links(oid), marks[oid]
        if mark & (ours | theirs) == ours | theirs and not mark & stale:
            oldest = min(oldest, links.time) if found else links.time
            found[oid] = links.time
            mark |= stale
        for parent in links.parents:
            if marks[parent] | mark != marks[parent]:
                marks[parent] |= mark
                heapq.heappush(waiting, (-reader.links(parent).time, next(order), parent))
                (fresh.discard if marks[parent] & stale else fresh.add)(parent)
    return next((oid for oid in found if not marks[oid] & stale), next(iter(found), None))


@lru_cache(maxsize=10_000)
def known_base(path: Path, one: str, other: str) -> str | None:
    """As :func:`merge_base`, of two commits in the repo at ``path``: it never changes, so it is kept."""
    return merge_base(Reader(path), one, other)


class Lengths:
    """How many commits there are in the history of one, itself included.

    A few are kept, of commits on the way too: a history is not walked to its first commit for each of its commits.
    """

    _MOST, _EVERY = 20_000, 200

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Path, str], int] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, reader: Reader, commit: str, stop: Callable[[], bool] = lambda: False) -> int | None:
        """The length of a history; None when ``stop()`` says so before it is known. DamagedError."""
        line: list[str] = []
        at = commit
        while (length := self._get(reader.path, at)) is None:
            if stop():
                return None
            parents = reader.links(at).parents
            if len(parents) != 1:
                length = _count(reader, at, stop) if parents else 1
                break
            line.append(at)
            (at,) = parents
        if length is None:
            return None
        found = {at: length} | {oid: length + number for number, oid in enumerate(reversed(line), 1)}
        self._keep(
            reader.path,
            {oid: count for oid, count in found.items() if not count % self._EVERY} | {commit: found[commit]},
        )
        return found[commit]

    def _get(self, path: Path, commit: str) -> int | None:
        with self._lock:
            if (found := self._known.get((path, commit))) is not None:
                self._known.move_to_end((path, commit))
            return found

    def _keep(self, path: Path, lengths: dict[str, int]) -> None:
        with self._lock:
            self._known |= {(path, commit): length for commit, length in lengths.items()}
            while len(self._known) > self._MOST:
                self._known.popitem(last=False)


def _count(reader: Reader, commit: str, stop: Callable[[], bool]) -> int | None:
    left, seen = [commit], {commit}
    while left:
        if stop():
            return None
        new = set(reader.links(left.pop()).parents) - seen
        seen |= new
        left += new
    return len(seen)
