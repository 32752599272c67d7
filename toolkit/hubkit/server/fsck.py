"""Checks a data folder: repos, refs, large files. Read-only; a server may be running."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pygit2

from hubkit.core.errors import ConflictError
from hubkit.server.accounts.accounts import Accounts
from hubkit.server.repos.git import Git
from hubkit.server.repos.lfs import OID, LfsStore
from hubkit.server.repos.store import Repo, Store
from hubkit.server.storage.database import Database
from hubkit.server.storage.folder import Folder

_DAMAGE = (pygit2.GitError, KeyError, ValueError, OSError)


def fsck(data: Path) -> list[str]:
    """The problems of a data folder, a sentence each; empty when there are none.

    Every large object is read and compared with its sha256, every ref is followed to all of its files, and every
    pointer on a ref to an object that its repo holds. ConflictError when there is no Hub in the folder.
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
    database = Database(folder.database)
    try:
        lfs = LfsStore(folder, database)
        store = Store(folder, database, Accounts(database), lfs)
        problems = list(_check_objects(folder, lfs))
        for kind in ("model", "dataset", "space"):
            for repo in store.all(kind):
                problems += [f"{repo.web}: {text}" for text in _check_repo(repo, store, lfs)]
        return problems
    finally:
        database.close()


def _check_objects(folder: Folder, lfs: LfsStore) -> Iterator[str]:
    for path in sorted(folder.lfs.rglob("*")):
        if not path.is_file():
            continue
        if not OID.fullmatch(path.name) or lfs.path(path.name) != path:
            yield f"{path} is not an LFS object."
        elif not lfs.check(path.name):
            yield f"The LFS object {path.name} is damaged: its content has another sha256."


def _check_repo(repo: Repo, store: Store, lfs: LfsStore) -> Iterator[str]:
    if not store.path(repo).is_dir():
        yield "its git folder is missing."
        return
    git = store.git(repo)
    for item in lfs.listed(repo.uid):
        if lfs.size(str(item["oid"])) != item["size"]:
            yield f"the LFS object {item['oid']} is missing or has the wrong size."
    try:
        refs = list(git.refs())
        if git.target("refs/heads/main") is None:
            yield "it has no branch main."
    except _DAMAGE as error:
        yield f"its refs cannot be read: {error}."
        return
    seen: set[str] = set()
    for ref, commit in refs:
        try:
            for step in git.history(commit):
                if str(step.id) not in seen:
                    seen.add(str(step.id))
                    yield from _check_files(git, str(step.id), ref, repo, lfs, newest=str(step.id) == commit)
        except _DAMAGE as error:
            yield f"the history of {ref} is damaged: {error}."


def _check_files(git: Git, commit: str, ref: str, repo: Repo, lfs: LfsStore, *, newest: bool) -> Iterator[str]:
    for entry in git.walk(commit) or ():
        if newest and entry.pointer and not lfs.has(repo.uid, entry.pointer.oid):
            yield f"{entry.path} on {ref} points to the LFS object {entry.pointer.oid}, which is missing."
