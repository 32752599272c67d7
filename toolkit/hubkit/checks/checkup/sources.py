"""Where a checked model stands: a folder, or a repo on a Hub, of which only small parts are fetched."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from hubkit.checks.screening import PICKLE_SUFFIXES, Problem, numbers_of, screen_file
from hubkit.core.errors import RefusedError, UsageError
from hubkit.hub.client import Hub
from hubkit.models.tensors import header_length

_MOST = 64 * 1024 * 1024
"""Bytes of one read; a header, a tokenizer or a card is smaller."""
_SCREENED = 2 * 1024 * 1024
"""Bytes up to which any file of a repo is fetched to look for secrets."""
_SCREENED_TEXT = 16 * 1024 * 1024
"""The same for files that are text by their suffix."""
_START = 64 * 1024
"""Bytes from the beginning of other files that show whether they are pickles."""
_SUFFIXES = frozenset(
    {"", ".md", ".json", ".jsonl", ".txt", ".py", ".yaml", ".yml", ".jinja", ".toml", ".cfg", ".ini", ".sh", ".ipynb"}
)


class Source(Protocol):
    """The files of one model."""

    name: str

    def files(self) -> Mapping[str, int]:
        """Path to bytes, for every file."""
        ...

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """``length`` bytes of ``path`` from ``start`` on, or all of it. RefusedError for more than 64 MiB."""
        ...

    def screened(self) -> list[Problem]:
        """What :func:`hubkit.checks.screening.screen_file` finds in the files that are at hand."""
        ...

    def other(self, repo: str, revision: str | None) -> Mapping[str, int] | None:
        """The files of another repo that this model names; empty: there is none, None: nobody can ask."""
        ...


def _bounded(path: str, length: int) -> int:
    if length > _MOST:
        raise RefusedError(f"{path} is too large to be looked at ({length:,} bytes).")
    return length


class FolderSource:
    """A model in ``folder``. With ``hub``, repos that it names are looked up there."""

    def __init__(self, folder: Path, hub: Hub | None = None) -> None:
        if not folder.is_dir():
            raise UsageError(f"There is no folder {folder}.", hint="Name a folder, or a repo as namespace/name.")
        self.folder = folder
        self.hub = hub
        self.name = str(folder)

    def files(self) -> Mapping[str, int]:
        """Path to bytes; links to files are followed, as a cache of the Hub's client is made of them.

        The caches of git and of that client within the folder are left out.
        """
        found = {}
        for path in self._walk():
            try:
                status = path.stat()
            except OSError:  # a link to nowhere, or to itself
                continue
            if stat.S_ISREG(status.st_mode):
                found[path.relative_to(self.folder).as_posix()] = status.st_size
        return found

    def _walk(self) -> Iterator[Path]:
        """All but folders, in the order of their names; links to folders are not entered."""
        for place, folders, names in os.walk(self.folder):
            here = Path(place)
            folders[:] = sorted(set(folders) - {".git", ".cache"}) if here == self.folder else sorted(folders)
            links = [name for name in folders if (here / name).is_symlink()]
            yield from (here / name for name in sorted([*names, *links]))

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """See :class:`Source`."""
        size = (self.folder / path).stat().st_size
        with (self.folder / path).open("rb") as file:
            file.seek(start)
            return file.read(_bounded(path, size - start if length is None else length))

    def screened(self) -> list[Problem]:
        """See :class:`Source`."""
        found: list[Problem] = []
        for local in self._walk():
            path = local.relative_to(self.folder).as_posix()
            if local.is_symlink() and not self._ours(local):
                found.append(Problem(path, "special-file", "is a link to what is not in the folder"))
            elif not local.is_dir():
                problems = screen_file(path, local.resolve())
                found += problems or numbers_of(path, local.resolve())
        return found

    def _ours(self, link: Path) -> bool:
        """Whether a link leads to a file of the folder, or, in a cache of the Hub's client, of that cache."""
        try:
            target, folder = link.resolve(strict=True), self.folder.resolve()
        except (OSError, RuntimeError):
            return False
        cache = folder.parents[1] / "blobs" if folder.parent.name == "snapshots" else folder
        return target.is_file() and (target.is_relative_to(folder) or target.is_relative_to(cache))

    def other(self, repo: str, revision: str | None) -> Mapping[str, int] | None:
        """See :class:`Source`."""
        return _other(self.hub, repo, revision) if self.hub else None


class RepoSource:
    """A model in ``repo`` at ``revision`` of the Hub behind ``hub``; weights are not fetched, only their headers."""

    def __init__(self, hub: Hub, repo: str, revision: str = "main") -> None:
        self.hub, self.repo = hub, repo
        self.commit = hub.resolve(repo, revision)
        self.name = f"{repo}@{revision}"
        self._tree = {path: entry.size for path, entry in hub.tree(repo, self.commit).items()}
        self._kept: dict[str, bytes] = {}

    def files(self) -> Mapping[str, int]:
        """See :class:`Source`."""
        return self._tree

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """See :class:`Source`."""
        size = _bounded(path, self._tree[path] - start if length is None else length)
        if length is not None:
            return self._range(path, start, size)
        if path not in self._kept:
            self._kept[path] = self.hub.read_file(self.repo, path, self.commit) or b""
        return self._kept[path][start:]

    def _range(self, path: str, start: int, length: int) -> bytes:
        def read() -> bytes:
            with self.hub.opened(self.repo, path, self.commit, span=(start, start + length - 1)) as answer:
                skip = 0 if answer.status_code == 206 else start
                body = b""
                for block in answer.iter_bytes():
                    body += block
                    if len(body) >= skip + length:
                        break
                return body[skip : skip + length]

        return self.hub.query(read, repo=self.repo, revision=self.commit)

    def screened(self) -> list[Problem]:
        """See :class:`Source`. Of large files only the beginning is fetched, and of weights the header."""
        found = []
        with tempfile.TemporaryDirectory() as folder:
            for number, (path, size) in enumerate(self._tree.items()):
                start = self._start(path, size)
                if start is not None:
                    local = Path(folder) / str(number)
                    with local.open("wb") as file:
                        file.write(start)
                        file.truncate(size if path.endswith(".safetensors") else len(start))
                    found += screen_file(path, local)
                    local.unlink()
        return found

    def _start(self, path: str, size: int) -> bytes | None:
        """What of ``path`` is to be screened; None when it is a pickle by its name, or text too large to fetch."""
        suffix = Path(path).suffix.lower()
        if suffix == ".safetensors":
            try:
                length = header_length(self.read(path, 0, min(8, size)), size, path)
            except RefusedError:
                return self.read(path, 0, min(size, _START))
            return self.read(path, 0, 8 + length)
        if size <= (_SCREENED_TEXT if suffix in _SUFFIXES else _SCREENED):
            return self.read(path)
        return None if suffix in PICKLE_SUFFIXES or suffix in _SUFFIXES else self.read(path, 0, _START)

    def other(self, repo: str, revision: str | None) -> Mapping[str, int] | None:
        """See :class:`Source`."""
        return _other(self.hub, repo, revision)


def _other(hub: Hub, repo: str, revision: str | None) -> Mapping[str, int]:
    try:
        found = hub.tree(repo, revision or "main")
    except (UsageError, RefusedError):
        return {}
    return {path: entry.size for path, entry in found.items()}
