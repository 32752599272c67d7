"""Objects on their way into a repo: written beside it, and moved into it when a ref is about to lead to them.

What a refused commit brought, or one that found the disk full, is removed: git itself keeps a push apart in this way.
Nothing waits for the disk before the move: then all is flushed together.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pygit2

from hubkit.server.repos.objects import DamagedError, inflate, object_id
from hubkit.server.repos.packs import PackWriter
from hubkit.server.storage.flushing import flush_files, flush_folders

_PACK = re.compile(r"pack-[0-9a-f]{40}\.(pack|rev|idx)")
_OID, _FAN, _REST = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{2}"), re.compile(r"[0-9a-f]{38}")


_LOOSE = 100
"""Objects up to which each is a file of its own; git has the same number for a push."""
_SMALL = 2**16


class Quarantine:
    """Keeps new objects of a repo in ``folder``, which is empty and on the same disk as the repo's ``objects``."""

    def __init__(self, objects: Path, folder: Path) -> None:
        self._objects, self._folder = objects, folder
        self._files: dict[str, Path] = {}  # of objects that lie in the folder as files of their own
        self._pack: PackWriter | None = None
        self._kept: list[Path] = []

    def serve(self, repo: pygit2.Repository) -> None:
        """Make ``repo`` write its objects to the folder; it reads both."""
        odb = pygit2.Odb(str(self._folder))
        odb.add_disk_alternate(str(self._objects))
        repo.set_odb(odb)

    def write(self, kind: str, content: bytes) -> str:
        """Store an object, also when the repo has it; its id. Not by libgit2, which stops all threads meanwhile."""
        oid = object_id(kind, content)
        if oid in self._files or (self._pack and oid in self._pack):
            return oid
        if self._pack is None and len(self._files) >= _LOOSE:
            self._open_pack()
        if self._pack:
            self._pack.add(oid, kind, content)
            return oid
        packer, path = zlib.compressobj(1), self._folder / oid
        with path.open("xb") as file:
            file.write(packer.compress(f"{kind} {len(content)}\0".encode()) + packer.compress(content) + packer.flush())
            os.fchmod(file.fileno(), 0o444)
        self._files[oid] = path
        return oid

    def _open_pack(self) -> None:
        """Begin a pack for what is too much for files, with the objects in small files; large ones stay files."""
        self._pack = PackWriter(self._folder / "pack")
        for oid, path in list(self._files.items()):
            if path.stat().st_size < _SMALL:
                self._pack.add(oid, *inflate(oid, path.read_bytes()))
                path.unlink()
                del self._files[oid]

    def keep(self, ref: str, number: int = 0) -> Path | None:
        """A second name of the file of a ref, to rename it back; None when it has no file of its own."""
        kept = self._folder / f"ref-{number}"
        if kept in self._kept:
            kept.unlink(missing_ok=True)
        try:
            kept.hardlink_to(self._objects.parent / ref)
        except FileNotFoundError:
            return None
        self._kept.append(kept)
        return kept

    @contextmanager
    def accepted(self) -> Iterator[list[Path]]:
        """The repo has the objects inside this block, and keeps them when it does not raise.

        The block is given the files that are removed if it does. Afterwards nothing is on its way any more: what is to
        be tried again must be written again.
        """
        moved: list[Path] = []
        try:
            self._move(moved)
            yield moved
        except BaseException:
            for path in moved:
                path.unlink(missing_ok=True)
            self._empty()
            raise
        with suppress(OSError):  # who closes the folder removes what is left
            while self._kept:
                self._kept.pop().unlink(missing_ok=True)

    def _empty(self) -> None:
        self._files, self._pack, self._kept = {}, None, []
        for path in self._folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()

    def _move(self, moved: list[Path]) -> None:
        touched = set()
        if self._pack:
            self._pack.finish()
            self._pack = None
        loose = dict(self._new())
        flush_files(loose)
        for source, oid in sorted(loose.items()):
            folder = self._objects / oid[:2]
            target = folder / oid[2:]
            if _is_free(target, oid):
                moved.append(target)
            source.replace(target)  # one that was there may be damaged
            touched.add(folder)
        there = (self._folder / "pack").is_dir()
        packs = sorted(path for path in self._folder.glob("pack/*") if _PACK.fullmatch(path.name)) if there else []
        for source in sorted(packs, key=lambda path: path.suffix == ".idx"):  # a pack is there once its index is
            target = self._objects / "pack" / source.name
            target.parent.mkdir(exist_ok=True)
            if not target.exists():
                moved.append(target)
            source.replace(target)
            touched.add(target.parent)
        flush_folders([*touched, self._objects] if touched else [])
        self._files = {}

    def _new(self) -> Iterator[tuple[Path, str]]:
        """The files of new objects, with their ids: as they are written here, and as git and libgit2 write them."""
        for place in self._folder.iterdir():
            if _OID.fullmatch(place.name):
                yield place, place.name
            elif _FAN.fullmatch(place.name):
                yield from (
                    (path, f"{place.name}{path.name}") for path in place.iterdir() if _REST.fullmatch(path.name)
                )


def _is_free(place: Path, oid: str) -> bool:
    """Whether nothing is at the place of an object, whose folder is made; what is there may be replaced.

    DamagedError when it cannot be.
    """
    try:
        if not stat.S_ISDIR(place.lstat().st_mode):  # a link is replaced, wherever it leads
            return False
    except FileNotFoundError:
        with suppress(FileExistsError):  # a link that leads nowhere
            place.parent.mkdir(exist_ok=True)
            return True
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
    raise DamagedError(f"the place of the object {oid} is taken")
