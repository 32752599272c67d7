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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

from filelock import FileLock, Timeout

from hubkit.config import Recipe, Training, Variant
from hubkit.errors import ConflictError, UsageError
from hubkit.files import (
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


def hubkit_home() -> Path:
    """Where runs and the embedded Hub are kept: ``HUBKIT_HOME``, else the nearest ``.hubkit`` upwards, else here."""
    if named := os.environ.get("HUBKIT_HOME"):
        return Path(named).expanduser().absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".hubkit").is_dir():
            return folder / ".hubkit"
    return here / ".hubkit"


DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True)
class Target:
    """The Hub that a run publishes to, with the token that was issued for it and a cache of its own.

    ``token`` never leaves the process but as the environment variable of a child that needs it.
    """

    endpoint: str
    home: Path
    token: str | None = field(default=None, repr=False)
    embedded: bool = False
    trusted: str | None = None
    """The repo that the token is for, when a CI job's identity gave it (:mod:`hubkit.trusted`)."""

    @property
    def name(self) -> str:
        """What a run remembers it by: the embedded Hub may change its port."""
        return "embedded" if self.embedded else self.endpoint

    def environment(self) -> dict[str, str]:
        """Variables for a child process in which every Hugging Face library talks to this Hub and no other."""
        found = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        if self.embedded:
            found["HF_HUB_DISABLE_XET"] = "1"
        if self.token:
            found["HF_TOKEN"] = self.token
        else:
            found["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
        return found


@dataclass(frozen=True)
class Artifact:
    """A finished folder: what a stage made."""

    path: Path
    key: str
    manifest: Manifest
    summary: Mapping[str, Any]
    seconds: float

    def json(self, name: str) -> Any:
        """The JSON file ``name`` of this artifact."""
        return read_json(self.path / name)


@dataclass(frozen=True)
class Finding:
    """What a check found. ``error`` stops the release, ``warning`` and ``note`` are said."""

    level: Literal["error", "warning", "note"]
    message: str
    hint: str | None = None
    exit_code: int = 3


Report = Callable[[str, float | None], None]
"""How a running stage tells where it is: (figure in words, share done from 0 to 1 or None)."""


def silent(figure: str, share: float | None) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class Context:
    """Everything that a stage is given.

    ``settings`` and ``inputs`` make the artifact's key, so a stage reads nothing of the recipe but ``settings``
    and ``recipe.seed``, and nothing of other steps but ``inputs``. In ``check`` there are no inputs yet.
    """

    step: str
    recipe: Recipe
    recipe_folder: Path
    settings: Mapping[str, Any]
    inputs: Mapping[str, Artifact]
    target: Target
    run: Run
    key: str = ""
    stage_name: str | None = None
    variant_name: str | None = None
    report: Report = silent
    started: float = field(default_factory=time.monotonic)

    @property
    def out(self) -> Path:
        """The empty folder in which the stage makes its files."""
        return self.run.work / folder_name(self.step) / "out"

    @property
    def scratch(self) -> Path:
        """A folder for checkpoints: it survives a kill, and is removed when the step is done or its key changes."""
        return self.run.work / folder_name(self.step) / "scratch"

    @property
    def training(self) -> Training:
        """The recipe's training stage that this step is about (its own, or its variant's)."""
        name = self.stage_name or self.recipe.variants[self.variant_name or ""].stage
        return self.recipe.stages[name]

    @property
    def variant(self) -> Variant:
        """The recipe's variant that this step is about."""
        return self.recipe.variants[self.variant_name or ""]

    def input(self, name: str) -> Artifact:
        """The artifact of the step ``name``: this variant's or stage's own when the step is made for each."""
        own = [f"{name}[{which}]" for which in (self.variant_name, self.stage_name) if which]
        if name == "train" and self.variant_name:
            own = [f"train[{self.variant.stage}]", *own]
        for candidate in (name, *own):
            if candidate in self.inputs:
                return self.inputs[candidate]
        raise KeyError(f"{self.step} was given no {name}; it has {sorted(self.inputs)}")

    def each(self, name: str) -> dict[str, Artifact]:
        """The artifacts of the step ``name`` by variant (or stage), in the recipe's order."""
        known = [*self.recipe.variants, *self.recipe.stages]
        return {which: self.inputs[f"{name}[{which}]"] for which in known if f"{name}[{which}]" in self.inputs}

    def artifact(self, *, known: Mapping[str, Digests] | None = None, **summary: Any) -> Artifact:
        """Close ``out``: move it to its place and write its manifest, last. ``summary`` is shown to people.

        ``known`` are digests of files by path in ``out``, from the code that wrote them: those are not read again.
        """
        return self.run.keep(self, summary, known)


class Stage(Protocol):
    """A module with two functions; a third party's counts as ours (entry-point group ``hubkit.stages``)."""

    VERSION: int
    """Raised when what the stage makes from the same inputs changes."""
    SHAPED_BY: tuple[str, ...]
    """Distributions whose version shapes the result."""

    def check(self, ctx: Context) -> Iterable[Finding]:
        """What is wrong, found without GPU time. Preflight calls it, in a worker, before anything runs."""
        ...

    def run(self, ctx: Context) -> Artifact:
        """Make ``ctx.out`` and return ``ctx.artifact(...)``."""
        ...


def folder_name(step: str) -> str:
    """``step`` as one folder's name: a branch may hold '/', never '~'."""
    return step.replace("/", "~")


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


def installed(library: str) -> str | None:
    """The version of the distribution ``library``; None when it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def artifact_key(stage: Stage, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """sha256 over all that shapes an artifact: settings, the inputs' digests, stage and library versions."""
    libraries = {name: installed(name) for name in stage.SHAPED_BY}
    return digest_of({"settings": settings, "inputs": dict(inputs), "version": stage.VERSION, "libraries": libraries})


def named_run(home: Path, name: str) -> Run:
    """The run called ``name``; UsageError when there is none."""
    for run in find_runs(home):
        if run.name == name:
            return run
    raise UsageError(f"There is no run called {name!r}.", hint="`hubkit runs list` shows them all.")
