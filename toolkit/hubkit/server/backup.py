"""Backups of a data folder, also while a server runs, and their restoration.

Files of a Hub are never changed in place: they are replaced by rename, or removed. So a snapshot is made of second
names (hard links) of all of them. The locks of the repos are held for the refs and the database only, which takes a
moment. What is copied is the snapshot; the Hub goes on.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hubkit import __version__
from hubkit.core.errors import ConflictError, RemoteError
from hubkit.core.files import os_error, read_json, write_json
from hubkit.server import process
from hubkit.server.fsck import fsck
from hubkit.server.hub import Hub
from hubkit.server.repos.store import REPO_TYPES
from hubkit.server.storage.database import Database, now
from hubkit.server.storage.folder import Folder, claim
from hubkit.server.xet.index import Index

NOTE = "backup.json"
_LEFT_OUT = {"tmp", "log", "spaces", "server.json", "serving.lock", "starting.lock", NOTE}
_UNFINISHED = (PurePosixPath("xet/pending"),)
_TRIES = 3
_SECONDS = 3600.0


@dataclass(frozen=True)
class Backup:
    """What a backup holds: files, bytes of them, and how many files share their bytes with an earlier backup."""

    files: int
    size: int
    shared: int


# The snapshot -----------------------------------------------------------------------------------------------------


def snapshot(hub: Hub) -> Path:
    """A consistent copy of the Hub's folder in its folder for what is on its way, made of hard links.

    Whoever asks for it removes it; else the next start does.
    """
    for left in reversed(range(_TRIES)):
        place = Path(tempfile.mkdtemp(prefix="snapshot-", dir=hub.folder.spool))
        try:
            with hub.upkeep:
                _fill(place, hub)
            # Without a try left something is missing in the Hub itself, which `fsck` names.
            if left == 0 or _is_whole(place, hub):
                return place
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place, ignore_errors=True)  # a repo was deleted meanwhile
    raise AssertionError


def _fill(place: Path, hub: Hub) -> None:
    _link_content(hub.folder.root, place)
    with _standing_still(hub):
        hub.database.copy_to(place / hub.folder.database.name)
        for uid in hub.store.uids():
            _link_refs(hub.folder.git / f"{uid}.git", place / "git" / f"{uid}.git")
    _link_content(hub.folder.root, place)  # what came since


@contextmanager
def _standing_still(hub: Hub) -> Iterator[None]:
    """No ref moves, no large file comes or goes, inside this block."""
    repos = [repo for kind in REPO_TYPES for repo in hub.store.all(kind)]
    with ExitStack() as locks:
        for repo in sorted(repos, key=lambda item: item.uid):
            locks.enter_context(hub.store.lock(repo))
        locks.enter_context(hub.lfs.lock)
        yield


def _link_content(root: Path, into: Path) -> None:
    """Link everything but the database and the refs, as far as it is not linked yet."""
    for folder, folders, files in os.walk(root):
        inside = PurePosixPath(Path(folder).relative_to(root).as_posix())
        repo = len(inside.parts) == 2 and inside.parts[0] == "git"
        if inside == PurePosixPath("."):
            folders[:] = [name for name in folders if name not in _LEFT_OUT]
            files = [name for name in files if name not in _LEFT_OUT and not name.startswith("hub.sqlite")]
        if repo:
            folders[:] = [name for name in folders if name != "refs"]
            files = [name for name in files if name not in {"HEAD", "packed-refs"}]
        folders[:] = [name for name in folders if inside / name not in _UNFINISHED]
        (into / inside).mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in files:
            if not name.startswith(("tmp_", ".")) and not name.endswith(".lock"):  # on their way
                _link(Path(folder, name), into / inside / name)


def _link_refs(repo: Path, into: Path) -> None:
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("HEAD", "packed-refs"):
        _link(repo / name, into / name)
    for folder, _, files in os.walk(repo / "refs"):
        place = into / Path(folder).relative_to(repo)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in files:
            if not name.endswith(".lock"):
                _link(Path(folder, name), place / name)


def _link(source: Path, target: Path) -> None:
    """A second name of a regular file; nothing when it is gone, is a link, or is there already."""
    if source.is_symlink() or not source.is_file():
        return
    with suppress(FileNotFoundError, FileExistsError):
        try:
            os.link(source, target)
        except PermissionError:  # the file system has no links
            shutil.copy2(source, target)


def _is_whole(place: Path, hub: Hub) -> bool:
    """Whether the snapshot has the repos and the large files that its database names."""
    with closing(sqlite3.connect(f"{(place / hub.folder.database.name).as_uri()}?mode=ro", uri=True)) as database:
        repos = [row[0] for row in database.execute("SELECT uid FROM repos")]
        objects = [row[0] for row in database.execute("SELECT DISTINCT oid FROM lfs")]
    known = hub.store.uids()
    lfs = (place / hub.lfs.path(oid).relative_to(hub.folder.root) for oid in objects)
    return all(uid in known for uid in repos) and all(path.exists() for path in lfs)


# The copy ---------------------------------------------------------------------------------------------------------


def backup(data: Path, target: Path, previous: Path | None = None) -> Backup:
    """Copy the Hub of a data folder to the new folder ``target``, whether a server runs or not.

    Files that the backup ``previous`` has too are linked there and not copied. ConflictError, RemoteError.
    """
    folder, target = Folder(data.resolve()), target.absolute()
    if not folder.database.exists():
        raise ConflictError(f"There is no Hub in {folder.root}.", hint="Give the data folder of an embedded Hub.")
    if target.exists() or target.is_symlink():
        raise ConflictError(f"{target} exists already.", hint="Name a folder that does not exist.")
    if target.is_relative_to(folder.root):
        raise ConflictError(f"{target} is inside the Hub's own folder.", hint="Name a folder elsewhere.")
    if previous is not None and not (previous / NOTE).is_file():
        raise ConflictError(f"{previous} is not a complete backup.", hint="Give the folder of an earlier backup.")
    with _taken(folder) as place:
        return _copy(place, target, previous, {"hubkit": __version__, "created": now()})


@contextmanager
def _taken(folder: Folder) -> Iterator[Path]:
    """A snapshot of a data folder; the running server makes it, or this process when none runs."""
    if running := process.status(folder.root):
        place = _ask_for_snapshot(running)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return
    lock = claim(folder)
    try:
        hub = Hub(folder.root)
        try:
            place = snapshot(hub)
            yield place
            shutil.rmtree(place, ignore_errors=True)
        finally:
            hub.close()
    finally:
        lock.release()


def _ask_for_snapshot(running: process.Running) -> Path:
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    headers = {"Authorization": f"Bearer {running.token}", "Content-Length": "0"}
    request = urllib.request.Request(f"{running.url}/api/hubkit/snapshot", b"", headers, method="POST")
    try:
        with opener.open(request, timeout=_SECONDS) as answer:
            place = Path(str(json.loads(answer.read(65_536))["folder"]))
    except (OSError, ValueError, KeyError) as error:
        raise RemoteError(
            f"The Hub at {running.url} made no snapshot: {error}.", hint="Its log says why; run the command again."
        ) from error
    if place.parent != Folder(running.data).spool:
        raise ConflictError(f"The Hub at {running.url} made its snapshot in {place}, which is not its folder.")
    return place


def _copy(place: Path, target: Path, previous: Path | None, note: dict[str, object]) -> Backup:
    """Copy a folder; it has its name only when all of it is there and on the disk."""
    part = target.with_name(f".{target.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    files = size = shared = 0
    try:
        part.mkdir(mode=0o700, parents=True)
        for folder, _, names in os.walk(place):
            inside = Path(folder).relative_to(place)
            (part / inside).mkdir(mode=0o700, exist_ok=True)
            for name in names:
                source, copy = Path(folder, name), part / inside / name
                files, size = files + 1, size + source.stat().st_size
                if previous is not None and _is_same(previous / inside / name, source, inside):
                    os.link(previous / inside / name, copy)
                    shared += 1
                else:
                    shutil.copy2(source, copy)
        write_json(part / NOTE, note | {"files": files, "bytes": size})
        os.sync()
        part.rename(target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise os_error(error, target, size) from error
    return Backup(files, size, shared)


def _is_same(earlier: Path, source: Path, inside: Path) -> bool:
    """Whether an earlier backup has the file: one that is named by its content, and has all of it still."""
    named = inside.parts[:1] in {("lfs",), ("xet",)} or inside.parts[2:3] == ("objects",)
    try:
        return named and not earlier.is_symlink() and filecmp.cmp(earlier, source, shallow=False)
    except OSError:
        return False


def restore(source: Path, data: Path) -> list[str]:
    """Make a backup the Hub of the folder ``data``, which must be empty or not exist.

    Returns the problems that the restored Hub has, a sentence each.
    """
    note = source / NOTE
    if not note.is_file():
        raise ConflictError(f"{source} is not a complete backup: it has no {NOTE}.", hint="Give another backup.")
    listed, data = read_json(note), data.absolute()
    if data.is_symlink() or (data.exists() and next(data.iterdir(), None) is not None):
        raise ConflictError(f"{data} is not empty.", hint="Stop the Hub there and move the folder away first.")
    if data.exists():
        data.rmdir()
    data.parent.mkdir(parents=True, exist_ok=True)
    copied = _copy(source, data, None, {})
    (data / NOTE).unlink()
    _renew(Folder(data))
    problems = [] if copied.files == listed["files"] + 1 else [f"The backup had {listed['files']:,} files."]
    return problems + fsck(data)


def _renew(folder: Folder) -> None:
    """Clients of Xet send everything again: the backup may lack what they remember to have sent since."""
    database = Database(folder.database)
    try:
        Index(folder, database).renew()
    finally:
        database.close()
