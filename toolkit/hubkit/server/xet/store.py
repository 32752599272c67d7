"""Files by Xet: from a shard to an LFS object, and from an LFS object to what a download by Xet needs.

The content of a file is stored once, whole, as an LFS object: a plain GET, git-lfs, pages and Spaces read the same
bytes and know nothing of Xet. Of its chunks the Hub keeps a list. A xorb that a client refers to once more is found in
the files that its chunks became part of; a download gets xorbs that are made of the object while they are sent.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from hubkit.server.repos.lfs import LfsStore
from hubkit.server.repos.objects import DamagedError
from hubkit.server.storage.database import Database
from hubkit.server.storage.folder import Folder
from hubkit.server.xet import chunk_list, shards
from hubkit.server.xet.grants import Grants
from hubkit.server.xet.hashes import file_hash, from_hex, to_hex
from hubkit.server.xet.index import Index
from hubkit.server.xet.intake import Intake, MayRead, is_readable, stored_chunks
from hubkit.server.xet.pending import PendingXorbs

_HOUR = _KEY_SECONDS = 3600


class XetStore:
    """What one data folder knows of Xet."""

    def __init__(self, folder: Folder, database: Database, lfs: LfsStore) -> None:
        self._lfs = lfs
        self._secret = bytes.fromhex(database.meta("secret"))
        self.index = Index(folder, database)
        self.pending = PendingXorbs(folder.xet / "pending")
        self.intake = Intake(folder, lfs, self.index, self.pending)
        self.grants = Grants(self._secret)
        self._lock, self._next = threading.Lock(), 0.0

    def owner(self, token: str) -> str:
        """The name of a token (by its digest) in :class:`PendingXorbs`."""
        return hmac.new(self._secret, f"xet token {token}".encode(), "sha256").hexdigest()[:32]

    def read(self, oid: str, offset: int, chunks: Iterable[chunk_list.Chunk]) -> Iterator[bytes]:
        """Chunks of an LFS object, each compared with its hash. DamagedError."""
        return stored_chunks(self._lfs, oid, offset, chunks)

    def dedupe(self, chunk: str, may_read: MayRead) -> bytes | None:
        """A shard with the chunks around one, when it is in a file that the caller may read; or None."""
        for name, oid, position in self.index.with_chunk(chunk):
            part = self.index.part_with(name, position) if is_readable(self._lfs, oid, may_read) else None
            if part is not None:
                chunks = chunk_list.read(self.index.listing(name), part.first, part.last)
                return shards.of_xorb(from_hex(part.xorb), chunks, secrets.token_bytes(32), _KEY_SECONDS)
        return None

    def forget(self, oids: Iterable[str]) -> None:
        """Forget what is known of LFS objects that were deleted."""
        for oid in oids:
            self.index.remove(self.index.names_of(oid))

    def unused(self) -> list[Path]:
        """The files that :meth:`sweep` removes: xorbs that expired, lists of chunks of files that are not known."""
        return [*self.pending.expired(), *self.index.stray_lists()]

    def expire(self) -> None:
        """Remove xorbs that expired; looked for once an hour, because a server may run for months."""
        with self._lock:
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + _HOUR
        self._remove(self.pending.expired())

    def _remove(self, paths: list[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
        if paths:
            self.index.renew()

    def sweep(self) -> None:
        """Forget files whose object is gone or whose list of chunks is, and remove what is not used."""
        lost = [
            name
            for name, oid in self.index.files()
            if self._lfs.size(oid) is None or not self.index.listing(name).is_file()
        ]
        self.index.remove(lost)
        self._remove(self.unused())

    def check(self) -> Iterator[str]:
        """What is wrong with xorbs and lists of chunks, a sentence each; every stored file is read."""
        yield from self.pending.check()
        for name, oid in self.index.files():
            listing = self.index.listing(name)
            try:
                if to_hex(file_hash(chunk_list.read(listing))) != name:
                    yield f"The list of chunks of the LFS object {oid} is damaged: it is not that of {name}."
                elif sum(map(len, self.read(oid, 0, chunk_list.read(listing)))) != self._lfs.size(oid):
                    yield f"The list of chunks of the LFS object {oid} does not cover the whole object."
            except OSError as error:
                yield f"The list of chunks of the LFS object {oid} cannot be read: {error.strerror or error}."
            except DamagedError:
                if self._lfs.size(oid) is not None and self._lfs.check(oid):  # else the object itself is reported
                    yield f"The list of chunks of the LFS object {oid} is not that of its content."
