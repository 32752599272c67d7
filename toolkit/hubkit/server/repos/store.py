"""Repos: list, find, create, move, delete; the git folder of each.

A repo's folder is named by an id that never changes, so that renaming is one row and no file moves.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pygit2
from pygit2.enums import ConfigLevel

from hubkit.server.accounts.accounts import Accounts, Actor
from hubkit.server.repos.git import Change, Git
from hubkit.server.repos.lfs import LfsStore
from hubkit.server.storage.database import Database, now
from hubkit.server.storage.flushing import flush_files, flush_folders
from hubkit.server.storage.folder import Folder

RepoType = Literal["model", "dataset", "space", "kernel"]
REPO_TYPES: tuple[RepoType, ...] = ("model", "dataset", "space", "kernel")
"""Kernels are repos like any other, without pages of their own."""
# What .gitattributes of a new repo sends to git-lfs: the binary formats of weights, arrays, archives and media.
_LARGE = (
    "7z arrow avro bin bz2 ckpt ftz gguf gz h5 joblib lz4 mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl "
    "pt pth rar safetensors tar tflite tgz wasm xz zip zst"
)
_LARGE_MEDIA = "aac bmp flac gif jpeg jpg mds mp3 mp4 ogg pcm png raw tiff wav webm webp"


@dataclass(frozen=True)
class Repo:
    """One repo as the database knows it. ``gated`` is "", "auto" or "manual"."""

    uid: str
    type: RepoType
    namespace: str
    name: str
    private: bool
    gated: str
    sdk: str | None
    creator: str
    created: str

    @property
    def id(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def web(self) -> str:
        """The path of its pages: ``ns/name``, ``datasets/ns/name``, ``spaces/ns/name``."""
        return self.id if self.type == "model" else f"{self.type}s/{self.id}"

    @classmethod
    def of(cls, row: sqlite3.Row) -> Repo:
        """A repo from its row."""
        return cls(
            row["uid"], row["type"], row["namespace"], row["name"], bool(row["private"]), row["gated"],
            row["sdk"], row["creator"], row["created"],
        )  # fmt: skip


class RepoExistsError(Exception):
    """A repo of that name exists already."""


class Store:
    """The repos of one data folder."""

    def __init__(self, folder: Folder, database: Database, accounts: Accounts, lfs: LfsStore) -> None:
        self._folder, self._db, self._accounts, self._lfs = folder, database, accounts, lfs
        self._locks: dict[str, threading.RLock] = {}
        self.collected: Counter[str] = Counter()
        """How often garbage was collected in each repo, by its internal id: who found an object before looks again."""

    def lock(self, repo: Repo) -> threading.RLock:
        """The lock to hold while a ref of the repo is read and moved."""
        return self._locks.setdefault(repo.uid, threading.RLock())

    def path(self, repo: Repo) -> Path:
        """The bare git folder."""
        return self._folder.git / f"{repo.uid}.git"

    def git(self, repo: Repo) -> Git:
        """The git repo, opened for one request (libgit2's objects must not be shared between threads)."""
        return Git(self.path(repo))

    @contextmanager
    def writing(self, repo: Repo) -> Iterator[Git]:
        """The git repo, opened to write: what no ref was moved to is removed again."""
        with self._writing(self.path(repo)) as git:
            yield git

    @contextmanager
    def _writing(self, path: Path) -> Iterator[Git]:
        incoming = Path(tempfile.mkdtemp(dir=self._folder.spool))
        try:
            yield Git(path, incoming)
        finally:
            try:
                incoming.rmdir()  # empty, as a rule
            except OSError:
                shutil.rmtree(incoming, ignore_errors=True)

    def uids(self) -> set[str]:
        """Internal ids of all repos."""
        return {row["uid"] for row in self._db.rows("SELECT uid FROM repos")}

    def by_uid(self, uid: str) -> Repo | None:
        """A repo by its internal id."""
        row = self._db.row("SELECT * FROM repos WHERE uid = ?", uid)
        return Repo.of(row) if row else None

    def find(self, kind: str, repo_id: str) -> Repo | None:
        """A repo by type and id, by an earlier id when it was moved; the case of letters does not matter."""
        key = repo_id.lower()
        row = self._db.row("SELECT * FROM repos WHERE type = ? AND key = ?", kind, key) or self._db.row(
            "SELECT repos.* FROM aliases JOIN repos ON repos.uid = aliases.repo "
            "WHERE aliases.type = ? AND aliases.key = ?",
            kind, key,
        )  # fmt: skip
        return Repo.of(row) if row else None

    def all(self, kind: str) -> list[Repo]:
        """Every repo of a type, newest first."""
        return [Repo.of(row) for row in self._db.rows("SELECT * FROM repos WHERE type = ? ORDER BY created DESC", kind)]

    def create(
        self, kind: RepoType, namespace: str, name: str, *, actor: Actor, private: bool | None, sdk: str | None = None,
        fill: Callable[[Git, str], Iterable[str]] = lambda git, head: (),
        complete: Callable[[Repo], None] = lambda repo: None,
    ) -> Repo:  # fmt: skip
        """A new repo with its first commit; RepoExistsError when the name is taken. The caller checks rights.

        ``fill`` is given the repo and its first commit before anybody sees it, may move ``main``, and returns the LFS
        objects that the repo is to have; ``complete`` writes what else the database is to know of it.
        """
        account = self._accounts.ensure_namespace(namespace, actor)
        uid = uuid.uuid4().hex
        repo = Repo(
            uid, kind, account.name, name, account.private_repos if private is None else private, "", sdk,
            actor.name, now(),
        )  # fmt: skip
        if self._taken(kind, repo.id):
            raise RepoExistsError(repo.id)
        unborn = self._folder.git / f"{uid}.new"
        try:
            objects = self._make(unborn, lambda git: fill(git, _first_commit(git, kind, name, sdk, actor.name)))
            unborn.replace(self.path(repo))
            flush_folders([self._folder.git])
            with self._lfs.lock, self._db.transaction():
                self._insert(repo)
                for oid in objects:
                    self._lfs.give(uid, oid)
                complete(repo)
        except BaseException as error:
            for folder in (unborn, self.path(repo)):
                shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, sqlite3.IntegrityError):
                raise RepoExistsError(repo.id) from None
            raise
        return repo

    def _make(self, root: Path, fill: Callable[[Git], Iterable[str]]) -> list[str]:
        """Make the git folder of a repo, on disk at the end. Those LFS objects of ``fill`` that are sound."""
        Git.create(root)
        with self._writing(root) as git:
            objects = list(fill(git))
        damaged = set(self._lfs.flush(objects))
        flush_files([root / "HEAD", root / "config"])
        flush_folders([root, root / "refs"])
        return [oid for oid in objects if oid not in damaged]

    def _insert(self, repo: Repo) -> None:
        self._db.run("DELETE FROM aliases WHERE type = ? AND key = ?", repo.type, repo.id.lower())
        self._db.run(
            "INSERT INTO repos (uid, type, namespace, name, key, private, gated, sdk, creator, created) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            repo.uid, repo.type, repo.namespace, repo.name, repo.id.lower(), repo.private, "", repo.sdk,
            repo.creator, repo.created,
        )  # fmt: skip

    def _taken(self, kind: str, repo_id: str) -> bool:
        return self._db.row("SELECT 1 FROM repos WHERE type = ? AND key = ?", kind, repo_id.lower()) is not None

    def delete(self, repo: Repo) -> None:
        """Delete a repo: first its row, so that no request sees half of it, then its files."""
        with self.lock(repo):
            oids = [str(item["oid"]) for item in self._lfs.listed(repo.uid)]
            self._db.run("DELETE FROM repos WHERE uid = ?", repo.uid)
            shutil.rmtree(self.path(repo), ignore_errors=True)
        self._lfs.collect(oids)

    def move(self, repo: Repo, namespace: str, name: str, *, actor: Actor) -> Repo:
        """Give a repo another id; the old one keeps working. RepoExistsError when the name is taken."""
        with self._db.transaction():
            account = self._accounts.ensure_namespace(namespace, actor)
            new = f"{account.name}/{name}"
            if new.lower() != repo.id.lower() and self._taken(repo.type, new):
                raise RepoExistsError(new)
            self._db.run("DELETE FROM aliases WHERE type = ? AND key = ?", repo.type, new.lower())
            self._db.run(
                "UPDATE repos SET namespace = ?, name = ?, key = ? WHERE uid = ?",
                account.name, name, new.lower(), repo.uid,
            )  # fmt: skip
            if new.lower() != repo.id.lower():
                self._db.run("INSERT OR REPLACE INTO aliases VALUES (?, ?, ?)", repo.type, repo.id.lower(), repo.uid)
            moved = self.by_uid(repo.uid)
        assert moved is not None
        return moved

    def change_settings(self, repo: Repo, *, private: bool | None = None, gated: str | None = None) -> None:
        """Change who may see a repo, and who may read its files."""
        if private is not None:
            self._db.run("UPDATE repos SET private = ? WHERE uid = ?", private, repo.uid)
        if gated is not None:
            self._db.run("UPDATE repos SET gated = ? WHERE uid = ?", gated, repo.uid)


def _first_commit(git: Git, kind: str, name: str, sdk: str | None, author: str) -> str:
    """The first commit of a new repo, to which ``main`` is moved."""
    first = [Change(".gitattributes", git.write_blob(default_attributes(kind)))]
    if kind == "space":
        first.append(Change("README.md", git.write_blob(default_space_card(name, sdk or "static"))))
    commit = git.write_commit(git.write_tree(None, first), [], "initial commit", author)
    git.move("refs/heads/main", commit, None)
    return commit


def default_attributes(kind: str) -> bytes:
    """The ``.gitattributes`` of a new repo; without it clones by git-lfs would see pointers only."""
    names = _LARGE.split() + (_LARGE_MEDIA.split() if kind == "dataset" else [])
    patterns = [f"*.{name}" for name in names] + ["*.tar.*", "*tfevents*", "saved_model/**/*"]
    return "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in sorted(patterns)).encode()


def default_space_card(name: str, sdk: str) -> bytes:
    """The README of a new Space: a Space cannot be built without one."""
    start = {"gradio": "app_file: app.py\n", "streamlit": "app_file: app.py\n"}.get(sdk, "")
    title = json.dumps(name.replace("-", " ").replace("_", " ").title())
    head = f"---\ntitle: {title}\nemoji: 🚀\ncolorFrom: blue\ncolorTo: green\nsdk: {sdk}\n{start}pinned: false\n---\n"
    return head.encode()


pygit2.settings.enable_fsync_gitdir(True)
# In containers the folder may belong to another user; the serving lock says that it is this server's.
pygit2.settings.owner_validation = False
# Repos must not depend on the git settings of the user who started the server.
for _level in (ConfigLevel.PROGRAMDATA, ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL):
    pygit2.settings.search_path[_level] = ""
