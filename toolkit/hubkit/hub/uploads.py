"""Upload the large files of a commit before it is sent. It may take hours; when no byte moves, it is tried again.

Uploads by LFS have time limits on each request (:mod:`hubkit.hub.transport`). Xet, a library of its own without time
limits, is watched here by its progress reports.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hubkit.core.errors import RefusedError
from hubkit.core.numbers import seconds
from hubkit.hub import private_api
from hubkit.hub.connection import Connection, RepoType
from hubkit.hub.errors import AGAIN, Stalled, explain, shortened, translated
from hubkit.hub.retry import retried
from hubkit.hub.transport import seconds_allowed

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

_NO_XET = re.compile(r"404 .*/xet-write-token/", re.DOTALL)
"""The message of hf_xet (1.x) and huggingface_hub for a Hub without this route, which has no exception class."""
_PATIENCE = 4
"""Times the limit of one request: between two reports Xet splits and hashes files, and retries by itself."""


def upload(
    hub: Connection,
    repo: str,
    revision: str,
    added: Sequence[CommitOperationAdd],
    repo_type: RepoType = "model",
    *,
    create_pr: bool = False,
) -> None:
    """Upload the large files of ``added`` to the Hub, which stores them by digest: what it has is not sent again.

    A Hub without Xet (a mirror, or an embedded Hub at its address) is sent them by LFS. RemoteError when no byte moves
    after all attempts; RefusedError when the Hub refuses a file.
    """

    def once() -> None:
        with _watched(hub.endpoint):
            hub.api.preupload_lfs_files(
                repo, added, revision=revision, repo_type=repo_type, create_pr=create_pr, free_memory=False
            )

    def send() -> None:
        try:
            once()
        except Exception as error:
            if private_api.xet_disabled() or not _NO_XET.search(str(error)):
                raise
            private_api.disable_xet()
            once()

    with translated(hub.endpoint, repo, revision):
        try:
            retried(send)
        except ValueError as error:  # the client's exception when the Hub refuses some of the files
            if explain(error, hub.endpoint) is not None:
                raise
            raise RefusedError(
                f"{hub.endpoint} refused files for {repo}. Its message: {shortened(str(error))}.",
                hint="Fix what it names, then run the same command again.",
            ) from error


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
