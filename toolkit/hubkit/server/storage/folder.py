"""The data folder: its paths, its locks, and the removal of what a killed server left in it."""

from __future__ import annotations

import fcntl
import hmac
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hubkit.core.errors import ConflictError
from hubkit.core.files import os_error

_UID = re.compile(r"[0-9a-f]{32}")
_OPEN = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH
"""Rights of other users that the Hub's folders never give; the way through them is given to a confined app's user."""
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
    def xet(self) -> Path:
        """What is known of files that were uploaded by Xet, and xorbs that are in no file yet."""
        return self.root / "xet"

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
        belong to another program, or to a Hub that lost its database, and a start would delete them. The same for a
        folder or file of the Hub that is a link: a start would delete and write what it leads to.
        """
        folders = (self.git, self.lfs, self.xet, self.spool, self.spaces, self.log.parent)
        try:
            self._refuse_links()
            if not (self.database.exists() and self.database.stat().st_size):
                for path in folders[:-1]:
                    if path.exists() and next(path.iterdir(), None) is not None:
                        raise ConflictError(
                            f"{self.root} is no Hub's data folder: {path.name}/ has files and hub.sqlite is missing.",
                            hint="Choose an empty folder, or restore hub.sqlite from a backup.",
                        )
            self.root.mkdir(parents=True, exist_ok=True)
            for path in (self.root, *folders):
                path.mkdir(mode=0o700, exist_ok=True)
                if (mode := path.stat().st_mode) & _OPEN:
                    path.chmod(stat.S_IMODE(mode) & ~_OPEN & ~stat.S_IXGRP & ~stat.S_IXOTH)
        except OSError as error:
            raise os_error(error, self.root) from error

    def _refuse_links(self) -> None:
        """ConflictError when something that the Hub itself made is a link. The data folder may be reached by one."""
        database = (self.database.with_name(f"{self.database.name}{end}") for end in ("", "-wal", "-shm"))
        logs = (self.log.parent, self.log, self.log.with_name("process.log"))
        folders = (self.git, self.lfs, self.xet, self.spool, self.spaces)
        for path in (*folders, *logs, *database, self.state, self.owner_token, self.serving_lock, self.starting_lock):
            if path.is_symlink():
                raise ConflictError(
                    f"{path} is a link to {path.readlink()}; what it leads to would be changed as the Hub's own.",
                    hint="Put the folder or file itself in its place. To keep a Hub elsewhere, set HUBKIT_HOME.",
                )

    def sweep(self, known: set[str]) -> None:
        """Remove what a killed server left: spooled bodies, half-made repos, stale git locks, Spaces of no repo.

        ``known`` holds the internal ids of the repos that exist. Call it with the serving lock held only.
        Other files in ``git/`` and ``spaces/`` are not the Hub's and stay. No link is followed, and what is removed is
        named within folders that are held open: who exchanges one for a link meanwhile gains nothing.
        """
        with _opened(self.spaces) as spaces:
            for name in _names(spaces):
                if _UID.fullmatch(name) and name not in known and _is_folder(name, spaces):
                    shutil.rmtree(name, ignore_errors=True, dir_fd=spaces)
        half_moved = {path.stem for path in self.spool.glob("*/pack/pack-*.idx")}
        with _opened(self.git) as git:
            for name in _names(git):
                match = _REPO_FOLDER.fullmatch(name)
                if match is None or not _is_folder(name, git):
                    continue
                if match[2] == "new" or match[1] not in known:
                    shutil.rmtree(name, dir_fd=git)
                else:
                    _sweep_repo(name, git, half_moved)
        with _opened(self.spool) as spool:
            for name in _names(spool):
                if _is_folder(name, spool):
                    shutil.rmtree(name, dir_fd=spool)
                else:
                    os.unlink(name, dir_fd=spool)


def _sweep_repo(name: str, git: int, half_moved: set[str]) -> None:
    """Remove the locks and the half-written objects that a killed process left in a bare repo.

    ``half_moved`` names packs whose index is still on its way: without it in the repo, no ref leads to the pack yet.
    """
    for place, folders, files, handle in os.fwalk(name, dir_fd=git, follow_symlinks=False):
        inside = Path(place).parts[1:]
        if not inside:
            folders[:] = [folder for folder in folders if folder in ("refs", "objects")]
            stale = [file for file in files if file.endswith(".lock")]
        elif inside[0] == "refs":
            stale = [file for file in files if file.endswith(".lock")]
        elif inside[1:] == ("pack",):
            stale = [file for file in files if "tmp" in file]
            stems = {stem for stem in half_moved if f"{stem}.idx" not in files}
            stale += [file for file in files if file.endswith((".pack", ".rev")) and Path(file).stem in stems]
        else:
            stale = [file for file in files if file.startswith("tmp_")]
        for file in stale:
            os.unlink(file, dir_fd=handle)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A folder of the Hub, held open; OSError when it is a link."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _is_folder(name: str, parent: int) -> bool:
    """Whether ``name`` in the open folder ``parent`` is a folder, and no link to one."""
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


class Lock:
    """An advisory lock on a file that ends with the process that holds it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise os_error(error, path) from error

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
