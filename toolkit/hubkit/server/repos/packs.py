"""A pack of new objects, written front to back: one file to flush instead of thousands."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

from hubkit.core.files import fsync_folder

_KINDS = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}
_PIECE = 2**20


class PackWriter:
    """Writes ``pack-<digest>.pack`` and its index into ``folder``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._path = folder, folder / "tmp"
        self._file = self._path.open("w+b")
        self._file.write(b"PACK" + (2).to_bytes(4, "big") + bytes(4))
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 12

    def __contains__(self, oid: str) -> bool:
        return oid in self._places

    def add(self, oid: str, kind: str, content: bytes) -> None:
        """Add the object of this id."""
        size, first = len(content) >> 4, _KINDS[kind] << 4 | len(content) & 15
        head = bytearray([first | (0x80 if size else 0)])
        while size:
            head.append(size & 0x7F | (0x80 if size > 0x7F else 0))
            size >>= 7
        written = bytes(head) + zlib.compress(content, 1)
        self._file.write(written)
        self._places[oid] = (self._end, zlib.crc32(written))
        self._end += len(written)

    def finish(self) -> None:
        """Complete the pack, which is on disk afterwards with its index. OSError."""
        with self._file as file:
            file.seek(8)
            file.write(len(self._places).to_bytes(4, "big"))
            file.flush()
            file.seek(0)
            digest = hashlib.sha1(usedforsecurity=False)
            while piece := file.read(_PIECE):
                digest.update(piece)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o444)
        name = self._folder / f"pack-{digest.hexdigest()}"
        self._path.replace(name.with_suffix(".pack"))
        with name.with_suffix(".idx").open("xb") as index:
            index.write(self._index(digest.digest()))
            index.flush()
            os.fsync(index.fileno())
            os.fchmod(index.fileno(), 0o444)
        fsync_folder(self._folder)

    def _index(self, pack: bytes) -> bytes:
        order = sorted(self._places)
        ends, count = [], 0
        for first in range(256):
            while count < len(order) and int(order[count][:2], 16) <= first:
                count += 1
            ends.append(count.to_bytes(4, "big"))
        parts = [b"\377tOc", (2).to_bytes(4, "big"), *ends, *map(bytes.fromhex, order)]
        parts += [self._places[oid][1].to_bytes(4, "big") for oid in order]
        places = [self._places[oid][0] for oid in order]
        far = [place for place in places if place >= 2**31]
        numbers = iter(range(2**31, 2**32))
        parts += [(next(numbers) if place >= 2**31 else place).to_bytes(4, "big") for place in places]
        parts += [place.to_bytes(8, "big") for place in far]
        content = b"".join(parts) + pack
        return content + hashlib.sha1(content, usedforsecurity=False).digest()
