"""Which files of a branch hubkit may delete or overwrite: one decision for publish, promote, roll back and deploy.

    decision = decide(tree, wanted, ours)
    decision.removed     files of an earlier release that are not in this one (deleted)
    decision.replaced    foreign files whose path this release uses (overwritten, reported)
    decision.kept        all other foreign files (kept, reported)

A file is ours when the manifest on the branch lists it, and foreign otherwise. Git cannot hold both a file
``adapter`` and a file ``adapter/x.json``, so a foreign ``adapter`` is replaced when the release has an
``adapter/x.json``, and a foreign ``config.json/notes.txt`` when it has a ``config.json``. Pure: trees in, a decision
out; nothing is read or written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from hubkit.core.numbers import counted
from hubkit.core.trees import Entry, Tree, compare, short_list

HUB_FILES = frozenset({".gitattributes"})
"""Files that the Hub itself writes: they are kept and not reported."""


@dataclass(frozen=True)
class Ownership:
    """The decision about the files of a branch, each tuple sorted; the module's docstring defines the fields."""

    removed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def deletions(self, wanted: Collection[str]) -> frozenset[str]:
        """The paths that a commit must delete: a replaced file of the same path as ours is overwritten instead."""
        return frozenset({*self.removed, *self.replaced} - set(wanted))

    def outcome(self, tree: Tree, wanted: Tree) -> dict[str, Entry]:
        """The tree that the branch holds afterwards."""
        gone = self.deletions(wanted)
        return {**{path: entry for path, entry in tree.items() if path not in gone}, **wanted}

    def reached(self, tree: Tree, wanted: Tree) -> bool:
        """Whether ``tree`` is such an outcome already; files that somebody added since do not matter."""
        return holds_release(tree, wanted, self.deletions(wanted))

    def sentences(self, where: str) -> list[str]:
        """What to report about the foreign files at ``where``, in up to two sentences."""
        sentences = []
        if self.replaced:
            sentences.append(f"{where}: {_unpublished(self.replaced)} overwritten: {short_list(self.replaced)}.")
        if self.kept:
            sentences.append(f"{where}: {_unpublished(self.kept)} kept: {short_list(self.kept)}.")
        return sentences


def _unpublished(paths: Collection[str]) -> str:
    """``2 files not published by hubkit are``."""
    return f"{counted(len(paths), 'file')} not published by hubkit {'is' if len(paths) == 1 else 'are'}"


def decide(
    tree: Tree, wanted: Mapping[str, Entry | None], ours: Collection[str] = (), *, exact: bool = False
) -> Ownership:
    """Which files of ``tree`` are removed, overwritten and kept when a release of the files ``wanted`` is written.

    ``ours`` are the paths that the branch's own manifest lists (none without a manifest). An entry of ``wanted`` is
    None when its content is not known yet. With ``exact`` whatever is not wanted is removed.
    """
    others = tree.keys() - wanted.keys()
    if exact:
        return Ownership(removed=tuple(sorted(others)))
    foreign = others - set(ours)
    in_the_way = set(_in_the_way(foreign, wanted))
    overwritten = {
        path
        for path in tree.keys() & wanted.keys() - set(ours) - HUB_FILES
        if (entry := wanted[path]) is None or not tree[path].same(entry)
    }
    return Ownership(
        removed=tuple(sorted(others & set(ours))),
        replaced=tuple(sorted(in_the_way | overwritten)),
        kept=tuple(sorted(foreign - in_the_way - HUB_FILES)),
    )


def _in_the_way(foreign: Iterable[str], wanted: Collection[str]) -> Iterator[str]:
    """The foreign files that are a folder of a wanted file, or lie in a folder that is a wanted file."""
    folders = {folder for path in wanted for folder in _folders(path)}
    for path in foreign:
        if path in folders or any(folder in wanted for folder in _folders(path)):
            yield path


def _folders(path: str) -> Iterator[str]:
    """'a/b/c' -> 'a', 'a/b'."""
    for end, character in enumerate(path):
        if character == "/":
            yield path[:end]


def holds_release(tree: Tree, wanted: Tree, without: Collection[str] = ()) -> bool:
    """Whether ``tree`` has every file of ``wanted`` with its content, and no file of ``without``."""
    return not compare(wanted, part_of(tree, wanted)) and tree.keys().isdisjoint(without)


def part_of(tree: Tree, paths: Collection[str]) -> dict[str, Entry]:
    """Those files of ``tree`` whose paths are among ``paths``."""
    return {path: tree[path] for path in paths if path in tree}
