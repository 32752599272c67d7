"""Is everything in a data folder as it should be? Read-only; a server may be running."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pygit2

from hubkit.core.errors import ConflictError
from hubkit.server.accounts import Accounts
from hubkit.server.database import Database
from hubkit.server.folder import Folder
from hubkit.server.git import Git
from hubkit.server.objects import OID, Objects
from hubkit.server.store import Repo, Store

_DAMAGE = (pygit2.GitError, KeyError, ValueError, OSError)


def fsck(data: Path) -> list[str]:
    """What is wrong in the data folder, a sentence each; empty when all is well.

    Every large object is read and compared with its sha256, every ref is followed to all of its files, and every
    pointer on a ref to an object that its repo holds. ConflictError when there is no Hub in the folder.
    """
    folder = Folder(data.resolve())
    if not folder.database.exists():
        raise ConflictError(f"There is no Hub in {folder.root}.", hint="Name its data folder.")
    try:
        return _fsck(folder)
    except sqlite3.DatabaseError as error:
        raise ConflictError(
            f"{folder.database} cannot be read: {error}.", hint="Bring it back from a backup; the files are untouched."
        ) from error


def _fsck(folder: Folder) -> list[str]:
    database = Database(folder.database)
    try:
        objects = Objects(folder, database)
        store = Store(folder, database, Accounts(database), objects)
        said = list(_large(folder, objects))
        for kind in ("model", "dataset", "space"):
            for repo in store.all(kind):
                said += [f"{repo.web}: {text}" for text in _repo(repo, store, objects)]
        return said
    finally:
        database.close()


def _large(folder: Folder, objects: Objects) -> Iterator[str]:
    for path in sorted(folder.lfs.rglob("*")):
        if not path.is_file():
            continue
        if not OID.fullmatch(path.name) or objects.path(path.name) != path:
            yield f"{path} is not an object of the store."
        elif not objects.check(path.name):
            yield f"The large object {path.name} does not have the content that its name says."


def _repo(repo: Repo, store: Store, objects: Objects) -> Iterator[str]:
    if not store.path(repo).is_dir():
        yield "its git folder is missing."
        return
    git = store.git(repo)
    for item in objects.listed(repo.uid):
        if objects.size(str(item["oid"])) != item["size"]:
            yield f"the large object {item['oid']} is missing or has another size."
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
                    yield from _commit(git, str(step.id), ref, repo, objects, newest=str(step.id) == commit)
        except _DAMAGE as error:
            yield f"the history of {ref} is damaged: {error}."


def _commit(git: Git, commit: str, ref: str, repo: Repo, objects: Objects, *, newest: bool) -> Iterator[str]:
    for entry in git.walk(commit) or ():
        if newest and entry.pointer and not objects.has(repo.uid, entry.pointer.oid):
            yield f"{entry.path} on {ref} points to the large object {entry.pointer.oid}, which is not here."
