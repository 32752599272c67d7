"""Objects on their way into a repo: written beside it, and moved into it when a ref is about to lead to them.

What a refused commit brought, or one that found the disk full, is removed: git itself keeps a push apart in this way.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pygit2

from hubkit.core.files import fsync_folder
from hubkit.server.repos.objects import DamagedError

_FAN, _REST = re.compile(r"[0-9a-f]{2}"), re.compile(r"[0-9a-f]{38}")


class Quarantine:
    """Makes ``repo`` write its objects to ``folder``, which is empty and on the same disk; it reads both."""

    def __init__(self, repo: pygit2.Repository, folder: Path) -> None:
        self._objects, self._folder = Path(repo.path) / "objects", folder
        odb = pygit2.Odb(str(folder))
        odb.add_disk_alternate(str(self._objects))
        repo.set_odb(odb)

    def write_blob(self, content: bytes) -> pygit2.Oid:
        """Store a blob, also when the repo has it. Not by libgit2, which stops all threads while it compresses."""
        oid = pygit2.hash(content)
        name, packer = str(oid), zlib.compressobj(1)
        path = self._folder / name[:2] / name[2:]
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with path.open("xb") as file:
                file.write(packer.compress(b"blob %d\0" % len(content)))
                file.write(packer.compress(content))
                file.write(packer.flush())
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o444)
        return oid

    def has(self, oid: pygit2.Oid) -> bool:
        """Whether an object was written since the last move of a ref."""
        return (self._folder / str(oid)[:2] / str(oid)[2:]).exists()

    def keep(self, ref: str) -> Path | None:
        """A second name of the file of a ref, to rename it back; None when it has no file of its own."""
        kept = self._folder / "ref"
        kept.unlink(missing_ok=True)
        try:
            kept.hardlink_to(self._objects.parent / ref)
        except FileNotFoundError:
            return None
        return kept

    @contextmanager
    def accepted(self) -> Iterator[list[Path]]:
        """The repo has the objects inside this block, and keeps them when it does not raise.

        The block is given the files that are removed if it does.
        """
        moved: list[Path] = []
        try:
            self._move(moved)
            yield moved
        except BaseException:
            for path in moved:
                path.unlink(missing_ok=True)
            raise

    def _move(self, moved: list[Path]) -> None:
        touched = set()
        for source in sorted(self._folder.glob("*/*")):
            if not _FAN.fullmatch(source.parent.name) or not _REST.fullmatch(source.name):
                continue
            target = self._objects / source.parent.name / source.name
            target.parent.mkdir(exist_ok=True)
            if target.is_dir():
                raise DamagedError(f"the place of the object {target.parent.name}{target.name} is taken")
            if not target.exists():
                moved.append(target)
            source.replace(target)  # one that was there may be damaged
            touched.add(target.parent)
        for folder in sorted(touched):
            fsync_folder(folder)
        if touched:
            fsync_folder(self._objects)
