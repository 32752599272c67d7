"""Checks a data folder: the database, repos, refs, large files. Read-only; a server may be running."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from hubkit.core.errors import ConflictError
from hubkit.core.files import os_error
from hubkit.server.accounts.accounts import Accounts
from hubkit.server.repos import references
from hubkit.server.repos.git import MAIN, Git
from hubkit.server.repos.lfs import OID, LfsStore
from hubkit.server.repos.objects import DamagedError
from hubkit.server.repos.reader import parse_tree
from hubkit.server.repos.store import REPO_TYPES, Repo, Store
from hubkit.server.storage import row_sums
from hubkit.server.storage.database import Database
from hubkit.server.storage.folder import Folder
from hubkit.server.xet.store import XetStore

_HEAD = b"ref: refs/heads/main\n"
_CONFIG = {"\tbare = true", "\trepositoryformatversion = 0"}
_SETTING = re.compile(
    r"\t(bare|filemode|ignorecase|precomposeunicode|symlinks|repositoryformatversion) = (true|false|0)"
)
"""The settings of a repo that libgit2 makes, on any system."""


def fsck(data: Path) -> list[str]:
    """The problems of a data folder, a sentence each; empty when there are none.

    Every row of the database is compared with its checksum, every large object with its sha256, every git object with
    its id; every ref is followed to all of its files, and every pointer on a ref to an object that its repo holds. A
    damaged repo does not hide the others.
    ConflictError when there is no Hub in the folder.
    """
    folder = Folder(data.resolve())
    if not folder.database.exists():
        raise ConflictError(f"There is no Hub in {folder.root}.", hint="Give the data folder of an embedded Hub.")
    try:
        return _check_folder(folder)
    except sqlite3.DatabaseError as error:
        raise ConflictError(
            f"{folder.database} cannot be read: {error}.",
            hint="Restore it from a backup; the repos and files are not affected.",
        ) from error


def _check_folder(folder: Folder) -> list[str]:
    try:
        database = Database(folder.database)
    except OSError as error:  # a disk that can only be read, say: SQLite itself has to write beside the file
        raise os_error(error, folder.database) from error
    try:
        lfs = LfsStore(folder, database)
        lost = lfs.lost()
        store = Store(folder, database, Accounts(database), lfs)
        problems = [
            *row_sums.check(folder.database),
            *_check_objects(folder, lfs, lost),
            *XetStore(folder, database, lfs).check(),
        ]
        for kind in REPO_TYPES:
            for repo in store.all(kind):
                problems += [f"{repo.web}: {text}" for text in _check_repo(repo, store, lfs, lost)]
        return problems
    finally:
        database.close()


def _check_objects(folder: Folder, lfs: LfsStore, lost: set[str]) -> Iterator[str]:
    for path in sorted(folder.lfs.rglob("*")):
        is_object = OID.fullmatch(path.name) and lfs.path(path.name) == path
        if path.is_dir() and not path.is_symlink():
            if is_object:
                yield f"The LFS object {path.name} is damaged: it is a folder."
            continue
        if not is_object:
            yield f"{path} is not an LFS object."
            continue
        try:
            if path.name not in lost and not lfs.check(path.name):
                yield f"The LFS object {path.name} is damaged: its content has another sha256."
        except OSError as error:
            yield f"The LFS object {path.name} cannot be read: {error.strerror or error}."


def _check_repo(repo: Repo, store: Store, lfs: LfsStore, lost: set[str]) -> Iterator[str]:
    """What is wrong with one repo. A problem hides no other one, unless what it is about cannot be read.

    The objects in ``lost`` may be missing, if no file points to them.
    """
    root = store.path(repo)
    if not root.is_dir():
        yield "its git folder is missing."
        return
    git = store.git(repo)
    for item in lfs.listed(repo.uid):
        if item["oid"] not in lost and lfs.size(str(item["oid"])) != item["size"]:
            yield f"the LFS object {item['oid']} is missing or has the wrong size."
    yield from _check_settings(root)
    yield from _problems(lambda: git.objects.check_packs())
    yield from _problems(lambda: git.repo)
    damaged: set[str] = set()
    yield from _check_loose(git, damaged)
    yield from _check_refs(git, damaged, lambda oid: oid not in lost and lfs.has(repo.uid, oid))


def _check_settings(root: Path) -> Iterator[str]:
    """HEAD and config, which the Hub itself does not need, and git does for clones and pushes."""
    try:
        if (root / "HEAD").read_bytes() != _HEAD:
            yield f"HEAD is damaged: it must be the line {_HEAD.decode().strip()!r}."
        first, *lines, end = (root / "config").read_text(encoding="utf-8").split("\n")
        if first != "[core]" or end or not set(lines) >= _CONFIG or not all(map(_SETTING.fullmatch, lines)):
            yield "config is damaged: copy that of another repo."
    except (OSError, ValueError) as error:
        yield f"HEAD and config cannot be read: {error}."


def _problems(read: Callable[[], object]) -> Iterator[str]:
    try:
        read()
    except DamagedError as error:
        yield f"{error}."
    except OSError as error:
        yield f"{error.filename or 'a file'} cannot be read: {error.strerror or error}."


def _check_loose(git: Git, damaged: set[str]) -> Iterator[str]:
    """Every loose object, in use or not. ``damaged`` gets the ids of those that cannot be read."""
    try:
        for path in sorted(git.objects.folder.iterdir()):
            if len(path.name) == 2 and (path.is_symlink() or not path.is_dir()):
                yield f"objects/{path.name} is not a folder."
        for oid in git.objects.loose():
            for problem in _problems(partial(git.objects.read, oid)):
                damaged.add(oid)
                yield problem
    except OSError as error:
        yield f"its objects cannot be listed: {error.strerror or error}."


def _check_refs(git: Git, damaged: set[str], stored: Callable[[str], bool]) -> Iterator[str]:
    """Every ref, and whatever is reached from it. ``stored`` says whether the repo has a large file."""
    try:
        names = list(references.names(git.path))
    except (DamagedError, OSError) as error:
        yield f"its refs cannot be read: {error}."
        names = [MAIN]
    heads = []
    for name in names:
        try:
            if commit := git.target(name):
                heads.append((name, commit))
        except (DamagedError, OSError) as error:
            yield f"its refs cannot be read: {error}."
    if MAIN not in names:
        yield "it has no branch main."
    seen: set[str] = set()
    for ref, commit in heads:
        yield from _check_history(git, ref, commit, seen, damaged)
        try:
            for entry in git.walk(commit) or ():
                if entry.pointer and not stored(entry.pointer.oid):
                    yield f"{entry.path} on {ref} points to the LFS object {entry.pointer.oid}, which is missing."
        except DamagedError:
            pass  # said above


def _check_history(git: Git, ref: str, commit: str, seen: set[str], damaged: set[str]) -> Iterator[str]:
    """Everything that a commit needs and that is not in ``seen`` or known to be damaged, each named once."""
    left = [("commit", commit)]
    while left:
        kind, oid = left.pop()
        if oid in seen:
            continue
        seen.add(oid)
        try:
            content = git.objects.load(oid, kind)
            if kind == "commit":
                parsed = git.commit(oid)
                left += [("tree", parsed.tree), *(("commit", parent) for parent in parsed.parents)]
            elif kind == "tree":
                items = [item for item in parse_tree(oid, content).values() if not item.module]
                left += [("tree" if item.folder else "blob", item.oid) for item in items]
        except DamagedError as error:
            if oid not in damaged:
                yield f"the history of {ref} is damaged: {error}."
