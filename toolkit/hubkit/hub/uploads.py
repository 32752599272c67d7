"""Send files ahead of a commit: as long as bytes move it may take hours, and when none moves it is tried again.

Files that travel by LFS are watched on the wire (:mod:`hubkit.hub.transport`). Files that travel by Xet, a library of
its own that keeps no limit of time, are watched here by what it tells of its progress.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hubkit.core.errors import RefusedError
from hubkit.hub.answers import AGAIN, Stalled, explain, shortened
from hubkit.hub.connection import Connection, RepoType
from hubkit.hub.transport import retried, seconds_allowed, translated

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

_NO_XET = re.compile(r"404 .*/xet-write-token/", re.DOTALL)
"""What hf_xet (1.x) and huggingface_hub say when a Hub has no such address; hf_xet has no class of error for it."""
_PATIENCE = 4
"""Times the limit of one request: Xet cuts files up and hashes them, and tries again by itself, between its reports."""


def upload(
    hub: Connection,
    repo: str,
    revision: str,
    added: Sequence[CommitOperationAdd],
    repo_type: RepoType = "model",
    *,
    create_pr: bool = False,
) -> None:
    """Bring the large files of ``added`` to the Hub, which keeps them by digest: what it has is not sent again.

    A Hub that knows no Xet (a mirror, or an embedded one that is reached by its address) is sent them by LFS. Raises
    RemoteError when no byte moves any more, however often it is tried; RefusedError when the Hub says no.
    """
    from huggingface_hub import constants

    def once() -> None:
        with _watched(hub.endpoint):
            hub.api.preupload_lfs_files(
                repo, added, revision=revision, repo_type=repo_type, create_pr=create_pr, free_memory=False
            )

    def send() -> None:
        try:
            once()
        except Exception as error:
            if constants.HF_HUB_DISABLE_XET or not _NO_XET.search(str(error)):
                raise
            constants.HF_HUB_DISABLE_XET = True
            once()

    with translated(hub.endpoint, repo, revision):
        try:
            retried(send)
        except ValueError as error:  # how the client tells that the Hub refused some of the files
            if explain(error, hub.endpoint) is not None:
                raise
            raise RefusedError(
                f"{hub.endpoint} does not take the files for {repo}. It says: {shortened(str(error))}.",
                hint="Mend what it names, then run the same command again.",
            ) from error


@contextmanager
def _watched(endpoint: str) -> Iterator[None]:
    """Raise Stalled when Xet reports no progress for too long; its work is aborted then."""
    from huggingface_hub import constants
    from huggingface_hub.utils._runtime import is_xet_available

    if constants.HF_HUB_DISABLE_XET or not is_xet_available():
        yield
        return
    limit = seconds_allowed() * _PATIENCE
    with _reports() as progress:
        done, stalled = threading.Event(), threading.Event()
        watcher = threading.Thread(target=_watch, args=(progress, limit, done, stalled), daemon=True)
        watcher.start()
        try:
            yield
        except BaseException as error:
            if stalled.is_set():
                raise Stalled(f"{endpoint} took no byte of an upload for {limit:g} s.", hint=AGAIN) from error
            raise
        finally:
            done.set()
            watcher.join()


def _watch(progress: _Progress, limit: float, done: threading.Event, stalled: threading.Event) -> None:
    from huggingface_hub.utils._xet import abort_xet_session

    while not done.wait(min(1.0, limit / 4)):
        if time.monotonic() - progress.moved > limit:
            stalled.set()
            abort_xet_session()  # type: ignore[no-untyped-call]
            return


class _Progress:
    """Stands where huggingface_hub would draw progress bars, and remembers when the figures last grew."""

    def __init__(self) -> None:
        self.moved = time.monotonic()
        self._figures: tuple[int, ...] = ()

    def update_progress(self, report: Any, items: Any = None) -> None:
        """Take note of a report of hf_xet."""
        figures = (report.total_bytes_completed, report.total_transfer_bytes_completed)
        if figures != self._figures:
            self._figures, self.moved = figures, time.monotonic()

    def close(self) -> None:
        """Nothing was drawn."""


@contextmanager
def _reports() -> Iterator[_Progress]:
    """Have huggingface_hub (2.4) hand hf_xet's reports to a :class:`_Progress`; it offers no other way to get them."""
    from huggingface_hub import utils
    from huggingface_hub.utils import _xet_progress_reporting as reporting

    progress = _Progress()
    before = reporting.XetUploadProgressReporter, utils.are_progress_bars_disabled  # type: ignore[attr-defined]
    reporting.XetUploadProgressReporter = lambda: progress  # type: ignore[assignment, misc]
    utils.are_progress_bars_disabled = lambda *_: False  # type: ignore[attr-defined]
    try:
        yield progress
    finally:
        reporting.XetUploadProgressReporter, utils.are_progress_bars_disabled = before  # type: ignore[attr-defined, misc]
