"""A run: the folder of one release, with its journal, its artifacts and a lock.

An artifact is a folder whose manifest was written last, by rename. No manifest: not done. Another key: stale.

    runs/tiny-hermes-dpo-1/
      run.json  recipe.json  journal.jsonl  lock
      artifacts/merge[main]/{manifest.json, model/, merge.json}
      earlier/train[dpo]/1/                   a training that was replaced, or its checkpoints
      work/dpo/{key, out/, scratch/}          what an unfinished step has so far
      logs/dpo.log
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hubkit.core.errors import ConflictError, UsageError
from hubkit.core.files import (
    MANIFEST,
    Manifest,
    digest_of,
    fsync_folder,
    os_error,
    read_json,
    write_atomic,
    write_json,
)
from hubkit.core.target import Target
from hubkit.pipeline.stored import (
    DEAR_SECONDS,
    KEY,
    MADE_FROM,
    KeptTraining,
    folder_name,
    kept_trainings,
    put_aside,
    read_stored,
    training_seconds,
    unfinished_seconds,
)
from hubkit.recipe.artifact import StoredArtifact
from hubkit.recipe.stage import Noted, StageResult
from hubkit.training.adapter import TrainedAdapter

FORMAT = 2
"""Of a run's folder: keys, journal and artifacts. A folder of another format is neither resumed nor changed."""
_OWN_EVENTS = frozenset({"start", "done", "ahead", "stale", "restored", "discarded"})
"""Events about a step that the runner writes; all others are what its stage noted."""


@contextmanager
def _sole(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file ``path``; ConflictError with the sentence ``refusal`` when another process holds it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConflictError(refusal, hint="Wait for it or stop it. Finished steps are kept.") from None
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Run:
    """The folder of one release."""

    path: Path

    @property
    def name(self) -> str:
        """The run's id, as `hubkit runs` shows it."""
        return self.path.name

    @property
    def artifacts(self) -> Path:
        """Finished artifacts, a folder each."""
        return self.path / "artifacts"

    @property
    def work(self) -> Path:
        """What unfinished steps have so far."""
        return self.path / "work"

    @property
    def earlier(self) -> Path:
        """Trainings that were replaced and are kept."""
        return self.path / "earlier"

    @property
    def logs(self) -> Path:
        """One log a step."""
        return self.path / "logs"

    def about(self) -> dict[str, Any]:
        """``run.json``: id, repo, endpoint, recipe file, time of making (UTC)."""
        return dict(read_json(self.path / "run.json"))

    @property
    def is_current(self) -> bool:
        """Whether it was made in today's format."""
        return self.about().get("format") == FORMAT

    def publishes(self, repo: str, target: Target) -> bool:
        """Whether it publishes ``repo`` to the Hub ``target``."""
        about = self.about()
        return (about["repo"], about["hub"]) == (repo, target.name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer of this run. ConflictError when another process is."""
        with _sole(self.path / "lock", f"Another process is working on the run {self.name}."):
            yield

    def log(self, event: str, **facts: Any) -> None:
        """Append one line to the journal, on disk when this returns.

        With ``HUBKIT_TEST_KILL_AT`` set to ``event`` or ``event:step`` the process then kills itself (fault F1).
        """
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
        path = self.path / "journal.jsonl"
        try:
            with path.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(line, ensure_ascii=False) + "\n")
                journal.flush()
                os.fsync(journal.fileno())
        except OSError as error:
            raise os_error(error, path) from error
        if os.environ.get("HUBKIT_TEST_KILL_AT") in {event, f"{event}:{facts.get('step')}"}:
            os.kill(os.getpid(), signal.SIGKILL)

    def journal(self) -> list[dict[str, Any]]:
        """The journal's complete lines; a last line that a kill cut short is left out."""
        path = self.path / "journal.jsonl"
        # Not splitlines(): JSON leaves U+2028 and its like as they are, and a title may hold one.
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        found = []
        for line in lines:
            try:
                found.append(dict(json.loads(line)))
            except ValueError:
                continue
        return found

    def notes(self, step: str) -> tuple[Noted, ...]:
        """What the stage of ``step`` noted so far, in all of its attempts."""
        return tuple(
            Noted(line["event"], {name: fact for name, fact in line.items() if name not in {"time", "event", "step"}})
            for line in self.journal()
            if line.get("step") == step and line["event"] not in _OWN_EVENTS
        )

    def unfinished(self, step: str) -> Path:
        """The folder of ``step`` while it is not finished: its key, ``out`` and ``scratch``."""
        return self.work / folder_name(step)

    def out(self, step: str) -> Path:
        """The folder in which ``step`` makes its files."""
        return self.unfinished(step) / "out"

    def scratch(self, step: str) -> Path:
        """A folder of ``step`` that survives a kill, and is removed when the step is done or its key changes."""
        return self.unfinished(step) / "scratch"

    def find(self, step: str) -> StoredArtifact | None:
        """The finished artifact of ``step``, whatever its key; None when there is none or a file of it is gone.

        One that a kill left in ``work`` when it was whole counts: :meth:`settle` moves it to its place.
        """
        return read_stored(self.out(step)) or read_stored(self.artifacts / folder_name(step))

    def begun(self, step: str) -> str | None:
        """The key under which ``step`` began and did not end; None when it is not under way."""
        known = self.unfinished(step) / KEY
        return known.read_text() if known.is_file() else None

    def begin(self, step: str, key: str, made_from: Any = None) -> None:
        """Make an empty ``out``; keep ``scratch`` only when it belongs to the same key.

        Checkpoints of another key that took long are moved to ``earlier``, and come back when their key does.
        ``made_from`` is what ``key`` was computed of, for a training.
        """
        folder = self.unfinished(step)
        if self.begun(step) != key:
            if unfinished_seconds(folder) > DEAR_SECONDS:
                shutil.rmtree(folder / "out", ignore_errors=True)
                put_aside(folder, self.earlier)
            shutil.rmtree(folder, ignore_errors=True)
            for training in self.kept():
                if (training.step, training.key, training.stored) == (step, key, None):
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    training.path.rename(folder)
                    break
            write_atomic(folder / KEY, key)
            if made_from is not None:
                write_json(folder / MADE_FROM, made_from)
        shutil.rmtree(folder / "out", ignore_errors=True)
        (folder / "out").mkdir(parents=True)
        (folder / "scratch").mkdir(exist_ok=True)

    def keep(
        self, step: str, key: str, result: StageResult[Any], seconds: float, made_from: Any = None
    ) -> StoredArtifact:
        """Save the artifact of ``result``, write its manifest last, and move it to its place."""
        out, folder = self.out(step), self.artifacts / folder_name(step)
        result.artifact.save(out)
        manifest = Manifest.of(out, result.digests)
        for name in manifest.files:
            with (out / name).open("rb") as file:
                os.fsync(file.fileno())
        summary = {"figure": result.figure, **result.facts, "warnings": list(result.warnings)}
        kept = {"step": step, "key": key, "summary": summary, "seconds": seconds, **manifest.to_json()}
        if made_from is not None:
            kept["made_from"] = made_from
        try:
            write_json(out / MANIFEST, kept)
            self._install(folder.name)
        except OSError as error:
            raise os_error(error, folder, manifest.size) from error
        return StoredArtifact(folder, key, manifest, json.loads(json.dumps(summary)), seconds, made_from)

    def _install(self, name: str) -> None:
        """Move the whole artifact in ``work`` to its place. The one that is there is kept if its training took long.

        Until the last rename the old one is found, or the new one is.
        """
        work, folder = self.work / name, self.artifacts / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            present = read_stored(folder)
            if present and (folder / TrainedAdapter.FILE).is_file() and training_seconds(present) > DEAR_SECONDS:
                put_aside(folder, self.earlier)
            else:
                shutil.rmtree(work / "replaced", ignore_errors=True)
                folder.rename(work / "replaced")
        (work / "out").rename(folder)
        fsync_folder(folder.parent)
        shutil.rmtree(work, ignore_errors=True)

    def settle(self) -> None:
        """Finish what a kill interrupted: artifacts that are whole and not at their place yet."""
        for out in self.work.glob("*/out"):
            if read_stored(out) is not None:
                self._install(out.parent.name)

    def kept(self) -> list[KeptTraining]:
        """The trainings that were replaced and are kept, by step and oldest first."""
        return kept_trainings(self.earlier)

    def restore(self, training: KeptTraining) -> None:
        """Put ``training`` back in its place; what is there is kept aside in turn."""
        unfinished = training.stored is None
        folder = (self.work if unfinished else self.artifacts) / folder_name(training.step)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            put_aside(folder, self.earlier)
        training.path.rename(folder)
        fsync_folder(folder.parent)
        self.log("restored", step=training.step, id=training.id)

    def discard(self, training: KeptTraining) -> None:
        """Remove ``training`` from what is kept."""
        shutil.rmtree(training.path)
        self.log("discarded", step=training.step, id=training.id)


def find_runs(home: Path) -> list[Run]:
    """All the runs below ``home``, oldest first."""
    found = [Run(about.parent) for about in home.glob("runs/*/run.json")]
    return sorted(found, key=lambda run: (run.about()["made"], run.name))


def last_run(home: Path, repo: str, target: Target) -> Run | None:
    """The newest run of today's format that publishes ``repo`` to the Hub ``target``; None when there is none."""
    same = [run for run in find_runs(home) if run.is_current and run.publishes(repo, target)]
    return same[-1] if same else None


def open_run(home: Path, repo: str, target: Target, *, fresh: bool = False) -> Run:
    """The newest run of this repo on this Hub, or a new one (always a new one when ``fresh``).

    Be its only opener (:func:`release_lock`).
    """
    known = last_run(home, repo, target)
    if known is not None and not fresh:
        return known
    name = repo.split("/")[1]
    number = 1
    while (home / "runs" / f"{name}-{number}").exists():
        number += 1
    run = Run(home / "runs" / f"{name}-{number}")
    try:
        run.path.mkdir(parents=True)
    except OSError as error:
        raise os_error(error, run.path) from error
    made = datetime.now(UTC).isoformat(timespec="milliseconds")
    about = {"format": FORMAT, "id": run.name, "repo": repo, "hub": target.name, "made": made}
    write_json(run.path / "run.json", about)
    return run


@contextmanager
def release_lock(home: Path, repo: str, target: Target) -> Iterator[None]:
    """Be the only one who releases ``repo`` to this Hub from ``home``, whichever run it is. ConflictError else."""
    path = home / "locks" / f"{digest_of([repo.lower(), target.name])[:16]}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise os_error(error, path) from error
    with _sole(path, f"Another process is releasing {repo} to {target.name}."):
        yield


def named_run(home: Path, name: str) -> Run:
    """The run called ``name``; UsageError when there is none."""
    for run in find_runs(home):
        if run.name == name:
            return run
    raise UsageError(f"There is no run called {name!r}.", hint="`hubkit runs list` shows them all.")
