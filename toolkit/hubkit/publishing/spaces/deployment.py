"""Deploy a Space: one commit, then wait until its app runs; roll back when it does not.

deployed = deploy(hub, "me/my-space", bundle, "public")
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from hubkit.core.errors import ConflictError, HubkitError, RefusedError, RemoteError
from hubkit.core.numbers import seconds, short_commit
from hubkit.core.trees import compare, tree_of
from hubkit.hub.client import Hub, Runtime, Visibility
from hubkit.hub.commits import Deletion
from hubkit.hub.retry import polled
from hubkit.hub.uploads import upload
from hubkit.publishing.bundle import Bundle
from hubkit.publishing.compare_and_swap import branch_moved
from hubkit.publishing.copying import commit_or_restore, restore
from hubkit.publishing.manifest import provenance_at
from hubkit.publishing.notes import Note, no_note
from hubkit.publishing.ownership import Ownership, decide
from hubkit.publishing.spaces.building import TIMEOUT, shown
from hubkit.publishing.staging import additions
from hubkit.recipe.stage import Report, silent

COMING = frozenset({"BUILDING", "APP_STARTING", "RUNNING_BUILDING", "RUNNING_APP_STARTING"})
"""Stages that a Space leaves by itself (huggingface_hub.SpaceStage)."""
RESTING = frozenset({"RUNNING", "SLEEPING", "PAUSED", "STOPPED"})
"""Stages without an error: the app answers, or its owner has paused or stopped it."""
RAN = RESTING | {"RUNNING_BUILDING", "RUNNING_APP_STARTING"}
"""Stages of a Space with a version that ran."""
ANSWERING = RESTING - {"PAUSED", "STOPPED"}
"""Stages in which the app takes requests: a request wakes a sleeping one."""
_SETTLE_SECONDS = 30.0


class OtherAnswerError(RefusedError):
    """A deployed app gives another answer than it gave when it was tried."""


@dataclass(frozen=True)
class Deployed:
    """A Space that runs, or rests: its commit, and the head before (the same one when nothing was written).

    ``host`` is the app's address; None while it is paused or stopped.
    """

    commit: str
    previous: str
    written: bool
    host: str | None
    ownership: Ownership = field(default_factory=Ownership)

    def warnings(self, repo: str) -> list[str]:
        """Sentences about the foreign files in the Space ``repo``."""
        return self.ownership.sentences(f"The Space {repo}")


def deploy(
    hub: Hub, repo: str, bundle: Bundle, visibility: Visibility, *,
    title: str = "Deploy the Space", hardware: str | None = None, secrets: Mapping[str, str] | None = None,
    ask: Callable[[str], None] | None = None, before: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT, report: Report = silent, note: Note = no_note,
) -> Deployed:  # fmt: skip
    """Bring ``bundle`` to the Space ``repo`` in one commit, wait until its app runs, and send a prompt with ``ask``.

    Only files that the manifest of an earlier deploy names are removed. When the app does not come up or cannot answer:
    RemoteError with its state and the end of its log, after a rollback to the previous running version. ``ask`` raises
    :class:`OtherAnswerError` for a wrong answer: RefusedError, after the same rollback. Without a previous version the
    Space is then paused: nobody is to read wrong answers, and its owner can still see the files and the log.
    ``before`` maps each commit of an interrupted deploy to the one that ran before it.
    """
    hub.ensure_repo(repo, visibility, "space", hardware=hardware)
    ran = hub.runtime(repo).stage in RAN  # read first: setting a secret restarts the Space
    for name, value in (secrets or {}).items():
        hub.set_space_secret(repo, name, value)
    head = hub.head(repo, "main", "space")
    if head is None:
        raise ConflictError(f"The Space {repo} has no main branch.", hint="Remove it and run again.")
    commit, ownership = _commit(hub, repo, head, bundle, title)
    if written := commit != head:
        note("space-committed", commit=commit, previous=head if ran else "")
    elif hub.runtime(repo).stage not in COMING | RESTING:
        hub.restart_space(repo)
    try:
        stage = wait(hub, repo, commit, new=written, timeout=timeout, report=report).stage
        host = hub.space_host(repo) if stage in ANSWERING else None
        if host and ask:
            ask(host)
    except ConflictError:
        raise
    except HubkitError as error:
        sound = (head if ran else None) if written else (before or {}).get(head)
        wrong = isinstance(error, OtherAnswerError)
        back = _roll_back(hub, repo, sound, commit) if sound else _pause(hub, repo) if wrong else ""
        kind = RefusedError if wrong else RemoteError
        raise kind("\n".join(filter(None, (error.message, back))), hint=error.hint) from error
    note("space-runs", commit=commit)
    return Deployed(commit, head, written, host, ownership)


def _roll_back(hub: Hub, repo: str, before: str, ours: str) -> str:
    """Restore the version ``before`` in place of ``ours``; a sentence about the outcome."""
    try:
        restore(hub, repo, "main", before, head=ours, title=f"Roll back to {short_commit(before)}", repo_type="space")
    except HubkitError as error:
        return f"Rolling back to the previous version ({short_commit(before)}) failed: {error.message}"
    return f"Rolled back to the previous version ({short_commit(before)})."


def _pause(hub: Hub, repo: str) -> str:
    """Pause a Space that has no previous version; a sentence about the outcome."""
    try:
        hub.pause_space(repo)
    except HubkitError as error:
        return f"It has no previous version, and pausing it failed: {error.message}"
    return "It has no previous version, so it was paused."


def _commit(hub: Hub, repo: str, head: str, bundle: Bundle, title: str) -> tuple[str, Ownership]:
    """The commit that holds ``bundle``, and its decision about the foreign files."""
    wanted, tree = tree_of(bundle.manifest), hub.tree(repo, head, "space")
    provenance = provenance_at(hub, repo, head, tree, "space")
    # Without a manifest only the card is ours: the Hub writes one into a new Space.
    ownership = decide(tree, wanted, provenance.paths if provenance else {"README.md"})
    if ownership.reached(tree, wanted):
        return head, ownership
    added = additions(bundle, [change.path for change in compare(tree, wanted).changes if change.after])
    removed = [Deletion(path) for path in sorted(ownership.deletions(wanted))]
    written = upload(hub, repo, "main", added, "space")
    commit = commit_or_restore(
        hub, repo, "main", head, [*removed, *written], lambda after: ownership.reached(after, wanted), title, "space"
    )
    return commit, ownership


def wait(
    hub: Hub, repo: str, commit: str, *, new: bool = True, timeout: float = TIMEOUT, report: Report = silent
) -> Runtime:
    """Wait until the Space runs ``commit``. RemoteError with its state and the end of its log when it will not.

    ``new``: the commit was just made, so that a state may still be that of the previous version, until the Space is
    starting or half a minute went by. ConflictError when somebody else's newer commit runs instead.
    """
    settle_at = time.monotonic() + (_SETTLE_SECONDS if new else 0.0)
    settled, runtime = not new, Runtime("")

    def check() -> Runtime | None:
        nonlocal settled, runtime
        runtime = hub.runtime(repo)
        settled = settled or runtime.stage in COMING or time.monotonic() > settle_at
        outcome = verdict(runtime, commit, settled=settled)
        if outcome == "well":
            return runtime
        if outcome == "failed":
            raise failure(hub, repo, runtime)
        if outcome == "other" and (head := hub.head(repo, "main", "space")) != commit:
            raise branch_moved(repo, "main", commit, head)
        report(f"{repo} is {runtime.stage.lower().replace('_', ' ')}", None)
        return None

    running = polled(check, every=1.0, timeout=timeout)
    if running is None:
        raise failure(hub, repo, runtime, f" after {seconds(timeout)}")
    return running


def verdict(runtime: Runtime, commit: str, *, settled: bool) -> Literal["well", "failed", "other", "coming"]:
    """What ``runtime`` means while waiting for ``commit``: it runs, it failed, another version runs, or keep waiting.

    ``settled``: the state can no longer be older than the commit. Only then a state counts that names no commit, or
    that is an error of another one. A paused Space counts as running: its owner wants it that way.
    """
    if runtime.stage == "PAUSED":
        return "well"
    if runtime.stage in COMING or not (settled or runtime.commit == commit):
        return "coming"
    if runtime.stage not in RESTING:
        return "failed"
    return "well" if runtime.commit in {None, commit} else "other"


def failure(hub: Hub, repo: str, runtime: Runtime, when: str = "") -> RemoteError:
    """The error of a Space that does not run: its state, the reason, and the end of its log."""
    build = "BUILD" in runtime.stage
    try:
        lines = hub.space_log(repo, build=build)
    except HubkitError:
        lines = []
    why = f": {runtime.message.rstrip('.')}" if runtime.message else ""
    return RemoteError(
        f"The Space {repo} is {runtime.stage}{when}{why}.{shown(lines)}",
        hint=f"Full log: hubkit space logs {repo}{' --build' * build}",
    )
