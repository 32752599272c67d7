"""Git objects and refs of one bare repo: revisions, trees, commits, compare-and-swap.

Only plain names and commit ids are revisions here. Git's own revision language (``HEAD~1``, ``:/text``) is
not: it would let a request search the history.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pygit2
from pygit2.enums import AttrCheck, FileMode, ObjectType, SortMode

from hubkit.core.names import ref_problem
from hubkit.server.repos.lfs import POINTER_LIMIT, Pointer, read_pointer
from hubkit.server.repos.quarantine import Quarantine

_OID = re.compile(r"[0-9a-f]{7,40}")
_FULL_OID = re.compile(r"[0-9a-f]{40}")
_SPECIAL = re.compile(r"refs/(heads|tags|convert|pr)/.+")
HIDDEN_PREFIX = "refs/pr/"


class MovedError(Exception):
    """A ref is not at the commit that the caller expected."""


class NameTakenError(Exception):
    """Git cannot hold the ref ``ref`` beside the ref ``other``: one name is a folder of the other."""

    def __init__(self, ref: str, other: str) -> None:
        super().__init__(f"Reference {ref} cannot be created: git cannot hold it beside {other}.")


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
class Change:
    """One line of a commit: a new blob at ``path``, or with ``blob`` None its removal (``folder``: all below)."""

    path: str
    blob: pygit2.Oid | None
    folder: bool = False


class Git:
    """A bare repo, opened for one request. What it writes goes to the folder ``incoming`` until a ref moves to it."""

    def __init__(self, path: Path, incoming: Path | None = None) -> None:
        self.repo = pygit2.Repository(str(path))
        self._quarantine = Quarantine(self.repo, incoming) if incoming else None

    @classmethod
    def create(cls, path: Path) -> Git:
        """A new bare repo whose HEAD is ``main``, without a commit."""
        pygit2.init_repository(str(path), bare=True, initial_head="main")
        return cls(path)

    # Revisions ------------------------------------------------------------------------------------------

    def target(self, ref: str) -> str | None:
        """The commit that a full ref name leads to (through an annotated tag), or None."""
        if not pygit2.reference_is_valid_name(ref):
            return None
        reference = self.repo.references.get(ref)
        return str(reference.peel(pygit2.Commit).id) if reference else None

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, tag, ``refs/...`` name or (abbreviated) commit id, or None.

        A full commit id is that commit, whatever a branch may be called; short ids come after the names.
        """
        if revision == "HEAD":
            revision = "main"
        if _SPECIAL.fullmatch(revision):
            return self.target(revision)
        if _FULL_OID.fullmatch(revision):
            return self._by_id(revision)
        if ref_problem(revision):
            return None
        commit = self.target(f"refs/heads/{revision}") or self.target(f"refs/tags/{revision}")
        return self._by_id(revision) if commit is None and _OID.fullmatch(revision) else commit

    def _by_id(self, oid: str) -> str | None:
        try:
            return str(self.repo[oid].peel(pygit2.Commit).id)
        except (KeyError, ValueError, pygit2.GitError):
            return None

    def refs(self) -> Iterator[tuple[str, str]]:
        """Full name and commit of every branch, tag, pull request and conversion."""
        for name in self.repo.listall_references():
            if _SPECIAL.fullmatch(name) and (commit := self.target(name)):
                yield name, commit

    def commit(self, oid: str) -> pygit2.Commit:
        """The commit object."""
        return self.repo[oid].peel(pygit2.Commit)

    # Trees ----------------------------------------------------------------------------------------------

    def blob(self, oid: str) -> bytes:
        """The content of a blob."""
        return bytes(self.repo[oid].data)

    def _entry(self, path: str, item: pygit2.Object) -> Entry:
        if item.type == ObjectType.TREE:
            return Entry(path, str(item.id), True, 0, None, 0)
        pointer = read_pointer(item.data) if item.size < POINTER_LIMIT else None
        return Entry(path, str(item.id), False, pointer.size if pointer else item.size, pointer, item.size)

    def entry(self, commit: str, path: str) -> Entry | None:
        """The file or folder at ``path``, or None."""
        try:
            item = self.commit(commit).tree[path]
        except (KeyError, ValueError):
            return None
        return self._entry(path, item) if item.type in {ObjectType.BLOB, ObjectType.TREE} else None

    def walk(self, commit: str, path: str = "", *, recursive: bool = True) -> Iterator[Entry] | None:
        """The entries below a folder in git's order, or None when there is no such folder."""
        tree = self.commit(commit).tree
        if path:
            try:
                item = tree[path]
            except (KeyError, ValueError):
                return None
            if item.type != ObjectType.TREE:
                return None
            tree = item
        return self._walk(tree, f"{path}/" if path else "", recursive)

    def _walk(self, tree: pygit2.Tree, prefix: str, recursive: bool) -> Iterator[Entry]:
        for item in tree:
            if item.type not in {ObjectType.BLOB, ObjectType.TREE}:
                continue
            entry = self._entry(prefix + item.name, item)
            yield entry
            if recursive and entry.folder:
                yield from self._walk(item, f"{entry.path}/", recursive)

    def is_large(self, commit: str, path: str) -> bool:
        """Whether ``.gitattributes`` of the commit sends ``path`` to git-lfs."""
        flags = AttrCheck.INDEX_ONLY | AttrCheck.NO_SYSTEM | AttrCheck.INCLUDE_COMMIT
        return bool(self.repo.get_attr(path, "filter", flags, commit) == "lfs")

    # History --------------------------------------------------------------------------------------------

    def history(self, commit: str) -> Iterator[pygit2.Commit]:
        """Commits, newest first."""
        return iter(self.repo.walk(pygit2.Oid(hex=commit), SortMode.TOPOLOGICAL | SortMode.TIME))

    def last_changes(self, commit: str, paths: Iterable[str]) -> dict[str, pygit2.Commit]:
        """For each path the newest commit that changed it."""

        def at(which: pygit2.Commit, path: str) -> str | None:
            try:
                return str(which.tree[path].id)
            except KeyError:
                return None

        remaining, changes = set(paths), {}
        for step in self.history(commit):
            if not remaining:
                break
            for path in list(remaining):
                blob = at(step, path)
                if blob and all(at(parent, path) != blob for parent in step.parents):
                    changes[path] = step
                    remaining.discard(path)
        return changes

    # Merging --------------------------------------------------------------------------------------------

    def merge_base(self, one: str, other: str) -> str | None:
        """The merge base of two commits, or None."""
        base = self.repo.merge_base(pygit2.Oid(hex=one), pygit2.Oid(hex=other))
        return str(base) if base else None

    def diff(self, old: str, new: str) -> str:
        """The difference between two commits as a patch."""
        return self.repo.diff(self.commit(old), self.commit(new)).patch or ""

    def conflicts(self, ours: str, theirs: str) -> list[str]:
        """Paths that both sides changed differently."""
        index = self.repo.merge_commits(pygit2.Oid(hex=ours), pygit2.Oid(hex=theirs))
        sides = (next(side for side in conflict if side) for conflict in index.conflicts or ())
        return sorted({side.path for side in sides})

    def merged_tree(self, ours: str, theirs: str) -> pygit2.Oid | None:
        """The tree of both sides together, or None when they conflict."""
        index = self.repo.merge_commits(pygit2.Oid(hex=ours), pygit2.Oid(hex=theirs))
        if index.conflicts:
            return None
        written = index.write_tree(self.repo)
        self._require_trees(written)
        return written

    # Writing --------------------------------------------------------------------------------------------

    def write_blob(self, content: bytes) -> pygit2.Oid:
        """Store a blob; nothing refers to it yet."""
        if self._quarantine:
            return self._quarantine.write_blob(content)
        blob = self.repo.create_blob(content)
        self._require_stored(blob)
        return blob

    def write_tree(self, base: str | None, changes: Iterable[Change]) -> pygit2.Oid:
        """The tree of commit ``base`` with ``changes``, in order.

        Raises FileNotFoundError naming the path when something is removed that is not there.
        """
        index = pygit2.Index()
        if base:
            index.read_tree(self.commit(base).tree)
        for change in changes:
            if change.blob is not None:
                self._clear_way(index, change.path)
                index.add(pygit2.IndexEntry(change.path, change.blob, FileMode.BLOB))
            else:
                self._remove(index, change)
        written = index.write_tree(self.repo)
        self._require_trees(written)
        return written

    def _require_trees(self, tree: pygit2.Oid) -> None:
        """OSError when a tree or one below it was not stored: on a full disk libgit2 may return an id all the same."""
        self._require_stored(tree)
        if self._quarantine is None or self._quarantine.has(tree):
            for item in self.repo[tree]:
                if item.type == ObjectType.TREE:
                    self._require_trees(item.id)

    def _require_stored(self, oid: pygit2.Oid) -> None:
        if oid not in self.repo.odb:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _clear_way(self, index: pygit2.Index, path: str) -> None:
        """Remove what a new file replaces: a folder of its name, and files where its folders must be."""
        parts = path.split("/")
        for end in range(1, len(parts)):
            if (above := "/".join(parts[:end])) in index:
                index.remove(above)
        if path not in index:
            index.remove_directory(path)

    def _remove(self, index: pygit2.Index, change: Change) -> None:
        path = change.path.rstrip("/")
        if not change.folder and path in index:
            index.remove(path)
            return
        before = len(index)
        index.remove_directory(path)
        if len(index) == before:
            raise FileNotFoundError(path)

    def write_commit(self, tree: pygit2.Oid, parents: list[str], message: str, author: str) -> str:
        """Store a commit; no ref moves. ``author`` is an account's name."""
        signature, above = self._signature(author), [pygit2.Oid(hex=parent) for parent in parents]
        commit = self.repo.create_commit(None, signature, signature, message, tree, above)
        self._require_stored(commit)
        return str(commit)

    def move(self, ref: str, new: str, old: str | None, *, then: Callable[[], None] = lambda: None) -> None:
        """Point ``ref`` at ``new`` if it is still at ``old`` (None: does not exist); else MovedError.

        NameTakenError when another ref is in its way. What else fails is libgit2's error, such as a full disk.
        When ``then``, which is called last, raises, the ref is moved back.
        """
        accepted: AbstractContextManager[list[Path]] = nullcontext([])
        with self._quarantine.accepted() if self._quarantine else accepted as added:
            kept = self._quarantine.keep(ref) if self._quarantine and old else None
            try:
                self._move(ref, new, old)
            except (pygit2.GitError, ValueError, OSError) as error:
                if other := self._in_the_way(ref):
                    raise NameTakenError(ref, other) from error
                if self.value(ref) != old:
                    raise MovedError(ref) from error
                raise
            try:
                then()
            except BaseException:
                try:
                    self._move_back(ref, old, kept)
                except BaseException:
                    added.clear()  # the ref still leads to them
                    raise
                raise

    def _move(self, ref: str, new: str, old: str | None) -> None:
        if old is None:
            self.repo.references.create(ref, new, force=False)
            return
        reference = self.repo.references.get(ref)
        if reference is None or str(reference.target) != old:
            raise MovedError(ref)
        # libgit2 compares with the value it has read and refuses when another process moved the ref since.
        reference.set_target(new)

    def _move_back(self, ref: str, old: str | None, kept: Path | None) -> None:
        if kept:
            kept.replace(Path(self.repo.path) / ref)  # needs no room on the disk
        elif old:
            self.repo.references.create(ref, old, force=True)
        else:
            self.delete_ref(ref)

    def value(self, ref: str) -> str | None:
        """The id that a ref holds, without a look at that object, or None."""
        reference = self.repo.references.get(ref)
        return str(reference.target) if reference else None

    def _in_the_way(self, ref: str) -> str | None:
        parts = ref.split("/")
        for above in ("/".join(parts[:end]) for end in range(3, len(parts))):
            if self.value(above):
                return above
        return next((name for name in self.repo.listall_references() if name.startswith(f"{ref}/")), None)

    def tag(self, name: str, commit: str, message: str, author: str) -> None:
        """A tag at a commit, annotated when there is a message; fails as :meth:`move` does."""
        if message:
            signed = self._signature(author)
            head = (
                f"object {commit}\ntype commit\ntag {name}\ntagger {signed.name} <{signed.email}> {signed.time} +0000"
            )
            commit = str(self.repo.write(ObjectType.TAG, f"{head}\n\n{message}".encode()))
        self.move(f"refs/tags/{name}", commit, None)

    def _signature(self, author: str) -> pygit2.Signature:
        return pygit2.Signature(author, f"{author}@users.noreply.hub.local", int(datetime.now(UTC).timestamp()), 0)

    def delete_ref(self, ref: str) -> None:
        """Remove a ref."""
        self.repo.references.delete(ref)


def split_message(message: str) -> tuple[str, str]:
    """First line of a commit message, and what follows it."""
    title, _, rest = message.strip("\n").partition("\n")
    return title, rest.strip("\n")


def commit_time(commit: pygit2.Commit) -> datetime:
    """The time of a commit, UTC."""
    return datetime.fromtimestamp(commit.commit_time, UTC)
