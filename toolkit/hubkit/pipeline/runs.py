"""A run: the folder of one release, with its journal, its artifacts and a lock; and what a stage is given.

An artifact is a folder whose manifest was written last, by rename. No manifest: not done. Another key: stale.

    runs/tiny-hermes-dpo-1/
      run.json  recipe.json  journal.jsonl  lock
      artifacts/merge[main]/{manifest.json, model/, merge.json}
      work/dpo/{key, out/, scratch/}          what an unfinished step has so far
      logs/dpo.log
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hubkit.core.errors import ConflictError, UsageError
from hubkit.core.files import (
    MANIFEST,
    Digests,
    Manifest,
    digest_of,
    fsync_folder,
    os_error,
    read_json,
    write_atomic,
    write_json,
)
from hubkit.core.target import Target
from hubkit.recipe.stage import Artifact, Context, folder_name


@contextmanager
def _sole(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file ``path``; ConflictError with the sentence ``refusal`` when another process holds it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConflictError(refusal, hint="Wait for it, or end it; what it has finished is kept.") from None
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
    def logs(self) -> Path:
        """One log a step."""
        return self.path / "logs"

    def about(self) -> dict[str, Any]:
        """``run.json``: id, repo, endpoint, recipe file, time of making (UTC)."""
        return dict(read_json(self.path / "run.json"))

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
        """The journal's whole lines; a last line that a kill cut short is left out."""
        path = self.path / "journal.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = []
        for line in lines:
            try:
                found.append(dict(json.loads(line)))
            except ValueError:
                continue
        return found

    def find(self, step: str) -> Artifact | None:
        """The finished artifact of ``step``, whatever its key; None when there is none or a file of it is gone."""
        folder = self.artifacts / folder_name(step)
        if not (folder / MANIFEST).is_file():
            return None
        kept = read_json(folder / MANIFEST)
        manifest = Manifest.from_json(kept)
        whole = all(
            (folder / name).is_file() and (folder / name).stat().st_size == item.size
            for name, item in manifest.files.items()
        )
        return Artifact(folder, kept["key"], manifest, kept["summary"], kept["seconds"]) if whole else None

    def begin(self, step: str, key: str) -> None:
        """Make an empty ``out``; keep ``scratch`` only when it belongs to the same key."""
        folder = self.work / folder_name(step)
        known = folder / "key"
        if not known.exists() or known.read_text() != key:
            shutil.rmtree(folder, ignore_errors=True)
            write_atomic(known, key)
        shutil.rmtree(folder / "out", ignore_errors=True)
        (folder / "out").mkdir(parents=True)
        (folder / "scratch").mkdir(exist_ok=True)

    def keep(self, ctx: Context, summary: Mapping[str, Any], known: Mapping[str, Digests] | None = None) -> Artifact:
        """Move the files of ``ctx.out`` to their place and write the manifest last."""
        manifest = Manifest.of(ctx.out, known)
        for name in manifest.files:
            with (ctx.out / name).open("rb") as file:
                os.fsync(file.fileno())
        folder = self.artifacts / folder_name(ctx.step)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            ctx.out.rename(folder)
            fsync_folder(folder.parent)
            seconds = round(time.monotonic() - ctx.started, 3)
            kept = {
                "step": ctx.step,
                "key": ctx.key,
                "summary": summary,
                "seconds": seconds,
                **manifest.to_json(),
            }
            write_json(folder / MANIFEST, kept)
        except OSError as error:
            raise os_error(error, folder, manifest.size) from error
        shutil.rmtree(self.work / folder_name(ctx.step), ignore_errors=True)
        return Artifact(folder, ctx.key, manifest, json.loads(json.dumps(summary)), seconds)


def find_runs(home: Path) -> list[Run]:
    """All the runs below ``home``, oldest first."""
    found = [Run(about.parent) for about in home.glob("runs/*/run.json")]
    return sorted(found, key=lambda run: (run.about()["made"], run.name))


def last_run(home: Path, repo: str, target: Target) -> Run | None:
    """The newest run that publishes ``repo`` to the Hub ``target``; None when there is none."""
    same = [run for run in find_runs(home) if (run.about()["repo"], run.about()["hub"]) == (repo, target.name)]
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
    write_json(run.path / "run.json", {"id": run.name, "repo": repo, "hub": target.name, "made": made})
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
