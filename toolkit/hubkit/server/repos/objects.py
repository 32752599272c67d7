"""Git objects of one repo, read so that a damaged file is an error and never a hang, a crash or wrong bytes.

libgit2 1.9 inflates a truncated loose object for ever, with Python's lock held, so that not even a signal is handled.
Loose objects are therefore read here: by zlib, at most as many bytes as the object says that it has, and compared with
their digest. Packs are libgit2's, once the checksum that git wrote at their end was found to be right.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import threading
import zlib
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import pygit2
from pygit2.enums import ObjectType

_KINDS = {int(getattr(ObjectType, kind.upper())): kind for kind in ("commit", "tree", "blob", "tag")}
_HEAD = re.compile(rb"(blob|tree|commit|tag) (0|[1-9][0-9]{0,14})\0")
_HEAD_BYTES, _LARGEST, _RATIO = 64, 2**29, 1100
"""Bytes to find a head in; the largest file and the largest object that are read; more than zlib can make of a byte."""
_SMALL = 4096
_Read = TypeVar("_Read")
_Version = tuple[int, ...]
_DIGEST = 20
_INDEX = re.compile(r"pack-[0-9a-f]{40}\.(pack|idx)")
_LOOSE_FOLDER, _LOOSE_FILE = re.compile(r"[0-9a-f]{2}"), re.compile(r"[0-9a-f]{38}")


class DamagedError(Exception):
    """Something of a repo cannot be read. The message says what; it is for the log and for ``hubkit hub fsck``."""


class MissingError(Exception):
    """There is no object of this id."""


def object_id(kind: str, content: bytes) -> str:
    """The id that git gives an object."""
    digest = hashlib.sha1(f"{kind} {len(content)}\0".encode(), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


def read_regular(path: Path | str, most: int) -> bytes:
    """A regular file of at most ``most`` bytes; never through a link, never waiting. OSError, DamagedError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedError(f"{Path(path).name} is not a file")
        if status.st_size > most:
            raise DamagedError(f"{Path(path).name} is too large")
        content = os.read(handle, _SMALL)
        if len(content) == _SMALL:
            with os.fdopen(handle, "rb", closefd=False) as file:
                content += file.read(most - _SMALL)
        return content
    finally:
        os.close(handle)


class Objects:
    """The objects of one bare repo; ``root`` is its folder. Those in the folder ``incoming`` are read first."""

    def __init__(self, root: Path, incoming: Path | None = None) -> None:
        self.folder, self.incoming = root / "objects", incoming

    def read(self, oid: str) -> tuple[str, bytes]:
        """Kind and content of an object. MissingError when there is none, DamagedError when it cannot be read."""
        for path in (f"{self.incoming}/{oid}", f"{self.incoming}/{oid[:2]}/{oid[2:]}") if self.incoming else ():
            if os.path.exists(path):  # noqa: PTH110 - read for each object of a commit
                return inflate(oid, read_regular(path, _LARGEST))
        if self.incoming and os.path.isdir(f"{self.incoming}/pack"):  # noqa: PTH112
            with contextlib.suppress(MissingError):
                return self._packed(oid, self.incoming)
        try:
            return self._loose(oid)
        except FileNotFoundError:
            return self._packed(oid)
        except (OSError, DamagedError) as error:
            try:
                return self._packed(oid)  # a repack may have kept a sound copy
            except (MissingError, DamagedError):
                raise DamagedError(f"the object {oid} cannot be read: {_reason(error)}") from error

    def head(self, oid: str) -> tuple[str, int]:
        """Kind and size of an object, whose content is not read. MissingError, DamagedError."""
        if self.incoming and (self.incoming / oid).exists():
            kind, content = self.read(oid)
            return kind, len(content)
        for folder in filter(None, (self.incoming, self.folder)):
            try:
                kind, size, _ = _parse_head(_first_bytes(_path(folder, oid)))
                return kind, size
            except (OSError, DamagedError):
                with contextlib.suppress(MissingError):
                    return self._packed_head(oid, folder)
        if os.path.lexists(_path(self.folder, oid)):
            raise DamagedError(f"the object {oid} cannot be read")
        raise MissingError(oid)

    def kind(self, oid: str, packs: Hashable = None) -> str:
        """Kind of an object. A commit or a tag is read, once for as long as its file or the packs stay as they are.

        ``packs`` is a :meth:`packs_version`, for a caller who asks for many. MissingError, DamagedError.
        """
        version: Hashable
        try:
            version = _version(os.lstat(f"{self.folder}/{oid[:2]}/{oid[2:]}"))
        except OSError:
            if self.incoming:
                return _read_kind(self, oid)
            version = packs or self.packs_version()
        try:
            return _kind(self.folder.parent, oid, version)
        except (MissingError, DamagedError):
            if self.incoming is None:
                raise
            return _read_kind(self, oid)  # a sound one may be on its way

    def packs_version(self) -> Hashable:
        """Another value for each state of the folder of packs."""
        try:
            with os.scandir(self.folder / "pack") as files:
                return tuple(sorted((file.name, _version(file.stat(follow_symlinks=False))) for file in files))
        except OSError:
            return None

    def load(self, oid: str, kind: str) -> bytes:
        """The content of an object that another one or a ref names. DamagedError when it is missing or no ``kind``."""
        try:
            found, content = self.read(oid)
        except MissingError:
            raise DamagedError(f"the {kind} {oid} is missing") from None
        if found != kind:
            raise DamagedError(f"the object {oid} is a {found}, not a {kind}")
        return content

    def by_prefix(self, prefix: str) -> str | None:
        """The full id of the one object whose id starts so (4 characters or more); None for none or several."""
        try:
            names = _names(self.folder / prefix[:2])
        except OSError:
            names = []
        found = {prefix[:2] + name for name in names if _LOOSE_FILE.fullmatch(name) and name.startswith(prefix[2:])}
        if packs := self._packs():
            try:
                found.add(str(packs[1].exists_prefix(prefix)))
            except KeyError:
                pass
            except (ValueError, pygit2.GitError):
                return None
        return found.pop() if len(found) == 1 else None

    def loose(self) -> Iterator[str]:
        """Ids of all loose objects."""
        for folder in sorted(self.folder.iterdir()):
            if _LOOSE_FOLDER.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                yield from sorted(f"{folder.name}{name}" for name in _names(folder) if _LOOSE_FILE.fullmatch(name))

    def discard_damaged(self, oid: str) -> None:
        """Remove the loose object of this id if it is damaged: git would not write a sound one over it.

        DamagedError when something is at its place that is not a file.
        """
        path = _path(self.folder, oid)
        try:
            self._loose(oid)
        except FileNotFoundError:
            pass
        except (DamagedError, OSError):
            if not path.is_symlink() and not path.is_file():
                raise DamagedError(f"the place of the object {oid} is taken") from None
            path.unlink()

    def check_packs(self) -> None:
        """DamagedError naming a pack, its index or another file of git's own that was damaged since git wrote it."""
        _check_packs(self.folder)

    # ------------------------------------------------------------------------------------------------------------

    def _loose(self, oid: str) -> tuple[str, bytes]:
        return inflate(oid, read_regular(f"{self.folder}/{oid[:2]}/{oid[2:]}", _LARGEST))

    def _packed(self, oid: str, folder: Path | None = None) -> tuple[str, bytes]:
        return _while_packs_change(folder or self.folder, lambda: self._read_packed(oid, folder))

    def _packed_head(self, oid: str, folder: Path | None = None) -> tuple[str, int]:
        return _while_packs_change(folder or self.folder, lambda: self._read_packed_head(oid, folder))

    def _read_packed(self, oid: str, folder: Path | None) -> tuple[str, bytes]:
        _, size = self._read_packed_head(oid, folder)
        if size > _LARGEST:
            raise DamagedError(f"the packed object {oid} is too large")
        packs = self._packs(folder)
        if packs is None:
            raise MissingError(oid)
        with _reading_packed(oid):
            kind, content = packs[0].read(oid)
        return _KINDS[int(kind)], content

    def _read_packed_head(self, oid: str, folder: Path | None) -> tuple[str, int]:
        packs = self._packs(folder)
        if packs is None:
            raise MissingError(oid)
        with _reading_packed(oid):
            kind, size = packs[1].read_header(oid)
        return _KINDS[int(kind)], size

    def _packs(self, folder: Path | None = None) -> tuple[pygit2.Odb, pygit2.OdbBackendPack] | None:
        """libgit2's view of the packs, None without any. DamagedError when one is not as git wrote it.

        Each thread keeps its own, for as long as no file changes: to open them costs more than to read an object.
        """
        folder = folder or self.folder
        try:
            names = _names(folder / "pack")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DamagedError(f"the folder of packs cannot be read: {_reason(error)}") from error
        if not any(_INDEX.fullmatch(name) for name in names):
            return None
        versions = _check_packs(folder)
        opened: dict[Path, _Opened] = _kept.__dict__.setdefault("opened", {})
        if folder in opened and opened[folder][0] == versions:
            return opened[folder][1:]
        backend, odb = pygit2.OdbBackendPack(str(folder)), pygit2.Odb()
        odb.add_backend(backend, 1)
        while len(opened) >= _KEPT:
            del opened[next(iter(opened))]
        opened[folder] = (versions, odb, backend)
        return odb, backend


def _read_kind(objects: Objects, oid: str) -> str:
    kind, _ = objects.head(oid)
    return objects.read(oid)[0] if kind in {"commit", "tag"} else kind  # a file may be large


@lru_cache(maxsize=65_536)
def _kind(root: Path, oid: str, version: Hashable) -> str:
    """The kind of an object; ``version`` is of the stat of its loose file, or of the packs."""
    return _read_kind(Objects(root), oid)


def _while_packs_change(folder: Path, read: Callable[[], _Read]) -> _Read:
    """What ``read`` returns; it is called again when it fails while packs are replaced by one of what is in use."""
    before: list[str] | None = None
    while True:
        try:
            return read()
        except (MissingError, DamagedError):
            try:
                now = sorted(_names(folder / "pack"))
            except OSError:
                now = []
            if now in ([], before):
                raise
            before = now


@contextlib.contextmanager
def _reading_packed(oid: str) -> Iterator[None]:
    try:
        yield
    except KeyError:
        raise MissingError(oid) from None
    except (ValueError, pygit2.GitError) as error:
        raise DamagedError(f"the packed object {oid} cannot be read: {error}") from error


_Opened = tuple[dict[Path, _Version], pygit2.Odb, pygit2.OdbBackendPack]
_KEPT = 4
"""How many repos' packs a thread keeps open."""
_kept = threading.local()


def _check_packs(folder: Path) -> dict[Path, _Version]:
    """The versions of the files that libgit2 maps into memory and trusts. DamagedError."""
    versions, problems = {}, []
    for path in _checked_files(folder):
        try:
            versions[path] = _version(path.lstat())
        except OSError:
            versions[path] = ()
        if problem := _file_problem(path):
            problems.append(problem)
    if problems:
        raise DamagedError("; ".join(problems))
    return versions


def _checked_files(objects: Path) -> Iterator[Path]:
    """The files that libgit2 maps into memory and trusts; each ends with a digest of what is before it."""
    for folder in (objects / "pack", objects / "info", objects / "info" / "commit-graphs"):
        try:
            names = sorted(_names(folder))
        except OSError:
            continue
        for name in names:
            if _INDEX.fullmatch(name) or name in {"multi-pack-index", "commit-graph"} or name.endswith(".graph"):
                yield folder / name


def _version(status: os.stat_result) -> _Version:
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def inflate(oid: str, compressed: bytes) -> tuple[str, bytes]:
    """Kind and content of the loose object ``oid`` from its file. DamagedError for anything but that object."""
    stream = zlib.decompressobj()
    try:
        start = stream.decompress(compressed, _HEAD_BYTES)
        kind, size, end = _parse_head(start)
        if size > _RATIO * len(compressed):
            raise DamagedError("it is shorter than it says")
        if size > _LARGEST:
            raise DamagedError("it is too large")
        content = start[end:]
        content += stream.decompress(stream.unconsumed_tail, max(1, size - len(content) + 1))
    except zlib.error as error:
        raise DamagedError(f"it is not compressed as git does: {error}") from error
    if len(content) != size or not stream.eof or stream.unused_data:
        raise DamagedError("it is shorter or longer than it says")
    digest = hashlib.sha1(start[:end], usedforsecurity=False)
    digest.update(content)
    if digest.hexdigest() != oid:
        raise DamagedError("its content has another digest")
    return kind, content


def _parse_head(start: bytes) -> tuple[str, int, int]:
    """Kind and size of a loose object from its first bytes, and where its content begins. DamagedError."""
    head = _HEAD.match(start)
    if head is None:
        raise DamagedError("it has no head")
    return head[1].decode(), int(head[2]), head.end()


def _first_bytes(path: Path) -> bytes:
    """What the first bytes of a loose object inflate to. OSError, DamagedError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DamagedError(f"{path.name} is not a file")
        try:
            return zlib.decompressobj().decompress(file.read(4 * _HEAD_BYTES), _HEAD_BYTES)
        except zlib.error as error:
            raise DamagedError(f"it is not compressed as git does: {error}") from error


def _file_problem(path: Path) -> str | None:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return f"{path.name} is not a file"
        version = _version(status)
        if path.suffix in {".pack", ".idx"} and not path.with_suffix(_OTHER[path.suffix]).is_file():
            return f"{path.with_suffix(_OTHER[path.suffix]).name} is missing"
        return None if _is_as_written(path, version) else f"{path.name} is damaged: its checksum is another"
    except OSError as error:
        return f"{path.name} cannot be read: {_reason(error)}"


_OTHER = {".pack": ".idx", ".idx": ".pack"}


@lru_cache(maxsize=4096)
def _is_as_written(path: Path, version: tuple[int, ...]) -> bool:
    """Whether a file ends with the SHA-1 of the rest. ``version`` is of its stat: a file is read once."""
    size = version[1]
    if size < 3 * _DIGEST - 20:
        return False
    digest = hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as file:
        left = size - _DIGEST
        while left > 0:
            if not (piece := file.read(min(2**20, left))):
                return False
            digest.update(piece)
            left -= len(piece)
        trailer = file.read()
    if trailer != digest.digest():
        return False
    if path.suffix != ".idx":
        return True
    with path.open("rb") as index, path.with_suffix(".pack").open("rb") as pack:  # they belong together
        index.seek(-2 * _DIGEST, os.SEEK_END)
        pack.seek(-_DIGEST, os.SEEK_END)
        return index.read(_DIGEST) == pack.read()


def _path(folder: Path, oid: str) -> Path:
    return folder / oid[:2] / oid[2:]


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
