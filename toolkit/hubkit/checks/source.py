"""A folder or a revision of a repo, read alike: `hubkit check`, `card lint`, `verify` and `revisions diff` use it.

    source = FolderSource(Path("model"))            source = RepoSource(hub, "me/model", "main")
    source.files()["config.json"].size              source.read("model.safetensors", 0, 8)

Of a repo nothing is kept on disk, and a large file is read in parts.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.trees import Entry, Tree
from hubkit.hub.client import Hub, RepoType
from hubkit.hub.errors import MissingFileError
from hubkit.hub.files import is_part
from hubkit.hub.revision_names import commit_of

T = TypeVar("T")
MAX_READ_BYTES = 64 * 1024 * 1024
"""Bytes of one read; a header, a tokenizer or a card is smaller."""
_BLOCK = 1024 * 1024
_SMALL = 64 * 1024
"""Up to this size a file of a repo is read whole, even for a part of it: only then its digest can be compared."""
_Others = dict[tuple[str, str], Mapping[str, Entry]]
_CACHES = frozenset({".git", ".cache"})
"""The folders that git and the Hub's client keep at the root of a download; they are no part of the model."""


class Source(Protocol):
    """The files of one model at one time."""

    @property
    def name(self) -> str:
        """The display name: the folder's path, or ``repo@revision``."""
        ...

    @property
    def commit(self) -> str | None:
        """The commit that is read; None for a folder."""
        ...

    def files(self) -> Tree:
        """Every regular file with its size and the digests that are known without reading it."""
        ...

    def irregular(self) -> tuple[str, ...]:
        """What has a name here and is no regular file: pipes, links to folders and links to nothing."""
        ...

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """``length`` bytes of ``path`` from ``start`` on, or all from there. RefusedError for more than 64 MiB."""
        ...

    def contents(self, paths: Sequence[str]) -> Mapping[str, bytes]:
        """All bytes of each of some small files: those of a repo are requested several at a time, and not kept."""
        ...

    def blocks(self, path: str) -> Iterator[bytes]:
        """The content of ``path`` block by block, whatever its size. Call it within :meth:`retried`."""
        ...

    def retried(self, call: Callable[[], T]) -> T | None:
        """What ``call``, which reads a file by :meth:`blocks`, returns; None when there is no such file any more.

        It is called again from the start when the Hub does not answer.
        """
        ...

    def other(self, repo: str, revision: str | None) -> Tree | None:
        """The files of another repo that this model names; empty: there is no such repo, None: no Hub to ask."""
        ...


class FolderSource:
    """A model in ``folder``, such as a download. With ``hub``, repos that the model names are looked up there.

    Links to files are followed, because a cache of the Hub's client is made of them; links to folders are not.
    """

    commit = None

    def __init__(self, folder: Path, hub: Hub | None = None) -> None:
        if not folder.is_dir():
            raise UsageError(f"There is no folder {folder}.", hint="Name a folder, or a repo as namespace/name.")
        self.folder, self.hub, self.name = folder, hub, str(folder)
        self._listed: tuple[dict[str, Entry], tuple[str, ...]] | None = None
        self._others: _Others = {}

    def files(self) -> dict[str, Entry]:
        """See :class:`Source`. No digest is known of a file in a folder."""
        return self._listing()[0]

    def irregular(self) -> tuple[str, ...]:
        """See :class:`Source`."""
        return self._listing()[1]

    def walk(self) -> Iterator[tuple[str, Path]]:
        """(path in the folder, place on the disk) of everything but folders, in the order of the names."""
        return ((name, Path(place)) for name, place in self._places())

    def _places(self) -> Iterator[tuple[str, str]]:
        """The same as texts: paths of 100,000 files as objects take seconds."""
        root = str(self.folder)
        for here, folders, names in os.walk(root):
            folders[:] = sorted(set(folders) - _CACHES) if here == root else sorted(folders)
            links = [name for name in folders if os.path.islink(os.path.join(here, name))]  # noqa: PTH114, PTH118
            above = "" if here == root else f"{os.path.relpath(here, root)}/".replace(os.sep, "/")
            yield from ((f"{above}{name}", os.path.join(here, name)) for name in sorted([*names, *links]))  # noqa: PTH118

    def _listing(self) -> tuple[dict[str, Entry], tuple[str, ...]]:
        """The regular files, and what is none; the folder is read once."""
        if self._listed is None:
            files, others = {}, []
            for name, place in self._places():
                try:
                    status = os.stat(place)  # noqa: PTH116
                except OSError:  # a link to nowhere, or to itself
                    others.append(name)
                    continue
                if stat.S_ISREG(status.st_mode):
                    files[name] = Entry(status.st_size)
                else:
                    others.append(name)
            self._listed = files, tuple(others)
        return self._listed

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """See :class:`Source`."""
        size = (self.folder / path).stat().st_size
        with (self.folder / path).open("rb") as file:
            file.seek(start)
            return file.read(_bounded(path, size - start if length is None else length))

    def contents(self, paths: Sequence[str]) -> dict[str, bytes]:
        """See :class:`Source`."""
        return {path: self.read(path) for path in paths}

    def blocks(self, path: str) -> Iterator[bytes]:
        """See :class:`Source`."""
        with (self.folder / path).open("rb") as file:
            while block := file.read(_BLOCK):
                yield block

    def retried(self, call: Callable[[], T]) -> T | None:
        """See :class:`Source`. A disk is not asked twice."""
        return call()

    def other(self, repo: str, revision: str | None) -> Tree | None:
        """See :class:`Source`."""
        return _other(self.hub, repo, revision, self._others) if self.hub else None


class RepoSource:
    """``repo`` of the Hub behind ``hub``, at the commit that ``revision`` names when this is made.

    A revision is a branch, a tag, ``refs/pr/N``, or a commit's id or its first 7 digits. UsageError for none of these.
    """

    def __init__(self, hub: Hub, repo: str, revision: str = "main", repo_type: RepoType = "model") -> None:
        self.hub, self.repo, self.revision, self.repo_type = hub, repo, revision, repo_type
        self.name = f"{repo}@{revision}"
        self.commit = commit_of(hub, repo, revision, repo_type)
        self._tree: dict[str, Entry] | None = None
        self._kept: dict[str, bytes] = {}
        self._others: _Others = {}

    def files(self) -> dict[str, Entry]:
        """See :class:`Source`. The Hub lists the sha256 of files in LFS, and the git blob id of all others."""
        if self._tree is None:
            self._tree = self.hub.tree(self.repo, self.commit, self.repo_type)
        return self._tree

    def irregular(self) -> tuple[str, ...]:
        """See :class:`Source`. The Hub lists files and folders alone."""
        return ()

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """See :class:`Source`. RemoteError for a whole file, or a small one, that is not what the Hub lists.

        The Hub lists no digest of a part: a part of a large file is believed.
        """
        listed = self.files()[path]
        size = _bounded(path, listed.size - start if length is None else length)
        if length is not None and listed.size > _SMALL:
            return self._range(path, start, size)
        if path not in self._kept:
            content = self.hub.read_file(self.repo, path, self.commit, self.repo_type, listed=listed)
            self._kept[path] = content or b""
        return self._kept[path][start:] if length is None else self._kept[path][start : start + length]

    def contents(self, paths: Sequence[str]) -> dict[str, bytes]:
        """See :class:`Source`. RemoteError as for :meth:`read`."""
        listed = self.files()
        first: dict[Entry | str, str] = {}  # the path of each content, by its digest
        for path in paths:
            _bounded(path, listed[path].size)
            first.setdefault(_identity(path, listed[path]), path)
        wanted = {path: listed[path] for path in first.values() if path not in self._kept}
        found = self.hub.read_files(self.repo, self.commit, wanted, self.repo_type) if wanted else {}
        found |= {path: self._kept[path] for path in first.values() if path in self._kept}
        return {path: found[first[_identity(path, listed[path])]] for path in paths}

    def part(self, path: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start`` on, of a file of any size. RemoteError when the Hub does not send parts."""
        if self.files()[path].size <= _SMALL:
            return self.read(path, start, length)
        return self.hub.read_range(self.repo, path, self.commit, start, length, self.repo_type)

    def _range(self, path: str, start: int, length: int) -> bytes:
        """The bytes; where a Hub sends no parts, the file is read from its beginning as far as they go."""

        def read() -> bytes:
            span = (start, start + length - 1)
            with self.hub.opened(self.repo, path, self.commit, self.repo_type, span=span) as response:
                skip = 0 if is_part(response, start) else start
                body = bytearray()
                for block in response.iter_bytes():
                    body += block
                    if len(body) >= skip + length:
                        break
                return bytes(body[skip : skip + length])

        return self.hub.query(read, repo=self.repo, revision=self.commit)

    def blocks(self, path: str) -> Iterator[bytes]:
        """See :class:`Source`."""
        with self.hub.opened(self.repo, path, self.commit, self.repo_type) as response:
            yield from response.iter_bytes(_BLOCK)

    def retried(self, call: Callable[[], T]) -> T | None:
        """See :class:`Source`."""
        try:
            return self.hub.query(call, repo=self.repo, revision=self.commit)
        except MissingFileError:
            return None

    def other(self, repo: str, revision: str | None) -> Tree | None:
        """See :class:`Source`."""
        return _other(self.hub, repo, revision, self._others)


def _identity(path: str, entry: Entry) -> Entry | str:
    """What two files of the same content have in common; the path of a file whose digest is not listed."""
    return entry if entry.git or entry.sha256 else path


def _bounded(path: str, length: int) -> int:
    if length > MAX_READ_BYTES:
        raise RefusedError(f"{path} is too large to read ({length:,} bytes; at most {MAX_READ_BYTES:,}).")
    return length


def _other(hub: Hub, repo: str, revision: str | None, known: _Others) -> Mapping[str, Entry]:
    """The files of a repo that the model names, asked for once however many adapters name it."""
    key = repo, revision or "main"
    if key not in known:
        try:
            known[key] = hub.tree(*key)
        except (UsageError, RefusedError):
            known[key] = {}
    return known[key]
