"""Atomic file writes, directory walks, digests, manifests."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from hubkit.core.errors import ConflictError, HubkitError
from hubkit.core.names import path_problem
from hubkit.core.numbers import counted

MANIFEST = "manifest.json"
_BLOCK = 4 * 1024 * 1024


def resource_dir(name: str) -> Path:
    """The folder ``name`` of the checkout (``card_templates``); in a wheel it lies in ``hubkit/_data``."""
    packaged = Path(str(package_files("hubkit"))) / "_data" / name
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / name


def fsync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes | str, *, mode: int = 0o644) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the new one, never a part of it.

    Raises HubkitError naming the path and the bytes that were needed when the disk is full.
    """
    body = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise os_error(error, path, len(body)) from error
    fsync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically, keys in the order given."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in ``path``; ConflictError when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConflictError(f"{path} is not valid JSON: {error}.", hint="Remove it and run again.") from error


def os_error(error: OSError, path: Path, size: int | None = None) -> HubkitError:
    """One sentence for an error of the operating system while ``size`` bytes went to ``path``."""
    if error.errno in {28, 122, 27}:  # ENOSPC, EDQUOT, EFBIG
        needed = f" ({counted(size, 'byte')} were to be written)" if size is not None else ""
        return HubkitError(
            f"The disk is full at {path}{needed}.",
            hint="Free space there, or set HUBKIT_HOME to a folder on another disk, and run the same command.",
        )
    verb = "open" if size is None else "write"
    return HubkitError(f"Cannot {verb} {path}: {error.strerror or error}.", hint="Check the path and its permissions.")


def walk(folder: Path) -> Iterator[Path]:
    """Every regular file below ``folder``, sorted by its path.

    Links and special files are refused: what is published must be what is in the folder.
    """
    for entry in sorted(os.scandir(folder), key=lambda item: item.name):
        kind = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(kind):
            yield from walk(Path(entry.path))
        elif stat.S_ISREG(kind):
            yield Path(entry.path)
        else:
            what = "a symbolic link" if stat.S_ISLNK(kind) else "not a regular file"
            raise ConflictError(f"{entry.path} is {what}.", hint="Replace it with a copy of the file.")


@dataclass(frozen=True)
class Digests:
    """What identifies a file's content: its size in bytes, its sha256 and its git blob id (SHA-1).

    A Hub shows the sha256 of files in LFS and the git id of the others, so both are kept.
    """

    size: int
    sha256: str
    git: str


def digests(path: Path) -> Digests:
    """Size, sha256 and git blob id of ``path``, from one read."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        done = 0
        while block := file.read(_BLOCK):
            sha256.update(block)
            git.update(block)
            done += len(block)
    if done != size:
        raise ConflictError(f"{path} changed while it was read.", hint="Let its writer finish and run again.")
    return Digests(size, sha256.hexdigest(), git.hexdigest())


def digest_of(value: Any) -> str:
    """sha256 of ``value`` as canonical JSON (sorted keys): the key of settings and inputs."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The files of a folder, by path in POSIX form, with their digests."""

    files: Mapping[str, Digests]

    @classmethod
    def of(cls, folder: Path, known: Mapping[str, Digests] | None = None) -> Manifest:
        """Measure ``folder``; digests in ``known`` (from the writer of the files) are believed when the size agrees."""
        found: dict[str, Digests] = {}
        for path in walk(folder):
            name = path.relative_to(folder).as_posix()
            if name == MANIFEST:
                continue
            if problem := path_problem(name):
                raise ConflictError(f"{path} cannot be kept: {problem}.", hint="Rename the file.")
            given = (known or {}).get(name)
            found[name] = given if given and given.size == path.stat().st_size else digests(path)
        return cls(found)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Manifest:
        """The manifest that :meth:`to_json` wrote."""
        return cls({item["path"]: Digests(item["size"], item["sha256"], item["git"]) for item in value["files"]})

    def to_json(self) -> dict[str, Any]:
        """``{"files": [{"path", "size", "sha256", "git"}]}``, sorted by path."""
        return {
            "files": [
                {"path": path, "size": item.size, "sha256": item.sha256, "git": item.git}
                for path, item in sorted(self.files.items())
            ]
        }

    @property
    def digest(self) -> str:
        """sha256 over the sorted paths and contents; equal trees have equal digests."""
        return digest_of([[path, item.size, item.sha256] for path, item in sorted(self.files.items())])

    def only(self, path: str) -> Manifest:
        """The part of it that is the file ``path``; all of it when there is no such file."""
        return Manifest({path: self.files[path]}) if path in self.files else self

    @property
    def size(self) -> int:
        """Bytes of all the files together."""
        return sum(item.size for item in self.files.values())

    def differences(self, folder: Path) -> list[str]:
        """What in ``folder`` is not as the manifest says, a sentence each; empty when all is."""
        differences = []
        there = {path.relative_to(folder).as_posix(): path for path in walk(folder)}
        there.pop(MANIFEST, None)
        for name, item in self.files.items():
            if name not in there:
                differences.append(f"{name} is missing")
            elif there[name].stat().st_size != item.size or digests(there[name]).sha256 != item.sha256:
                differences.append(f"{name} has other content")
        differences += [f"{name} is not in the manifest" for name in sorted(there.keys() - self.files.keys())]
        return differences
