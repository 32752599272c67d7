"""Git objects and refs of one bare repo: revisions, trees, commits, compare-and-swap.

Only plain names and commit ids are revisions here. Git's own revision language (``HEAD~1``, ``:/text``) is
not: it would let a request search the history.

What is read is read by :mod:`hubkit.server.repos.reader`. libgit2 writes, and is given nothing to read that was not
read before: on a damaged object it may never return.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import pygit2
from pygit2.enums import AttrCheck, ObjectType

from hubkit.core.names import ref_problem
from hubkit.server.repos import history, references
from hubkit.server.repos.objects import DamagedError, MissingError, object_id, read_regular
from hubkit.server.repos.opening import opened, require_opening
from hubkit.server.repos.quarantine import Quarantine
from hubkit.server.repos.reader import Commit, Entry, Reader, parse_tree, split_message
from hubkit.server.repos.trees import Change, changed
from hubkit.server.storage.flushing import flush_folders

__all__ = ["HIDDEN_PREFIX", "Change", "Commit", "Entry", "Git", "Move", "MovedError", "NameTakenError", "split_message"]

_OID = re.compile(r"[0-9a-f]{7,40}")
_FULL_OID = re.compile(r"[0-9a-f]{40}")
_SPECIAL = re.compile(r"refs/(heads|tags|convert|pr)/.+")
_TAGGED = re.compile(rb"object ([0-9a-f]{40})\n")
_TAGS_DEEP, _HEAD_LIMIT = 10, 4096
HIDDEN_PREFIX = "refs/pr/"
MAIN = "refs/heads/main"


class MovedError(Exception):
    """A ref is not at the commit that the caller expected."""


class NameTakenError(Exception):
    """Git cannot hold the ref ``ref`` beside the ref ``other``: one name is a folder of the other."""

    def __init__(self, ref: str, other: str) -> None:
        super().__init__(f"Reference {ref} cannot be created: git cannot hold it beside {other}.")


@dataclass(frozen=True)
class Move:
    """A move of a ref from the id ``old`` to ``new``: None where it does not exist, or shall not."""

    ref: str
    old: str | None
    new: str | None


class Git(Reader):
    """A bare repo, opened for one request. Reading raises DamagedError for what cannot be read.

    What it writes goes to the folder ``incoming`` until a ref moves to it.
    """

    @classmethod
    def create(cls, path: Path) -> Git:
        """A new bare repo whose HEAD is ``main``, without a commit."""
        pygit2.init_repository(str(path), bare=True, initial_head="main")
        return cls(path)

    @cached_property
    def _attributes_read(self) -> set[tuple[str, str]]:
        return set()

    @cached_property
    def _commits_read(self) -> set[str]:
        """Those that trees were written on: they were whole."""
        return set()

    @cached_property
    def _quarantine(self) -> Quarantine | None:
        return Quarantine(self.objects.folder, self.incoming) if self.incoming else None

    @cached_property
    def repo(self) -> pygit2.Repository:
        """libgit2's view of the repo, for writing. DamagedError when libgit2 cannot open it, or must not."""
        self.objects.check_packs()
        repo = opened(self.path)
        if self._quarantine:
            self._quarantine.serve(repo)
        return repo

    # Revisions ------------------------------------------------------------------------------------------

    def target(self, ref: str) -> str | None:
        """The commit that a full ref name leads to (through an annotated tag), or None."""
        if not pygit2.reference_is_valid_name(ref):
            return None
        oid = references.read(self.path, ref)
        return None if oid is None else self._led_to(ref, oid)

    def _led_to(self, ref: str, oid: str, packs: Hashable = None) -> str:
        try:
            commit = self.peel(oid, packs)
        except MissingError:
            raise DamagedError(f"the object {oid}, to which {ref} leads, is missing") from None
        if commit is None:
            raise DamagedError(f"{ref} does not lead to a commit")
        return commit

    def peel(self, oid: str, packs: Hashable = None) -> str | None:
        """The commit that an object is, or that a tag names; None for another object. MissingError, DamagedError."""
        for _ in range(_TAGS_DEEP):
            kind = self.objects.kind(oid, packs)
            if kind != "tag":
                return oid if kind == "commit" else None
            match = _TAGGED.match(self.objects.load(oid, "tag"))
            if match is None:
                return None
            oid = match[1].decode()
        return None

    def head(self) -> str:
        """The commit of ``main``, which every repo of this Hub has. DamagedError when it has none any more."""
        if (commit := self.target(MAIN)) is None:
            raise DamagedError("the branch main is missing")
        return commit

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, tag, ``refs/...`` name or (abbreviated) commit id, or None.

        A full commit id is that commit, whatever a branch may be called; short ids come after the names.
        """
        if revision in {"HEAD", "main", MAIN}:
            return self.head()
        if _SPECIAL.fullmatch(revision):
            return self.target(revision)
        if _FULL_OID.fullmatch(revision):
            return self._by_id(revision)
        if ref_problem(revision):
            return None
        commit = self.target(f"refs/heads/{revision}") or self.target(f"refs/tags/{revision}")
        return self._by_id(revision) if commit is None and _OID.fullmatch(revision) else commit

    def _by_id(self, prefix: str) -> str | None:
        oid = prefix if _FULL_OID.fullmatch(prefix) else self.objects.by_prefix(prefix)
        try:
            return self.peel(oid) if oid else None
        except MissingError:
            return None

    def refs(self, *, damaged: Callable[[DamagedError], None] | None = None) -> Iterator[tuple[str, str]]:
        """Full name and commit of every branch, tag, pull request and conversion.

        A ref that cannot be read raises DamagedError, or is left out when ``damaged`` takes the error.
        """
        names, packed = list(references.names(self.path)), references.packed(self.path)
        packs = self.objects.packs_version()
        for name in names:
            if not _SPECIAL.fullmatch(name):
                continue
            try:
                oid = references.read(self.path, name, known=packed)
                commit = self._led_to(name, oid, packs) if oid else None
            except DamagedError as error:
                if damaged is None:
                    raise
                damaged(error)
                continue
            if commit:
                yield name, commit

    def check_for_git(self) -> None:
        """DamagedError for a ref that cannot be read, or a HEAD that is not ``main``: git leaves them out and says
        nothing of it.
        """
        list(self.refs())
        try:
            head = read_regular(self.path / "HEAD", _HEAD_LIMIT)
        except OSError as error:
            raise DamagedError(f"HEAD cannot be read: {error}") from error
        if head.split() != [b"ref:", MAIN.encode()]:
            raise DamagedError("HEAD does not name the branch main")

    # Trees ----------------------------------------------------------------------------------------------

    def entry(self, commit: str, path: str) -> Entry | None:
        """The file or folder at ``path``, or None."""
        item = self.item(self.links(commit).tree, path) if path else None
        return self.entry_of(path, item) if item else None

    def walk(self, commit: str, path: str = "", *, recursive: bool = True) -> Iterator[Entry] | None:
        """The entries below a folder in git's order, or None when there is no such folder."""
        tree = self.links(commit).tree
        if path:
            item = self.item(tree, path)
            if item is None or not item.folder:
                return None
            tree = item.oid
        return self.below(tree, f"{path}/" if path else "", recursive=recursive)

    def is_large(self, commit: str, path: str) -> bool:
        """Whether ``.gitattributes`` of the commit sends ``path`` to git-lfs."""
        self._read_attributes(commit, path)
        flags = AttrCheck.INDEX_ONLY | AttrCheck.NO_SYSTEM | AttrCheck.INCLUDE_COMMIT
        try:
            return bool(self.repo.get_attr(path, "filter", flags, commit) == "lfs")
        except (pygit2.GitError, KeyError) as error:
            raise DamagedError(f"the attributes of {path} cannot be read: {error}") from error

    def _read_attributes(self, commit: str, path: str) -> None:
        """Read what libgit2 is about to read: the folders above a path, and the attributes in them."""
        folder = commit, path.rpartition("/")[0]
        if folder in self._attributes_read:
            return
        self._attributes_read.add(folder)
        tree = self.commit(commit).tree
        for name in (*path.split("/")[:-1], None):
            self.objects.load(tree, "tree")
            items = self.tree(tree)
            if (attributes := items.get(".gitattributes")) and not attributes.folder and not attributes.module:
                self.blob(attributes.oid)
            below = items.get(name) if name is not None else None
            if below is None or not below.folder:
                return
            tree = below.oid

    # History --------------------------------------------------------------------------------------------

    def history(self, commit: str) -> Iterator[Commit]:
        """Commits, newest first."""
        return history.history(self, commit)

    def last_changes(
        self, commit: str, paths: Iterable[str], stop: Callable[[], bool] = lambda: False
    ) -> dict[str, Commit]:
        """For each path the newest commit that changed it; fewer when ``stop()`` ended the walk."""
        return {path: self.commit(oid) for path, oid in history.last_changes(self, commit, paths, stop).items()}

    def merge_base(self, one: str, other: str) -> str | None:
        """The merge base of two commits, or None. What two commits have in common never changes: it is kept."""
        return history.merge_base(self, one, other) if self.incoming else history.known_base(self.path, one, other)

    # Writing --------------------------------------------------------------------------------------------

    def write_blob(self, content: bytes) -> pygit2.Oid:
        """Store a blob; nothing refers to it yet."""
        return pygit2.Oid(hex=self._write("blob", content))

    def write_tree(self, base: str | None, changes: Iterable[Change]) -> pygit2.Oid:
        """The tree of commit ``base`` with ``changes``, in order.

        Raises FileNotFoundError naming the path when something is removed that is not there.
        """
        tree = self.commit(base).tree if base else None
        if base:
            self._commits_read.add(base)
        return pygit2.Oid(
            hex=changed(
                lambda oid: self.objects.load(oid, "tree"), lambda content: self._write("tree", content), tree, changes
            )
        )

    def _write(self, kind: str, content: bytes) -> str:
        if self._quarantine:
            return self._quarantine.write(kind, content)
        self.objects.discard_damaged(oid := object_id(kind, content))
        self._require_stored(self.repo.write(ObjectType[kind.upper()], content))
        return oid

    def require_written(self, tree: str) -> None:
        """Read a tree that was written, and all below it: a damaged tree of the same id would not be written again.

        OSError when one was not stored: on a full disk libgit2 may return an id all the same.
        """
        left = [tree]
        while left:
            oid = left.pop()
            self._require_stored(pygit2.Oid(hex=oid))
            left += [item.oid for item in parse_tree(oid, self.objects.load(oid, "tree")).values() if item.folder]

    def _require_stored(self, oid: pygit2.Oid) -> None:
        if oid not in self.repo.odb:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_commit(self, tree: pygit2.Oid, parents: list[str], message: str, author: str) -> str:
        """Store a commit; no ref moves. ``author`` is an account's name."""
        for parent in set(parents) - self._commits_read:
            self.objects.load(parent, "commit")
        who = self._signature(author)
        lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {who}", f"committer {who}"]
        return self._write("commit", "\n".join([*lines, "", message]).encode())

    def move(self, ref: str, new: str, old: str | None, *, then: Callable[[], None] | None = None) -> None:
        """Point ``ref`` at ``new`` if it is still at ``old`` (None: does not exist); else MovedError.

        NameTakenError when another ref is in its way. What else fails is libgit2's error, such as a full disk.
        When ``then``, which is called last, raises, the ref is moved back, and so it is when the disk refuses the move.
        """
        self.value(ref)  # libgit2 is not to find out that it is damaged
        if old is None:
            _ = self.repo  # which creates it
        else:
            self.objects.check_packs()
            require_opening(self.path)
        accepted: AbstractContextManager[list[Path]] = nullcontext([])
        with self._quarantine.accepted() if self._quarantine else accepted as added:
            kept, folders = (
                self._quarantine.keep(ref) if self._quarantine and old else None,
                references.folders(self.path, ref),
            )
            try:
                self._move(ref, new, old)
            except (pygit2.GitError, ValueError, OSError) as error:
                if (value := self.value(ref)) != new:  # else it failed after the ref was moved: nothing may be removed
                    if other := self._in_the_way(ref):
                        raise NameTakenError(ref, other) from error
                    if value != old:
                        raise MovedError(ref) from error
                    raise
            try:
                flush_folders(folders)
                if then:
                    then()
            except BaseException:
                try:
                    self._move_back(Move(ref, old, new), kept)
                except BaseException:
                    added.clear()  # the ref still leads to them
                    raise
                raise

    def move_all(
        self,
        moves: Sequence[Move],
        *,
        begin: Callable[[], None] = lambda: None,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Make all ``moves`` or none; fails as :meth:`move` does.

        ``begin`` is called when the repo has the objects and no ref has moved, ``then`` when all have.
        """
        for move in moves:
            if self.value(move.ref) != move.old:
                raise MovedError(move.ref)
        self._require_room(moves)
        _ = self.repo
        accepted: AbstractContextManager[list[Path]] = nullcontext([])
        with self._quarantine.accepted() if self._quarantine else accepted as added:
            begin()
            done: list[tuple[Move, Path | None]] = []
            try:
                for number, move in enumerate(sorted(moves, key=lambda item: item.new is not None)):
                    kept = self._quarantine.keep(move.ref, number) if self._quarantine and move.old else None
                    done.append((move, kept))
                    if move.new is None:
                        self.delete_ref(move.ref)
                    else:
                        folders = references.folders(self.path, move.ref)
                        self._move(move.ref, move.new, move.old)
                        flush_folders(folders)
                then()
            except BaseException:
                try:
                    for move, kept in reversed(done):
                        if self.value(move.ref) != move.old:
                            self._move_back(move, kept)
                except BaseException:
                    added.clear()  # a ref still leads to them
                    raise
                raise

    def _require_room(self, moves: Sequence[Move]) -> None:
        """NameTakenError when one name of a ref would be a folder of another, after all ``moves``.

        MovedError for a ref that exists under another spelling only, as on a disk that ignores the case of letters.
        """
        listed = set(references.names(self.path))
        if other := next((move.ref for move in moves if move.old and move.ref not in listed), None):
            raise MovedError(other)
        gone = {move.ref for move in moves if move.new is None}
        names = sorted({*listed, *(move.ref for move in moves)} - gone)
        new = {move.ref for move in moves if move.new and not move.old}
        above = set(names)
        for name in names:
            parts = name.split("/")
            for folder in ("/".join(parts[:end]) for end in range(3, len(parts))):
                if folder in above and not new.isdisjoint((name, folder)):
                    raise NameTakenError(*((name, folder) if name in new else (folder, name)))

    def _move(self, ref: str, new: str, old: str | None) -> None:
        if old is None:
            self.repo.references.create(ref, new, force=False)
            return
        if not references.move(self.path, ref, new, old):
            raise MovedError(ref)

    def _move_back(self, move: Move, kept: Path | None) -> None:
        """Undo a move. Not by libgit2 where the ref has a file: the repo may have been damaged meanwhile."""
        ref, old = move.ref, move.old
        if kept:
            kept.replace(self.path / ref)  # needs no room on the disk
        elif old is None:
            self.delete_ref(ref)
        elif move.new is None or not references.move(self.path, ref, old, move.new):
            self.repo.references.create(ref, old, force=True)

    def value(self, ref: str) -> str | None:
        """The id that a ref holds, without a look at that object, or None. DamagedError."""
        return references.read(self.path, ref)

    def _in_the_way(self, ref: str) -> str | None:
        parts = ref.split("/")
        for above in ("/".join(parts[:end]) for end in range(3, len(parts))):
            if self.value(above):
                return above
        return next((name for name in references.names(self.path) if name.startswith(f"{ref}/")), None)

    def tag(self, name: str, commit: str, message: str, author: str) -> None:
        """A tag at a commit, annotated when there is a message; fails as :meth:`move` does."""
        if message:
            head = f"object {commit}\ntype commit\ntag {name}\ntagger {self._signature(author)}"
            commit = self._write("tag", f"{head}\n\n{message}".encode())
        self.move(f"refs/tags/{name}", commit, None)

    def _signature(self, author: str) -> str:
        who = pygit2.Signature(author, f"{author}@users.noreply.hub.local", int(datetime.now(UTC).timestamp()), 0)
        return f"{who.name} <{who.email}> {who.time} +0000"

    def delete_ref(self, ref: str) -> None:
        """Remove a ref. OSError when it may come back after a power cut."""
        self.repo.references.delete(ref)
        flush_folders(references.folders(self.path, ref)[-1:])  # libgit2 removes those that are empty now
