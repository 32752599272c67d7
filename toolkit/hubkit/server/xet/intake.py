"""From a shard to stored files: every chunk is found, the content is put together, and its digests are compared."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hubkit.core.errors import UsageError
from hubkit.server.repos.lfs import LfsStore
from hubkit.server.repos.objects import DamagedError
from hubkit.server.storage.folder import Folder
from hubkit.server.xet import chunk_list, shards
from hubkit.server.xet.hashes import chunk_hash, file_hash, range_hash, to_hex
from hubkit.server.xet.index import Index, NewFile, Place
from hubkit.server.xet.pending import PendingXorbs, mapped
from hubkit.server.xet.shards import FileRecord, Term

MOST_BYTES = 2**40
_MOST_CHUNKS, _SHORT_CHUNKS, _SHORTEST = 2**24, 2**20, 2**13
"""Chunks that a shard may name; if more than ``_SHORT_CHUNKS``, their mean length is what clients cut at least."""
_FEW_TERMS, _TERM_BYTES = 2**15, 2**17
"""Terms that a shard may have besides one for each file, and the bytes for which it may have one more: two chunks of
mean length. Clients make a term of eight chunks at least, on average."""
_SECONDS, _RATE = 60.0, 5e6
"""Seconds of processor time that a shard may take, and the bytes of its files for which it may take one more. What
clients send takes a hundredth of it."""
_TOGETHER = 2**12
"""Terms of the files that are added to the index together; a file counts as one more."""
MayRead = Callable[[str], bool]


@dataclass(frozen=True)
class Sender:
    """Who uploads: the name of its token here, the repo that is given the files, and which repos it may read."""

    token: str
    repo: str
    may_read: MayRead
    until: float = math.inf
    """The processor time of this thread at which its work ends."""


@dataclass(frozen=True)
class Run:
    """Chunks that follow each other, and where they are: in a pending xorb, or in an LFS object from an offset on."""

    chunks: Sequence[chunk_list.Chunk]
    start: int = 0
    xorb: bytes | None = None
    oid: str = ""
    offset: int = 0


@dataclass
class _Progress:
    """What was found of a shard so far."""

    used: set[bytes] = field(default_factory=set)
    """Pending xorbs that its files have chunks of."""
    known: dict[str, int] = field(default_factory=dict)
    """sha256 and size of its files that were stored before."""
    stored: list[NewFile] = field(default_factory=list)
    """Files that are not in the index yet."""
    sizes: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    """The sha256 and the size of each of them, by its Xet hash: a file that is named again is known."""
    weight: int = 0

    def add(self, record: FileRecord, new: NewFile) -> None:
        """Note a file that is stored."""
        self.stored.append(new)
        self.sizes[record.hash] = (new.oid, sum(term.length for term in new.terms))
        self.weight += 1 + len(new.terms)


class Intake:
    """Stores what shards name."""

    def __init__(self, folder: Folder, lfs: LfsStore, index: Index, pending: PendingXorbs) -> None:
        self._folder, self._lfs, self._index, self._pending = folder, lfs, index, pending

    def register(self, shard: Path, sender: Sender) -> None:
        """Store every file that a shard names, and give it to the sender's repo. UsageError; nothing unproved stays."""
        length = _require_little(shards.files(mapped(shard)))
        sender = replace(sender, until=time.thread_time() + _SECONDS + length / _RATE)
        progress = _Progress()
        try:
            for record in shards.files(mapped(shard)):
                self._store(record, sender, progress)
                if progress.weight >= _TOGETHER:
                    self._add_to_index(progress)
        finally:  # those before one that is refused were proved
            self._add_to_index(progress)
        if self._lfs.give_all(sender.repo, progress.known) != progress.known:
            raise UsageError("A file was deleted meanwhile. Upload it again.")
        for xorb in progress.used:
            self._drop_if_stored(xorb, sender)

    def _add_to_index(self, progress: _Progress) -> None:
        files, progress.stored, progress.weight = progress.stored, [], 0
        progress.sizes.clear()  # the index knows them now
        self._index.add(files)

    def _store(self, record: FileRecord, sender: Sender, progress: _Progress) -> None:
        """Store one file and note it."""
        before = progress.sizes.get(record.hash) or self._known(record, sender)
        if before is None:
            self._require_room(record)
        handle, temporary = tempfile.mkstemp(dir=self._folder.spool)
        listing = Path(temporary)
        try:
            with os.fdopen(handle, "wb") as file:
                for run in self._runs(record, sender):
                    file.writelines(chunk_list.pack(*chunk) for chunk in run.chunks)
                    if run.xorb:
                        progress.used.add(run.xorb)
            if file_hash(chunk_list.read(listing)) != record.hash:
                raise UsageError(f"The chunks that the shard names are not those of the file {to_hex(record.hash)}.")
            oid = self._content(record, sender) if before is None else before[0]
            _require_sha256(record, oid)
        except BaseException as error:
            listing.unlink(missing_ok=True)
            if isinstance(error, UsageError):
                self._drop_damaged(record, sender)
            raise
        progress.add(record, NewFile(to_hex(record.hash), oid, listing, tuple(record.terms())))
        if before is not None:
            progress.known[oid] = before[1]

    def _drop_damaged(self, record: FileRecord, sender: Sender) -> None:
        """Forget pending xorbs of a file that are not what they were when they came: they are sent again then."""
        if self._pending.drop_damaged(sender.token, {term.xorb for term in record.terms()}):
            self._index.renew()

    def _require_room(self, record: FileRecord) -> None:
        size = sum(term.length for term in record.terms())
        if size > MOST_BYTES:
            raise UsageError("A file may have 1 TiB at most.")
        status = os.statvfs(self._folder.spool)
        if size > status.f_bavail * status.f_frsize:
            raise OSError(errno.ENOSPC, f"no space left for a file of {size:,} bytes")

    def _known(self, record: FileRecord, sender: Sender) -> tuple[str, int] | None:
        """The sha256 and the size of a file that is stored already, in a repo that the sender may read; else None.

        For anybody else it is put together again: how long an upload takes must not say what private repos have.
        """
        known = self._index.oid_of(to_hex(record.hash))
        if known is None or not is_readable(self._lfs, known, sender.may_read) or not self._lfs.is_intact(known):
            return None
        size = self._lfs.size(known)
        return (known, size) if size is not None else None

    def _content(self, record: FileRecord, sender: Sender) -> str:
        """The sha256 of the file, whose content is in the store afterwards, given to the sender's repo. UsageError."""
        handle, temporary = tempfile.mkstemp(dir=self._folder.spool)
        content, digest, size = Path(temporary), hashlib.sha256(), 0
        try:
            with os.fdopen(handle, "wb", buffering=2**20) as file:
                for run in self._runs(record, sender):
                    for piece in self._pieces(run, sender, compare=record.sha256 is None):
                        file.write(piece)
                        digest.update(piece)
                        size += len(piece)
            oid = digest.hexdigest()
            _require_sha256(record, oid)
            self._lfs.keep(content, sender.repo, oid, size)
            return oid
        finally:
            content.unlink(missing_ok=True)

    def _runs(self, record: FileRecord, sender: Sender) -> Iterator[Run]:
        """Where the chunks of a file are. UsageError for a term whose chunks the sender has not and may not read."""
        for term in record.terms():
            if time.thread_time() > sender.until:
                raise UsageError("The shard names chunks in too many places. Upload fewer files at once.")
            runs = self._find(term.xorb, term.start, term.end, sender)
            if runs is None:
                raise UsageError(f"The xorb {to_hex(term.xorb)} was not uploaded. Upload the files again.")
            _require_proof(term, runs)
            yield from runs

    def _find(self, xorb: bytes, start: int, end: int, sender: Sender, *, stored: bool = False) -> list[Run] | None:
        """Chunks of a xorb, in stored files that the sender may read; unless ``stored``, in its pending xorbs too."""
        if not stored and (chunks := self._pending.chunks(sender.token, xorb)) is not None:
            return [Run(chunks[start:end], start, xorb=xorb)] if end <= len(chunks) else None
        runs: list[Run] = []
        readable: dict[str, bool] = {}
        while start < end:
            place = self._place(xorb, start, sender, readable)
            if place is None:
                return None
            last = min(end, place.last)
            runs.append(self._stored_run(place.file, place.oid, place.position + start - place.first, last - start))
            start = last
        return runs

    def _place(self, xorb: bytes, chunk: int, sender: Sender, readable: dict[str, bool]) -> Place | None:
        """Where a chunk of a xorb is, in a stored file that the sender may read; ``readable`` is what was found so."""
        for place in self._index.places(xorb, chunk):
            if place.oid not in readable:
                readable[place.oid] = is_readable(self._lfs, place.oid, sender.may_read)
            if readable[place.oid]:
                return place
        return None

    def _stored_run(self, file: str, oid: str, position: int, count: int) -> Run:
        path, part = self._index.listing(file), self._index.part_with(file, position)
        try:
            assert part is not None
            offset = part.offset + sum(length for _, length in chunk_list.read(path, part.first, position))
            return Run(list(chunk_list.read(path, position, position + count)), oid=oid, offset=offset)
        except OSError as error:
            raise DamagedError(f"the chunk list of the LFS object {oid} cannot be read: {error}") from error

    def _pieces(self, run: Run, sender: Sender, *, compare: bool) -> Iterator[bytes]:
        """The content of chunks. Those of pending xorbs were compared with their hashes when they came; ``compare``
        does it again, for files whose sha256 the shard does not say.
        """
        if run.xorb is not None:
            contents = self._pending.contents(sender.token, run.xorb, run.start, run.start + len(run.chunks))
            for content, (digest, _) in zip(contents, run.chunks, strict=True):
                if compare and chunk_hash(content) != digest:
                    raise UsageError(f"The xorb {to_hex(run.xorb)} was damaged on this Hub. Upload again.")
                yield content
            return
        try:
            yield from stored_chunks(self._lfs, run.oid, run.offset, run.chunks)
        except DamagedError as error:
            self._index.remove(self._index.names_of(run.oid))  # the next upload sends these chunks again
            raise UsageError("A file on this Hub with some of the same content is damaged. Upload again.") from error

    def _drop_if_stored(self, xorb: bytes, sender: Sender) -> None:
        """Remove a pending xorb all of whose chunks are in stored files."""
        chunks = self._pending.chunks(sender.token, xorb)
        if chunks and self._find(xorb, 0, len(chunks), sender, stored=True) is not None:
            self._pending.remove(sender.token, xorb)


def is_readable(lfs: LfsStore, oid: str, may_read: MayRead) -> bool:
    """Whether an object is stored, and in a repo that the caller may read."""
    return lfs.size(oid) is not None and any(map(may_read, lfs.holders(oid)))


def stored_chunks(lfs: LfsStore, oid: str, offset: int, chunks: Iterable[chunk_list.Chunk]) -> Iterator[bytes]:
    """Chunks of an LFS object, each compared with its hash. DamagedError."""
    try:
        with lfs.path(oid).open("rb") as file:
            file.seek(offset)
            for digest, length in chunks:
                content = file.read(length)
                if chunk_hash(content) != digest:
                    raise DamagedError(f"the LFS object {oid} is damaged")
                yield content
    except OSError as error:
        raise DamagedError(f"the LFS object {oid} cannot be read: {error}") from error


def _require_little(records: Iterable[FileRecord]) -> int:
    """The bytes of the files of a shard, each counted once. Refuses one that would take hours: a few bytes name
    thousands of chunks.
    """
    files = terms = chunks = length = distinct = 0
    seen = set[bytes]()
    for record in records:
        files, terms, before = files + 1, terms + record.count, length
        for term in record.terms():
            chunks, length = chunks + term.end - term.start, length + term.length
        if record.hash not in seen:
            seen.add(record.hash)
            distinct += length - before
        if chunks > min(_MOST_CHUNKS, _SHORT_CHUNKS + length // _SHORTEST):
            raise UsageError(
                f"A shard may name {_SHORT_CHUNKS:,} chunks and one more for each {_SHORTEST:,} bytes of its files, "
                f"{_MOST_CHUNKS:,} at most. Upload fewer files at once."
            )
        if terms > _FEW_TERMS + files + length // _TERM_BYTES:
            raise UsageError(
                f"A shard may have {_FEW_TERMS:,} terms, and one more for each file and for each {_TERM_BYTES:,} bytes "
                "of its files. Upload fewer files at once."
            )
    return distinct


def _require_sha256(record: FileRecord, oid: str) -> None:
    if record.sha256 is not None and record.sha256 != oid:
        raise UsageError(f"The file {to_hex(record.hash)} has another sha256 than the shard says: {oid}.")


def _require_proof(term: Term, runs: list[Run]) -> None:
    """The length that the shard says, and the proof that its sender knows the chunks, when it sent one."""
    if sum(length for run in runs for _, length in run.chunks) != term.length:
        raise UsageError("The shard has a term of another length than its chunks have.")
    if term.proof is not None and range_hash(digest for run in runs for digest, _ in run.chunks) != term.proof:
        raise UsageError("The shard has a term whose verification is wrong.")
