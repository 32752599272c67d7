"""Large files: stored once each by sha256, and readable only through a repo they were given to.

Possession is per repo. A pointer file that names an object is not enough to read it; otherwise anybody could
commit a pointer to a private repo's object and download it.
"""

from __future__ import annotations

import hashlib
import re
import stat
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hubkit.server.repos.objects import DamagedError
from hubkit.server.storage.database import Database, now
from hubkit.server.storage.flushing import flush_files, flush_folders
from hubkit.server.storage.folder import Folder

OID = re.compile(r"[0-9a-f]{64}")
MEDIA = "application/vnd.git-lfs+json"
LARGE_BYTES = 10 * 2**20
"""Bytes up to which a file may be an ordinary one of a commit."""
POINTER_LIMIT = 1024
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]+\n)*oid sha256:([0-9a-f]{64})\nsize ([0-9]{1,18})\n"
)
READ_AT_ONCE = 2**28
_FLUSHED_AT_ONCE = 2**23
_FRESH = 100_000


@dataclass(frozen=True)
class Pointer:
    """What a git-lfs pointer file names."""

    oid: str
    size: int

    def text(self) -> bytes:
        """The pointer file."""
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (self.oid.encode(), self.size)


def read_pointer(content: bytes) -> Pointer | None:
    """The pointer in ``content``, or None when it is an ordinary file."""
    match = _POINTER.fullmatch(content) if len(content) < POINTER_LIMIT else None
    return Pointer(match[1].decode(), int(match[2])) if match else None


class LfsStore:
    """The object store of one data folder."""

    def __init__(self, folder: Folder, database: Database) -> None:
        self._folder, self._db = folder, database
        self._intact: dict[str, tuple[int, ...]] = {}
        self._fresh: dict[str, None] = {}  # what came since the start; what is forgotten is read once more
        # Held while an object gains or loses its last repo, so that bytes never go while they are being given.
        self.lock = threading.RLock()
        self.collected: Callable[[list[str]], None] = lambda oids: None
        """Told which objects :meth:`collect` deleted."""

    def path(self, oid: str) -> Path:
        """The path of the object with this sha256, stored or not."""
        assert OID.fullmatch(oid)
        return self._folder.lfs / oid[:2] / oid[2:4] / oid

    def size(self, oid: str) -> int | None:
        """Bytes of a stored object; None when it is not stored."""
        try:
            status = self.path(oid).lstat()
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def keep(self, spooled: Path, repo: str, oid: str, size: int) -> None:
        """Move a file whose sha256 is ``oid`` into the store, by rename, and let ``repo`` read it.

        A large one is on disk afterwards, and so is one that takes the place of another, which may be committed; of
        others :meth:`flush` sees to that, for all of a commit together.
        """
        target, large = self.path(oid), size >= _FLUSHED_AT_ONCE
        if large:
            flush_files([spooled])
        with self.lock:
            if not large and target.exists():
                flush_files([spooled])
                large = True
            target.parent.mkdir(parents=True, exist_ok=True)
            spooled.chmod(0o600)
            try:
                spooled.replace(target)
            except IsADirectoryError as error:
                raise DamagedError(f"the place of the LFS object {oid} is taken by a folder") from error
            try:
                if large:
                    flush_folders(self._folders(oid))
                    self._give(repo, oid, size)
                    return
                with self._db.lax_transaction():
                    self._db.run("INSERT OR IGNORE INTO lfs_unflushed VALUES (?)", oid)
                    self._give(repo, oid, size)
                self._fresh[oid] = None
                while len(self._fresh) > _FRESH:
                    del self._fresh[next(iter(self._fresh))]
            except BaseException:
                self.collect([oid])
                raise

    def _folders(self, oid: str) -> tuple[Path, Path, Path]:
        target = self.path(oid)
        return target.parent, target.parent.parent, self._folder.lfs

    def flush(self, oids: Iterable[str]) -> list[str]:
        """Make objects, and who was given them, survive a power cut: call it before a ref leads to them.

        Returns those that are not what was sent: one that came before the last start may have been lost in between.
        """
        wanted, found = list(dict.fromkeys(oids)), list[str]()
        for start in range(0, len(wanted), 500):
            some = wanted[start : start + 500]
            marks = ", ".join("?" * len(some))
            found += [
                row["oid"] for row in self._db.rows(f"SELECT oid FROM lfs_unflushed WHERE oid IN ({marks})", *some)
            ]
        lost = [oid for oid in found if oid not in self._fresh and not self._is_there(oid)]
        versions = {oid: version for oid in found if oid not in lost and (version := self._version(oid))}
        flush_files(self.path(oid) for oid in versions)
        flush_folders(folder for oid in versions for folder in self._folders(oid))
        if versions:
            with self.lock, self._db.transaction():  # which flushes all rows from before
                for oid, version in versions.items():
                    if self._version(oid) == version:  # else it was deleted and came again: those bytes must wait
                        self._db.run("DELETE FROM lfs_unflushed WHERE oid = ?", oid)
                        self._fresh.pop(oid, None)
        return lost

    def lost(self) -> set[str]:
        """What :meth:`flush` was not called for, and a power cut took: an upload without a commit, which nobody misses.

        A ref may point to such an object all the same, when it was sent again to replace one that had gone.
        """
        rows = self._db.rows("SELECT oid FROM lfs_unflushed")
        return {row["oid"] for row in rows if OID.fullmatch(row["oid"]) and not self._is_there(row["oid"])}

    def _version(self, oid: str) -> tuple[int, ...] | None:
        """What tells a stored object from one that takes its place; None when it is not stored."""
        try:
            status = self.path(oid).lstat()
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def _is_there(self, oid: str) -> bool:
        try:
            return self.is_intact(oid)
        except OSError:
            return False

    def give(self, repo: str, oid: str) -> int | None:
        """Let a repo (by its internal id) read a stored object; its size, or None when it is not stored."""
        with self.lock:
            if (size := self.size(oid)) is not None:
                self._give(repo, oid, size)
            return size

    def give_all(self, repo: str, oids: Iterable[str]) -> dict[str, int]:
        """As :meth:`give`, of several together: their sizes, without those that are not stored."""
        with self.lock, self._db.transaction():
            return {oid: size for oid in oids if (size := self.give(repo, oid)) is not None}

    def _give(self, repo: str, oid: str, size: int) -> None:
        self._db.run("INSERT OR IGNORE INTO lfs VALUES (?, ?, ?, ?)", repo, oid, size, now())

    def has(self, repo: str, oid: str) -> bool:
        """Whether a repo was given an object and the object is stored."""
        row = self._db.row("SELECT 1 FROM lfs WHERE repo = ? AND oid = ?", repo, oid)
        return row is not None and self.size(oid) is not None

    def require_sound(self, repo: str, oid: str, size: int) -> bool:
        """False when a repo was never given an object. DamagedError when its bytes are not there, or not those.

        Of a file of more than 256 MiB only the size is compared: who sends it hashes it on the way.
        """
        if self._db.row("SELECT 1 FROM lfs WHERE repo = ? AND oid = ?", repo, oid) is None:
            return False
        try:
            sound = self.size(oid) == size and self.is_intact(oid)
        except OSError as error:
            raise DamagedError(f"the LFS object {oid} cannot be read: {error}") from error
        if not sound:
            raise DamagedError(f"the LFS object {oid} is missing or damaged")
        return True

    def holders(self, oid: str) -> list[str]:
        """Internal ids of the repos that were given an object."""
        return [row["repo"] for row in self._db.rows("SELECT repo FROM lfs WHERE oid = ?", oid)]

    def listed(self, repo: str) -> list[dict[str, str | int]]:
        """The objects of a repo: ``oid``, ``size``, ``pushed``, newest first."""
        rows = self._db.rows("SELECT * FROM lfs WHERE repo = ? ORDER BY pushed DESC, oid", repo)
        return [{"oid": row["oid"], "size": row["size"], "pushed": row["pushed"]} for row in rows]

    def withdraw(self, repo: str, oids: Iterable[str]) -> None:
        """Remove objects from a repo. The bytes stay until :meth:`collect`, so that the caller can commit first."""
        with self._db.transaction():
            for oid in oids:
                self._db.run("DELETE FROM lfs WHERE repo = ? AND oid = ?", repo, oid)

    def collect(self, oids: Iterable[str]) -> None:
        """Delete the bytes of those objects that no repo has any more."""
        for oid in oids:
            with self.lock:
                if not self.holders(oid):
                    self.path(oid).unlink(missing_ok=True)
                    self._fresh.pop(oid, None)
                    self.collected([oid])
                    with self._db.lax_transaction():
                        self._db.run("DELETE FROM lfs_unflushed WHERE oid = ?", oid)

    def sweep(self) -> None:
        """Delete the objects that no repo has, left by a server that was killed."""
        self._db.run("DELETE FROM lfs_unflushed WHERE oid NOT IN (SELECT oid FROM lfs)")
        referenced = {row["oid"] for row in self._db.rows("SELECT DISTINCT oid FROM lfs")}
        for path in self._folder.lfs.glob("*/*/*"):
            if (
                OID.fullmatch(path.name)
                and path.name not in referenced
                and path == self.path(path.name)
                and path.is_file()
                and not any(part.is_symlink() for part in (path, path.parent, path.parent.parent))
            ):
                path.unlink()

    def check(self, oid: str) -> bool:
        """Whether the stored bytes still have the digest they are stored under."""
        if self.size(oid) is None:
            raise FileNotFoundError(f"{self.path(oid)} is not a file")
        with self.path(oid).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == oid

    def is_intact(self, oid: str) -> bool:
        """Whether the content of an object is undamaged, when it is sent or uploaded again; small ones are read.

        Each version of a file is read once. Large ones are not: a client waits. ``hubkit hub fsck`` reads them all.
        """
        status = self.path(oid).stat()
        if status.st_size > READ_AT_ONCE:
            return True
        version = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if self._intact.get(oid) != version:
            if not self.check(oid):
                return False
            self._intact[oid] = version
        return True
