"""Refs of one repo, read from its files: a damaged one is an error that names it, whatever the others are."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pygit2

from hubkit.server.repos.objects import DamagedError, read_regular

_OID = re.compile(rb"([0-9a-f]{40})\s*")
_SYMBOLIC = re.compile(rb"ref:\s*(refs/[^\s\0]+)\s*")
_PACKED = re.compile(rb"([0-9a-f]{40}) ([^\s\0]+)")
_PEELED = re.compile(rb"\^[0-9a-f]{40}")
_REF_LIMIT, _PACKED_LIMIT, _DEPTH = 4096, 2**28, 5


class Packed(dict[str, str]):
    """The refs of ``packed-refs``: name to id. ``version`` tells the file that was read from one that replaced it."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.version = _packed_version(root)


def _packed_version(root: Path) -> tuple[int, ...] | None:
    try:
        status = os.lstat(f"{root}/packed-refs")
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def read(root: Path, name: str, depth: int = _DEPTH, *, known: Packed | None = None) -> str | None:
    """The id that the ref ``name`` holds, through symbolic refs; None when there is no such ref. DamagedError.

    With a negative ``depth`` a symbolic ref holds none. ``known`` are the refs of ``packed-refs``, for a caller who has
    read it for many names, after :func:`names`; they count for as long as that file stays as it is.
    """
    try:
        content = read_regular(f"{root}/{name}", _REF_LIMIT)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        if known and name in known and known.version == _packed_version(root):
            return known[name]
        if not (root / "refs").is_dir():
            raise DamagedError("the folder of refs is missing") from None
        return packed(root).get(name)
    except DamagedError as error:
        if (root / name).is_dir() and not (root / name).is_symlink():
            return packed(root).get(name)  # a folder of refs whose names start so
        raise DamagedError(f"the ref {name} cannot be read: {error}") from error
    except ValueError:  # no name of a file
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise DamagedError(f"the ref {name} cannot be read: {error}") from error
    if match := _OID.fullmatch(content):
        return match[1].decode()
    if (match := _SYMBOLIC.fullmatch(content)) and depth > 0:
        target = match[1].decode("utf-8", "replace")
        if pygit2.reference_is_valid_name(target):
            return read(root, target, depth - 1, known=known)
    if match and depth < 0:
        return None
    raise DamagedError(f"the ref {name} holds no commit")


def folders(root: Path, name: str) -> list[Path]:
    """The folders that change when the ref ``name`` gets a file: its own, and those above that come into being."""
    found = [(root / name).parent]
    while not found[-1].is_dir():
        found.append(found[-1].parent)
    return found


def move(root: Path, name: str, new: str, old: str) -> bool:
    """Let a ref that exists hold ``new`` if it holds ``old`` itself; False when it does not. OSError, DamagedError.

    As git does it: in a file that is its lock, which is on disk before it gets the ref's name. Not by libgit2, which
    stops all threads while it waits for the disk. The caller flushes the :func:`folders`.
    """
    path = root / name
    lock = path.with_name(f"{path.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)  # not there for a packed one
    try:
        handle = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise DamagedError(f"the ref {name} is locked by {lock.name}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(f"{new}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        if moved := not path.is_symlink() and read(root, name, -1) == old:
            lock.replace(path)
    except BaseException:
        lock.unlink()
        raise
    if not moved:
        lock.unlink()
    return moved


def packed(root: Path) -> Packed:
    """The refs of ``packed-refs``: name to id. DamagedError when a line of it is not one of git's."""
    refs = Packed(root)
    try:
        content = read_regular(root / "packed-refs", _PACKED_LIMIT)
    except FileNotFoundError:
        return refs
    except (OSError, DamagedError) as error:
        raise DamagedError(f"packed-refs cannot be read: {error}") from error
    for number, line in enumerate(content.splitlines(), 1):
        if not line or line.startswith(b"#") or _PEELED.fullmatch(line):
            continue
        match = _PACKED.fullmatch(line)
        if match is None:
            raise DamagedError(f"packed-refs is damaged in line {number}")
        refs[match[2].decode("utf-8", "replace")] = match[1].decode()
    if content and not content.endswith(b"\n"):
        raise DamagedError("packed-refs is damaged: its last line is cut off")
    return refs


def names(root: Path) -> Iterator[str]:
    """The full names of all refs, sorted. DamagedError when they cannot be listed."""
    found, top = set[str](), root / "refs"
    if not top.is_dir():
        raise DamagedError("the folder of refs is missing")

    def refuse(error: OSError) -> None:
        raise DamagedError(f"the folder of refs cannot be read: {error}") from error

    for folder, folders, files in os.walk(top, onerror=refuse):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        inside = Path(folder).relative_to(root).as_posix()
        for name in (*files, *links):
            full = f"{inside}/{name}"
            if not name.endswith(".lock") and _is_name(full):
                found.add(full)
    yield from sorted(found.union(packed(root)))  # last: a ref may move there meanwhile


def _is_name(name: str) -> bool:
    try:
        return bool(pygit2.reference_is_valid_name(name))
    except (ValueError, UnicodeError):
        return False
