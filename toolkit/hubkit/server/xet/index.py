"""What the database knows of files that were uploaded by Xet, and their lists of chunks on disk.

A file is known by its Xet hash; its content is the LFS object of its row. Its *parts* are the xorbs in which it is
downloaded. Its *terms* say which chunks of which xorbs it has, those of clients and its parts. Of some of its *chunks*
clients ask whether the Hub has them.
"""

from __future__ import annotations

import hmac
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hubkit.server.storage.database import Database
from hubkit.server.storage.flushing import flush_files, flush_folders
from hubkit.server.storage.folder import Folder
from hubkit.server.xet import chunk_list
from hubkit.server.xet.hashes import HEX, is_asked_for, to_hex, xorb_hash
from hubkit.server.xet.shards import Term

_GENERATION = "xet"
_PLACES = 100


@dataclass(frozen=True)
class Part:
    """A group of chunks of a stored file, as a download gets them: a xorb of its own."""

    xorb: str
    first: int
    last: int
    offset: int
    length: int


@dataclass(frozen=True)
class Place:
    """Chunks ``first`` to ``last`` of a xorb, the last not included: in a file, from number ``position`` on."""

    file: str
    oid: str
    first: int
    last: int
    position: int


@dataclass(frozen=True)
class NewFile:
    """A file to be added: its Xet hash, its LFS object, its list of chunks somewhere on disk, its terms."""

    name: str
    oid: str
    listing: Path
    terms: tuple[Term, ...]


class Index:
    """The index of one data folder."""

    def __init__(self, folder: Folder, database: Database) -> None:
        self._folder, self._db = folder, database
        self._secret = bytes.fromhex(database.meta("secret"))

    def address(self, token: str) -> str:
        """The last part of the address that clients get. It is another one for each token, and after something was
        deleted: clients remember by it what they need not send again.
        """
        row = self._db.row("SELECT value FROM meta WHERE key = ?", _GENERATION)
        generation = row["value"] if row else "0"
        return hmac.new(self._secret, f"xet address {generation} {token}".encode(), "sha256").hexdigest()[:32]

    def hash_of(self, repo: str, oid: str) -> str | None:
        """The Xet hash of an LFS object of a repo (by its internal id); None when it was not uploaded by Xet."""
        return self.hashes_of(repo, [oid]).get(oid)

    def hashes_of(self, repo: str, oids: Iterable[str]) -> dict[str, str]:
        """The Xet hashes of those LFS objects that have one and that the repo was given. A pointer is not enough:
        anybody may commit one, to find out whether a private file is here.
        """
        wanted, found = list(dict.fromkeys(oids)), dict[str, str]()
        for start in range(0, len(wanted), 500):
            some = wanted[start : start + 500]
            marks = ", ".join("?" * len(some))
            rows = self._db.rows(
                "SELECT xet_files.oid, hash FROM xet_files JOIN lfs ON lfs.oid = xet_files.oid AND lfs.repo = ? "
                f"WHERE xet_files.oid IN ({marks}) ORDER BY xet_files.rowid DESC",
                repo, *some,
            )  # fmt: skip
            found |= {row["oid"]: row["hash"] for row in rows}
        return found

    def oid_of(self, digest: str) -> str | None:
        """The LFS object with this Xet hash."""
        row = self._db.row("SELECT oid FROM xet_files WHERE hash = ?", digest)
        return str(row["oid"]) if row else None

    def files(self) -> list[tuple[str, str]]:
        """The Xet hash and the LFS object of every file."""
        return [(row["hash"], row["oid"]) for row in self._db.rows("SELECT hash, oid FROM xet_files ORDER BY oid")]

    def listing(self, name: str) -> Path:
        """The list of chunks of a file."""
        return self._folder.xet / "files" / name[:2] / name

    def parts(self, name: str) -> list[Part]:
        """The parts of a file, in order."""
        rows = self._db.rows("SELECT * FROM xet_parts WHERE file = ? ORDER BY position", name)
        return [_part(row) for row in rows]

    def part_with(self, name: str, position: int) -> Part | None:
        """The part of a file that has the chunk of this number."""
        rows = self._db.rows(
            "SELECT * FROM xet_parts WHERE file = ? AND position <= ? AND position + count > ? "
            "ORDER BY position DESC LIMIT 1",
            name, position, position,
        )  # fmt: skip
        return _part(rows[0]) if rows else None

    def places(self, xorb: bytes, chunk: int) -> Iterator[Place]:
        """Where a chunk of a xorb is. Few are read at a time: thousands of files may have the same xorb."""
        after: tuple[int, int, str] | None = (-1, -1, "")
        while after is not None:
            rows = self._db.rows(
                "SELECT xet_terms.*, xet_files.oid FROM xet_terms "
                "CROSS JOIN xet_files ON xet_files.hash = xet_terms.file "  # CROSS: in the order of the key, unsorted
                "WHERE xorb = ? AND first <= ? AND last > ? AND (first, last, file) > (?, ?, ?) "
                "ORDER BY first, last, file LIMIT ?",
                to_hex(xorb), chunk, chunk, *after, _PLACES,
            )  # fmt: skip
            yield from (Place(row["file"], row["oid"], row["first"], row["last"], row["position"]) for row in rows)
            after = (rows[-1]["first"], rows[-1]["last"], rows[-1]["file"]) if len(rows) == _PLACES else None

    def with_chunk(self, chunk: str, most: int = 100) -> list[tuple[str, str, int]]:
        """Files that have a chunk which clients ask for: Xet hash, LFS object, and which chunk of the file it is."""
        rows = self._db.rows(
            "SELECT xet_chunks.file, xet_chunks.position, xet_files.oid FROM xet_chunks "
            "JOIN xet_files ON xet_files.hash = xet_chunks.file WHERE chunk = ? LIMIT ?",
            chunk, most,
        )  # fmt: skip
        return [(row["file"], row["oid"], row["position"]) for row in rows]

    def add(self, files: Sequence[NewFile]) -> None:
        """Add files whose content is stored, all together, with their lists of chunks, which are moved away."""
        try:
            flush_files(new.listing for new in files)
            for new in files:
                target = self.listing(new.name)
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                new.listing.chmod(0o600)
                new.listing.replace(target)
            flush_folders(self.listing(new.name).parent for new in files)
            if files:
                with self._db.transaction():
                    for new in files:
                        self._add(new)
        finally:
            for new in files:
                new.listing.unlink(missing_ok=True)

    def _add(self, new: NewFile) -> None:
        self._db.run("INSERT OR IGNORE INTO xet_files (hash, oid) VALUES (?, ?)", new.name, new.oid)
        position = 0
        for term in new.terms:
            self._add_term(to_hex(term.xorb), term.start, term.end, new.name, position)
            position += term.end - term.start
        self._add_parts(new.name)

    def _add_term(self, xorb: str, first: int, last: int, name: str, position: int) -> None:
        self._db.run(
            "INSERT OR IGNORE INTO xet_terms (xorb, first, last, file, position) VALUES (?, ?, ?, ?, ?)",
            xorb, first, last, name, position,
        )  # fmt: skip

    def _add_parts(self, name: str) -> None:
        """The groups of a file in which it is downloaded, and the chunks that clients ask for."""
        position = offset = 0
        for group in chunk_list.groups(chunk_list.read(self.listing(name))):
            length, xorb = sum(size for _, size in group), to_hex(xorb_hash(group))
            self._db.run(
                "INSERT OR IGNORE INTO xet_parts (file, position, count, offset, length, xorb) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                name, position, len(group), offset, length, xorb,
            )  # fmt: skip
            self._add_term(xorb, 0, len(group), name, position)
            for number, (digest, _) in enumerate(group):
                if position + number == 0 or is_asked_for(digest):
                    self._db.run(
                        "INSERT OR IGNORE INTO xet_chunks (chunk, file, position) VALUES (?, ?, ?)",
                        to_hex(digest), name, position + number,
                    )  # fmt: skip
            position, offset = position + len(group), offset + length

    def remove(self, names: Iterable[str]) -> None:
        """Forget files, and give clients new addresses if there were any (:meth:`address`)."""
        gone, names = 0, list(names)
        with self._db.transaction():
            for name in names:
                gone += self._db.run("DELETE FROM xet_files WHERE hash = ?", name)
            if gone:
                self.renew()
        for name in names:
            self.listing(name).unlink(missing_ok=True)

    def names_of(self, oid: str) -> list[str]:
        """The Xet hashes of an LFS object: one for each way in which it was cut into chunks."""
        return [row["hash"] for row in self._db.rows("SELECT hash FROM xet_files WHERE oid = ?", oid)]

    def renew(self) -> None:
        """Give clients new addresses: what they remember of uploads is no longer so."""
        self._db.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", _GENERATION, secrets.token_hex(8))

    def stray_lists(self) -> list[Path]:
        """Lists of chunks of files that are not known. Links are not followed, and other files are not the Hub's."""
        known = {name for name, _ in self.files()}
        folder = self._folder.xet / "files"
        found = sorted(folder.glob("*/*")) if folder.is_dir() and not folder.is_symlink() else []
        return [
            path
            for path in found
            if HEX.fullmatch(path.name) and path.name not in known
            and path == self.listing(path.name) and path.is_file()
            and not path.is_symlink() and not path.parent.is_symlink()
        ]  # fmt: skip


def _part(row: sqlite3.Row) -> Part:
    return Part(row["xorb"], row["position"], row["position"] + row["count"], row["offset"], row["length"])
