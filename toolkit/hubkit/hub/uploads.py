"""Upload the large files of a commit before it is sent. It may take hours; when no byte moves, it is tried again.

Uploads by LFS have time limits on each request (:mod:`hubkit.hub.transport`). Xet, a library of its own without time
limits, is watched here by its progress reports.

The Hub is asked which files it wants in LFS. Its answer cannot make a file disappear from the commit, and where the
``.gitattributes`` of the commit decides (``Addition.in_lfs``), it is not needed.
"""

from __future__ import annotations

import re
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hubkit.core.errors import RefusedError
from hubkit.core.numbers import seconds
from hubkit.hub import private_api
from hubkit.hub.commits import Addition, Content, LargeFile, Operation
from hubkit.hub.connection import RepoType
from hubkit.hub.errors import AGAIN, Stalled, explain, malformed, shortened, translated
from hubkit.hub.files import FileCalls
from hubkit.hub.retry import retried
from hubkit.hub.transport import seconds_allowed

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

_NO_XET = re.compile(r"404 .*/xet-write-token/", re.DOTALL)
"""The message of hf_xet (1.x) and huggingface_hub for a Hub without this route, which has no exception class."""
_PATIENCE = 4
"""Times the limit of one request: between two reports Xet splits and hashes files, and retries by itself."""
_SAMPLE = 512
_AT_ONCE = 256
"""Files of one question about how they are to be kept: the client's own number."""


def upload(
    hub: FileCalls,
    repo: str,
    revision: str,
    added: Sequence[Addition],
    repo_type: RepoType = "model",
    *,
    create_pr: bool = False,
) -> list[Operation]:
    """Upload the large files of ``added``; returns the operations that add all of them in a commit.

    The Hub stores large files by digest: what it has is not sent again. A Hub without Xet (a mirror, or an embedded Hub
    at its address) is sent them by LFS. RemoteError when no byte moves after all attempts; RefusedError when the Hub
    refuses a file.
    """
    large = _large(hub, repo, revision, added, repo_type, create_pr=create_pr)
    _transfer(hub, repo, revision, [item for item in added if item.path in large], repo_type, create_pr=create_pr)
    return [
        LargeFile(item.path, item.known.sha256, item.known.size)
        if item.path in large
        else Content(item.path, item.content())
        for item in added
    ]


def _large(
    hub: FileCalls, repo: str, revision: str, added: Sequence[Addition], repo_type: RepoType, *, create_pr: bool
) -> set[str]:
    """The paths of ``added`` that are to be kept in LFS."""
    path = f"api/{repo_type}s/{repo}/preupload/{quote(revision, safe='')}"
    params = {"create_pr": "1"} if create_pr else None
    modes: dict[str, str] = {}
    for start in range(0, len(added), _AT_ONCE):
        files = [_described(item) for item in added[start : start + _AT_ONCE]]

        def ask(files: list[dict[str, Any]] = files) -> dict[str, str]:
            answer = hub.requested("POST", path, json={"files": files}, params=params)
            found = {item["path"]: item["uploadMode"] for item in answer["files"]}
            if found.keys() != {item["path"] for item in files} or not set(found.values()) <= {"lfs", "regular"}:
                raise malformed(hub.endpoint, "it does not say of each file how it is to be uploaded")
            return found

        modes |= hub.query(ask, repo=repo, revision=revision)
    unexplained = [item for item in added if item.in_lfs is False and modes[item.path] == "lfs"]
    patterns = _lfs_patterns(hub, repo, revision, repo_type) if unexplained else []
    large = {item.path for item in added if (modes[item.path] == "lfs" if item.in_lfs is None else item.in_lfs)}
    large |= {item.path for item in unexplained if any(_matches(item.path, pattern) for pattern in patterns)}
    return {item.path for item in added if item.path in large and item.known.size}  # no Hub keeps empty files in LFS


def _described(item: Addition) -> dict[str, Any]:
    with item.local.open("rb") as file:
        sample = b64encode(file.read(_SAMPLE)).decode("ascii")
    return {"path": item.path, "sample": sample, "size": item.known.size}


def _lfs_patterns(hub: FileCalls, repo: str, revision: str, repo_type: RepoType) -> list[str]:
    """The patterns of files in LFS in the ``.gitattributes`` of the branch: what the Hub decides by."""
    raw = hub.read_file(repo, ".gitattributes", revision, repo_type) or b""
    lines = (line.split() for line in raw.decode("utf-8", "replace").splitlines())
    return [words[0] for words in lines if "filter=lfs" in words[1:]]


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern.lstrip("/"))


def _transfer(
    hub: FileCalls, repo: str, revision: str, added: Sequence[Addition], repo_type: RepoType, *, create_pr: bool
) -> None:
    """Send the bytes of ``added`` to the Hub's storage of large files."""
    if not added:
        return
    operations = [_transferred(item) for item in added]

    def once() -> None:
        with _watched(hub.endpoint):
            hub.api.preupload_lfs_files(
                repo, operations, revision=revision, repo_type=repo_type, create_pr=create_pr, free_memory=False
            )

    def with_xet_or_without() -> None:
        try:
            once()
        except Exception as error:
            if private_api.xet_disabled() or not _NO_XET.search(str(error)):
                raise
            private_api.disable_xet()
            once()

    def send() -> None:
        try:
            with_xet_or_without()
        except (ValueError, LookupError, TypeError, AttributeError, NameError, RuntimeError) as error:
            if explain(error, hub.endpoint) is not None:
                raise
            words = shortened(str(error))
            if "returned errors" not in words:
                raise malformed(hub.endpoint, f"reading it failed ({words})") from error
            raise RefusedError(  # the client has no class of its own for it
                f"{hub.endpoint} refused files for {repo}. Its message: {words}.",
                hint="Fix what it names, then run the same command again.",
            ) from error

    with translated(hub.endpoint, repo, revision):
        retried(send)


def _transferred(item: Addition) -> CommitOperationAdd:
    """``item`` as huggingface_hub uploads it. It is given the known digest, so that it reads a large file once."""
    from huggingface_hub import CommitOperationAdd

    operation = CommitOperationAdd(item.path, item.local)
    operation.upload_info.sha256 = bytes.fromhex(item.known.sha256)
    private_api.keep_in_lfs(operation)
    return operation


@contextmanager
def _watched(endpoint: str) -> Iterator[None]:
    """Raise Stalled when Xet reports no progress for too long; it is aborted then."""
    if not private_api.uses_xet():
        yield
        return
    limit = seconds_allowed() * _PATIENCE
    progress = _Progress()
    with private_api.xet_reports_to(progress):
        done, stalled = threading.Event(), threading.Event()
        watcher = threading.Thread(target=_watch, args=(progress, limit, done, stalled), daemon=True)
        watcher.start()
        try:
            yield
        except BaseException as error:
            if stalled.is_set():
                raise Stalled(f"{endpoint} accepted no byte of an upload for {seconds(limit)}.", hint=AGAIN) from error
            raise
        finally:
            done.set()
            watcher.join()


def _watch(progress: _Progress, limit: float, done: threading.Event, stalled: threading.Event) -> None:
    while not done.wait(min(1.0, limit / 4)):
        if time.monotonic() - progress.moved > limit:
            stalled.set()
            private_api.abort_xet()
            return


class _Progress:
    """Takes the place of huggingface_hub's progress bars, and remembers when the figures last grew."""

    def __init__(self) -> None:
        self.moved = time.monotonic()
        self._figures: tuple[int, ...] = ()

    def update_progress(self, report: Any, items: Any = None) -> None:
        """A report of hf_xet arrived."""
        figures = (report.total_bytes_completed, report.total_transfer_bytes_completed)
        if figures != self._figures:
            self._figures, self.moved = figures, time.monotonic()

    def close(self) -> None:
        """There is no bar to close."""
