"""The data folder: its paths, its locks, and the removal of what a killed server left in it."""

from __future__ import annotations

import fcntl
import hmac
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from hubkit.core.errors import ConflictError
from hubkit.core.files import os_error

_UID = re.compile(r"[0-9a-f]{32}")
_REPO_FOLDER = re.compile(r"([0-9a-f]{32})\.(git|new)")


@dataclass(frozen=True)
class Folder:
    """Paths below one data folder. One server serves one folder."""

    root: Path

    @property
    def database(self) -> Path:
        """Accounts, repos, discussions: all that is not file content."""
        return self.root / "hub.sqlite"

    @property
    def git(self) -> Path:
        """Bare git repos, one folder per repo, named by its internal id."""
        return self.root / "git"

    @property
    def lfs(self) -> Path:
        """Large objects, ``ab/cd/<sha256>``."""
        return self.root / "lfs"

    @property
    def spool(self) -> Path:
        """Bodies that are still arriving. Emptied at each start."""
        return self.root / "tmp"

    @property
    def spaces(self) -> Path:
        """What Spaces run in, one folder per repo, named by its internal id."""
        return self.root / "spaces"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.root / "log" / "hub.log"

    @property
    def state(self) -> Path:
        """JSON of the serving process: pid, port, url, started."""
        return self.root / "server.json"

    @property
    def owner_token(self) -> Path:
        """The owner's token, readable by its owner alone."""
        return self.root / "owner.token"

    @property
    def serving_lock(self) -> Path:
        """Held by the server as long as it lives."""
        return self.root / "serving.lock"

    @property
    def starting_lock(self) -> Path:
        """Held by a starter, so that two starters get one server."""
        return self.root / "starting.lock"

    def create(self) -> None:
        """Create the folders that are missing, closed to other users of the machine; HubkitError when that fails.

        ConflictError, before anything is touched, for a folder that holds files but no database of a Hub: the files
        belong to another program, or to a Hub that lost its database, and a start would delete them.
        """
        try:
            if not (self.database.exists() and self.database.stat().st_size):
                for path in (self.git, self.lfs, self.spool, self.spaces):
                    if path.exists() and next(path.iterdir(), None) is not None:
                        raise ConflictError(
                            f"{self.root} is no Hub's data folder: {path.name}/ has files and hub.sqlite is missing.",
                            hint="Choose an empty folder, or restore hub.sqlite from a backup.",
                        )
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o700)
            for path in (self.git, self.lfs, self.spool, self.spaces, self.log.parent):
                path.mkdir(exist_ok=True)
        except OSError as error:
            raise os_error(error, self.root) from error

    def sweep(self, known: set[str]) -> None:
        """Remove what a killed server left: spooled bodies, half-made repos, stale git locks, Spaces of no repo.

        ``known`` holds the internal ids of the repos that exist. Call it with the serving lock held only.
        Other files in ``git/`` and ``spaces/`` are not the Hub's and stay.
        """
        for space in self.spaces.iterdir():
            if _UID.fullmatch(space.name) and space.name not in known and not space.is_symlink():
                shutil.rmtree(space, ignore_errors=True)
        for leftover in self.spool.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
        for repo in self.git.iterdir():
            match = _REPO_FOLDER.fullmatch(repo.name)
            if match is None or repo.is_symlink() or not repo.is_dir():
                continue
            if match[2] == "new" or match[1] not in known:
                shutil.rmtree(repo)
                continue
            for pattern in ("*.lock", "refs/**/*.lock", "objects/tmp_*", "objects/*/tmp_*", "objects/pack/*tmp*"):
                for stale in repo.glob(pattern):
                    stale.unlink()


class Lock:
    """An advisory lock on a file that ends with the process that holds it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, *, wait: bool) -> bool:
        """Take the lock; without ``wait``, False when another process holds it."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Release the lock."""
        os.close(self._handle)

    def __enter__(self) -> Lock:
        self.take(wait=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def proof(secret: str, port: int, nonce: str) -> str:
    """The proof that a server can read the secret of the data folder, for one ``nonce``.

    It covers the port, so that a program on another port cannot forward the request to the Hub and return its proof.
    """
    return hmac.new(bytes.fromhex(secret), f"status {port} {nonce}".encode(), "sha256").hexdigest()


def held(path: Path) -> bool:
    """Whether some process holds the lock on ``path``."""
    if not path.exists():
        return False
    lock = Lock(path)
    try:
        return not lock.take(wait=False)
    finally:
        lock.release()


def claim(folder: Folder) -> Lock:
    """The serving lock of ``folder``; ConflictError when another server holds it."""
    lock, deadline = Lock(folder.serving_lock), time.monotonic() + 1.0
    # `held` takes the lock for a moment, so try again before giving up.
    while not lock.take(wait=False):
        if time.monotonic() > deadline:
            lock.release()
            raise ConflictError(f"Another embedded Hub serves {folder.root}.", hint="Stop it: hubkit hub stop")
        time.sleep(0.02)
    return lock
