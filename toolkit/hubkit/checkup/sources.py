"""Where a checked model stands: a folder, or a repo on a Hub, of which only small parts are fetched."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from hubkit.errors import RefusedError, UsageError
from hubkit.hub import Hub
from hubkit.screening import Problem, screen_file

_MOST = 64 * 1024 * 1024
"""Bytes of one read; a header, a tokenizer or a card is smaller."""
_SCREENED = 2 * 1024 * 1024
"""Bytes up to which a file of a repo is fetched to look for secrets."""
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
        """Secrets, pickles and places of the author's machine in the files that are text."""
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
        found = {path.relative_to(self.folder): path for path in sorted(self.folder.rglob("*")) if path.is_file()}
        return {
            name.as_posix(): path.stat().st_size
            for name, path in found.items()
            if name.parts[0] not in {".git", ".cache"}
        }

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """See :class:`Source`."""
        size = (self.folder / path).stat().st_size
        with (self.folder / path).open("rb") as file:
            file.seek(start)
            return file.read(_bounded(path, size - start if length is None else length))

    def screened(self) -> list[Problem]:
        """See :class:`Source`."""
        names = [name for name in self.files() if not name.endswith(".safetensors")]
        return [problem for name in names for problem in screen_file(name, (self.folder / name).resolve())]

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
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]

        url = hf_hub_url(self.repo, path, revision=self.commit, endpoint=self.hub.endpoint)
        headers = {"range": f"bytes={start}-{start + length - 1}", "accept-encoding": "identity"}
        if self.hub.target.token:
            headers["authorization"] = f"Bearer {self.hub.target.token}"

        def read() -> bytes:
            with get_session().stream("GET", url, headers=headers) as answer:
                hf_raise_for_status(answer)
                skip = 0 if answer.status_code == 206 else start
                body = b""
                for block in answer.iter_bytes():
                    body += block
                    if len(body) >= skip + length:
                        break
                return body[skip : skip + length]

        return self.hub.ask(read, repo=self.repo, revision=self.commit)

    def screened(self) -> list[Problem]:
        """See :class:`Source`; files above 2 MiB are not fetched for it."""
        found = []
        with tempfile.TemporaryDirectory() as folder:
            for number, (path, size) in enumerate(self._tree.items()):
                if size <= _SCREENED and Path(path).suffix.lower() in _SUFFIXES:
                    local = Path(folder) / f"{number}{Path(path).suffix}"
                    local.write_bytes(self.read(path))
                    found += screen_file(path, local)
        return found

    def other(self, repo: str, revision: str | None) -> Mapping[str, int] | None:
        """See :class:`Source`."""
        return _other(self.hub, repo, revision)


def _other(hub: Hub, repo: str, revision: str | None) -> Mapping[str, int]:
    try:
        found = hub.tree(repo, revision or "main")
    except (UsageError, RefusedError):
        return {}
    return {path: entry.size for path, entry in found.items()}
