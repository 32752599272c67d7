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


def read(root: Path, name: str, depth: int = _DEPTH) -> str | None:
    """The id that the ref ``name`` holds, through symbolic refs; None when there is no such ref. DamagedError."""
    try:
        content = read_regular(root / name, _REF_LIMIT)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
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
            return read(root, target, depth - 1)
    raise DamagedError(f"the ref {name} holds no commit")


def packed(root: Path) -> dict[str, str]:
    """The refs of ``packed-refs``: name to id. DamagedError when a line of it is not one of git's."""
    try:
        content = read_regular(root / "packed-refs", _PACKED_LIMIT)
    except FileNotFoundError:
        return {}
    except (OSError, DamagedError) as error:
        raise DamagedError(f"packed-refs cannot be read: {error}") from error
    refs = {}
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
    found = set(packed(root))
    top = root / "refs"
    if not top.is_dir():
        raise DamagedError("the folder of refs is missing")

    def refuse(error: OSError) -> None:
        raise DamagedError(f"the folder of refs cannot be read: {error}") from error

    for folder, folders, files in os.walk(top, onerror=refuse):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in (*files, *links):
            full = Path(folder, name).relative_to(root).as_posix()
            if not name.endswith(".lock") and _is_name(full):
                found.add(full)
    yield from sorted(found)


def _is_name(name: str) -> bool:
    try:
        return bool(pygit2.reference_is_valid_name(name))
    except (ValueError, UnicodeError):
        return False
