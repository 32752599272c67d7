"""Files of a repo at a revision: the tree with its digests, small files whole, large files in parts, downloads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hubkit.core.errors import RemoteError
from hubkit.core.numbers import short_commit
from hubkit.core.trees import Entry, Tree, compare, content_entry
from hubkit.hub.connection import Connection, RepoType
from hubkit.hub.errors import MissingRevisionError, contradiction, malformed, origin_of
from hubkit.hub.retry import agreed

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub.hf_api import BlobLfsInfo

_AT_ONCE = 8
"""Small files that are read at the same time."""
FULL_ID = re.compile(r"[0-9a-f]{40}")
_ALL = 1000
"""Files up to which both lists of a commit must be complete; a Hub may shorten the second list of a large repo."""


class FileCalls(Connection):
    """The requests about files, as methods of a connection."""

    def tree(self, repo: str, revision: str, repo_type: RepoType = "model") -> dict[str, Entry]:
        """Every file at ``revision`` with its size and digest: sha256 for LFS, git blob id for the others.

        Two routes of the Hub list them, and must agree: a list whose end is missing looks like a list.
        """
        key = (repo_type, repo, revision)
        if (known := self._trees.get(key)) is not None:
            return dict(known)

        def read() -> dict[str, Entry]:
            second = self._infos.pop(key, None)
            if second is None:
                commit, second = self._described(repo, revision, repo_type)
                if FULL_ID.fullmatch(revision) and commit != revision:
                    raise contradiction(self.endpoint, f"asked for {repo}@{revision}, it describes {commit}")
            first = self._listed(repo, revision, repo_type)
            if difference := _difference(first, second):
                raise contradiction(
                    self.endpoint, f"it lists the files of {repo}@{short_commit(revision)} in two ways: {difference}"
                )
            return first

        found = agreed(read)
        if FULL_ID.fullmatch(revision):
            self._trees[key] = found
        return dict(found)

    def _listed(self, repo: str, revision: str, repo_type: RepoType) -> dict[str, Entry]:
        """The files by the route for trees."""
        from huggingface_hub.hf_api import RepoFile

        def read() -> dict[str, Entry]:
            listed = self.api.list_repo_tree(repo, recursive=True, revision=revision, repo_type=repo_type)
            return {
                item.path: _entry(item.size, item.blob_id, item.lfs) for item in listed if isinstance(item, RepoFile)
            }

        return self.query(read, repo=repo, revision=revision)

    def _described(self, repo: str, revision: str, repo_type: RepoType) -> tuple[str, dict[str, Entry]]:
        """The commit of ``revision``, and its files, by the route for revisions."""

        def read() -> tuple[str, dict[str, Entry]]:
            info = self.api.repo_info(repo, revision=revision, repo_type=repo_type, files_metadata=True)
            if not info.sha or not FULL_ID.fullmatch(str(info.sha)):
                raise malformed(self.endpoint, f"it does not name the commit of {repo}@{revision}")
            listed = getattr(info, "siblings", None) or ()
            return str(info.sha), {item.rfilename: _entry(item.size or 0, item.blob_id, item.lfs) for item in listed}

        return self.query(read, repo=repo, revision=revision)

    def tree_if_there(self, repo: str, revision: str, repo_type: RepoType = "model") -> dict[str, Entry] | None:
        """The tree of :meth:`tree`; None when the repo has no such revision."""
        try:
            return self.tree(repo, revision, repo_type)
        except MissingRevisionError:
            return None

    @contextmanager
    def opened(
        self, repo: str, path: str, revision: str, repo_type: RepoType = "model", *, span: tuple[int, int] | None = None
    ) -> Iterator[httpx2.Response]:
        """The response to a request for one file, neither decompressed nor cached, to be read within the block.

        ``span`` is the first and the last byte of the range to request; a Hub may send the whole file even so, and
        then its status is not 206. Use it in what :meth:`query` calls: the client's own exceptions are raised.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]

        url = hf_hub_url(repo, path, repo_type=repo_type, revision=revision, endpoint=self.endpoint)
        headers = {"accept-encoding": "identity"}
        if span:
            headers["range"] = f"bytes={span[0]}-{span[1]}"
        if self.target.token:
            headers["authorization"] = f"Bearer {self.target.token}"
        with get_session().stream("GET", url, headers=headers) as response:
            hf_raise_for_status(response)
            yield response

    def read_file(
        self, repo: str, path: str, revision: str, repo_type: RepoType = "model", *, listed: Entry | None = None
    ) -> bytes | None:
        """The content of one small file at ``revision``, not cached; None when there is no such file.

        With ``listed``, what the Hub lists of it, RemoteError when it sends nothing, or something else, three times.
        """
        from huggingface_hub.errors import EntryNotFoundError

        def read() -> bytes | None:
            try:
                with self.opened(repo, path, revision, repo_type) as response:
                    content = bytes(response.read())
            except EntryNotFoundError:
                if listed is None:
                    return None
                raise self._not_listed(repo, path, revision) from None
            if listed is not None and not content_entry(content).same(listed):
                raise self._not_listed(repo, path, revision)
            return content

        return self.query(read, repo=repo, revision=revision)

    def read_listed(self, repo: str, path: str, commit: str, repo_type: RepoType = "model") -> bytes | None:
        """The content of one small file of a commit, compared with what the Hub lists; None when it lists no such file.

        RemoteError as for :meth:`read_file`.
        """
        listed = self.tree(repo, commit, repo_type).get(path)
        return self.read_file(repo, path, commit, repo_type, listed=listed) if listed else None

    def read_files(
        self, repo: str, revision: str, listed: Mapping[str, Entry], repo_type: RepoType = "model"
    ) -> dict[str, bytes]:
        """The content of small files, some at a time, each compared with what is ``listed`` (:meth:`read_file`)."""

        def read(path: str) -> bytes:
            return self.read_file(repo, path, revision, repo_type, listed=listed[path]) or b""

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(zip(listed, pool.map(read, listed), strict=True))

    def _not_listed(self, repo: str, path: str, revision: str) -> RemoteError:
        return malformed(self.endpoint, f"{path} of {repo}@{short_commit(revision)} has other bytes than the Hub lists")

    def read_range(
        self, repo: str, path: str, revision: str, start: int, length: int, repo_type: RepoType = "model"
    ) -> bytes:
        """``length`` bytes of a file from ``start`` on. RemoteError when the Hub sends anything else."""

        def read() -> bytes:
            with self.opened(repo, path, revision, repo_type, span=(start, start + length - 1)) as response:
                body = response.read() if is_part(response, start) else b""  # else the whole file is on its way
            if len(body) != length:
                raise RemoteError(
                    f"{self.endpoint} does not send parts of {path} (of {repo}@{short_commit(revision)})."
                )
            return bytes(body)

        return self.query(read, repo=repo, revision=revision)

    def snapshot(self, repo: str, folder: Path, repo_type: RepoType = "model", *, revision: str | None = None) -> Path:
        """All the files of the repo at ``revision``, or on its main branch, downloaded to ``folder``."""
        download = self.api.snapshot_download
        return Path(
            self.query(
                lambda: download(repo, repo_type=repo_type, local_dir=folder, revision=revision),
                repo=repo,
                revision=revision,
            )
        )

    def download(
        self, repo: str, revision: str, *, cache: Path | None = None, patterns: Sequence[str] | None = None
    ) -> Path:
        """The files of a model at ``revision`` that match ``patterns`` (all of them, without any); their folder.

        They are kept in ``cache``, or in the cache of this process (``HF_HUB_CACHE``), where transformers finds them
        too. MissingFileError when a file that the Hub lists is not there; OSError without a number when one
        has another size than the Hub lists.
        """
        allowed = list(patterns) if patterns is not None else None
        download = self.api.snapshot_download
        return self.send(  # the client sends again what failed, file by file
            lambda: Path(download(repo, revision=revision, cache_dir=cache, allow_patterns=allowed)),
            repo=repo,
            revision=revision,
        )

    def parameters(self, repo: str, revision: str) -> dict[str, int]:
        """How many parameters of each dtype the safetensors files at ``revision`` hold, by their headers."""
        metadata = self.query(
            lambda: self.api.get_safetensors_metadata(repo, revision=revision), repo=repo, revision=revision
        )
        return {str(dtype): count for dtype, count in metadata.parameter_count.items()}


def is_part(response: httpx2.Response, start: int) -> bool:
    """Whether the response is the part of a file from the byte ``start`` on. NotAnAnswer when it is another part."""
    if response.status_code != 206:
        return False
    if not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
        raise malformed(origin_of(response.request), "it sends another part of the file than was asked for")
    return True


def _entry(size: int, blob: str | None, lfs: BlobLfsInfo | None) -> Entry:
    return Entry(lfs.size, sha256=lfs.sha256) if lfs else Entry(size, git=blob)


def _difference(first: Tree, second: Tree) -> str | None:
    """What differs between two lists of the same files; None when they agree."""
    if len(first) > _ALL:
        first = {path: entry for path, entry in first.items() if path in second}
    found = compare(first, second).changes
    return found[0].sentence if found else None
