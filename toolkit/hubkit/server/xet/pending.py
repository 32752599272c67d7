"""Xorbs that were uploaded and whose files are not yet known, for each token by itself.

A client sends xorbs first, and last a shard that says which files they are of. What one token uploaded no other one can
refer to. A client that was interrupted does not send its xorbs again: they are kept for some days.
"""

from __future__ import annotations

import mmap
import os
import re
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from hubkit.core.errors import UsageError
from hubkit.server.xet import chunk_list
from hubkit.server.xet.hashes import HEX, from_hex, to_hex, xorb_hash
from hubkit.server.xet.xorbs import HEAD, chunk_at, contents, heads, named

DAYS = 7
_OWNER = re.compile(r"[0-9a-f]{32}")
_LIST = ".chunks"


class PendingXorbs:
    """The folder of these xorbs: ``<owner>/<hash>`` and beside each the list of its chunks."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def keep(self, owner: str, spooled: Path, digest: bytes) -> bool:
        """Check a xorb and move it here; False when it was here. UsageError when it is none, or another one."""
        target = self._path(owner, digest)
        if target.exists():
            os.utime(target)
            return False
        chunks = [(found, chunk.length) for found, chunk in named(mapped(spooled))]
        if xorb_hash(chunks) != digest:
            raise UsageError(f"The body is not the xorb {to_hex(digest)}.")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        listing = _listing(spooled)
        listing.write_bytes(b"".join(chunk_list.pack(*chunk) for chunk in chunks))
        listing.replace(_listing(target))
        spooled.chmod(0o600)
        spooled.replace(target)
        return True

    def chunks(self, owner: str, digest: bytes) -> Sequence[chunk_list.Chunk] | None:
        """The chunks of a xorb; None when it is not here."""
        path = self._path(owner, digest)
        try:
            return _listed(_listing(path), path.stat().st_ino)
        except FileNotFoundError:
            return None

    def contents(self, owner: str, digest: bytes, start: int, end: int) -> Iterator[bytes]:
        """The content of chunks of a xorb. UsageError when it is gone meanwhile."""
        path = self._path(owner, digest)
        try:
            body = mapped(path)
            places = _places(path, path.stat().st_ino)
        except FileNotFoundError:
            raise UsageError(f"The xorb {to_hex(digest)} is missing. Upload the files again.") from None
        yield from contents(body, (chunk_at(body, place) for place in places[start:end]))

    def remove(self, owner: str, digest: bytes) -> None:
        """Forget a xorb."""
        path = self._path(owner, digest)
        for file in (path, _listing(path)):
            file.unlink(missing_ok=True)

    def drop_damaged(self, owner: str, digests: Iterable[bytes]) -> bool:
        """Remove those xorbs that are not what they were when they came; whether there were any."""
        damaged = [digest for digest in digests if self._problem(self._path(owner, digest), digest)]
        for digest in damaged:
            self.remove(owner, digest)
        return bool(damaged)

    def check(self) -> Iterator[str]:
        """What is wrong with the xorbs, a sentence each; all are read."""
        for path in self._files():
            if HEX.fullmatch(path.name) and self._problem(path, from_hex(path.name)):
                yield f"The uploaded xorb {path.name} is damaged. It is sent again when its upload is run again."

    def _problem(self, path: Path, digest: bytes) -> bool:
        try:
            chunks = [(found, chunk.length) for found, chunk in named(mapped(path))]
            return xorb_hash(chunks) != digest or chunks != list(chunk_list.read(_listing(path)))
        except FileNotFoundError:
            return False
        except (UsageError, OSError):
            return True

    def expired(self, days: float = DAYS) -> list[Path]:
        """The files of xorbs that nobody asked for in so many days, and lists without a xorb."""
        until, found = time.time() - days * 86400, []
        for path in self._files():
            xorb = path.with_name(path.name.removesuffix(_LIST))
            if not xorb.exists() or xorb.stat().st_mtime < until:
                found.append(path)
        return found

    def _files(self) -> Iterator[Path]:
        """The xorbs and lists that are here. Links are not followed, and other files are not the Hub's."""
        for folder in sorted(self._root.iterdir()) if self._root.is_dir() and not self._root.is_symlink() else []:
            if folder.is_symlink() or not folder.is_dir() or not _OWNER.fullmatch(folder.name):
                continue
            for path in sorted(folder.iterdir()):
                if HEX.fullmatch(path.name.removesuffix(_LIST)) and path.is_file() and not path.is_symlink():
                    yield path

    def _path(self, owner: str, digest: bytes) -> Path:
        assert _OWNER.fullmatch(owner)
        return self._root / owner / to_hex(digest)


# A file may consist of thousands of pieces of a few xorbs: their chunks are not read again for each.
@lru_cache(maxsize=32)
def _listed(listing: Path, number: int) -> Sequence[chunk_list.Chunk]:
    return chunk_list.Chunks(listing.read_bytes())


@lru_cache(maxsize=128)
def _places(xorb: Path, number: int) -> array[int]:
    return array("I", (chunk.start - HEAD for chunk in heads(mapped(xorb))))


def _listing(xorb: Path) -> Path:
    return xorb.with_name(f"{xorb.name}{_LIST}")


def mapped(path: Path) -> memoryview:
    """The content of a file, mapped into memory as long as it is used; it is read as it is needed. OSError."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
