"""Run a release: what is finished is kept, the rest is done in order, and the outcome is read from what was made."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict
from pathlib import Path

from hubkit import __version__
from hubkit.core.errors import HubkitError
from hubkit.core.files import write_atomic
from hubkit.core.output import Output, StepView
from hubkit.core.target import Target
from hubkit.hub.reach import reach
from hubkit.pipeline import preflight
from hubkit.pipeline.desk import Desk
from hubkit.pipeline.earlier_runs import finished_before
from hubkit.pipeline.outcome import Outcome, read_outcome
from hubkit.pipeline.plan import Job, expand
from hubkit.pipeline.runs import Run, open_run, release_lock
from hubkit.pipeline.worker import Worker
from hubkit.recipe.artifact import StoredArtifact
from hubkit.recipe.mistakes import Places
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Options


def release(
    recipe: Recipe,
    folder: Path,
    target: Target,
    home: Path,
    output: Output,
    *,
    fresh: bool = False,
    only: str | None = None,
    overwrite_card: bool = False,
    places: Places | None = None,
) -> Outcome:
    """Release ``recipe``, whose files are in ``folder``, to ``target``. A finished release does nothing.

    With ``overwrite_card`` edits of the cards on the Hub are lost where this release writes the same place.
    ``places`` are the lines of the recipe's keys, for messages.

    Raises HubkitError: RefusedError by a check or a gate (nothing was promoted), ConflictError when a branch moved
    or another process has the run, RemoteError when the Hub cannot be reached.
    """
    with release_lock(home, recipe.repo, target):
        if not fresh and (earlier := finished_before(recipe, folder, target, home)) is not None:
            output.say(f"It was released by an earlier version of hubkit, in the run {earlier.run}.")
            return earlier
        run = open_run(home, recipe.repo, target, fresh=fresh)
        with run.lock():
            desk = Desk(recipe, folder, target, run, expand(recipe, only=only), options=Options(overwrite_card))
            return _release(desk, output, only, places)


def _release(desk: Desk, output: Output, only: str | None, places: Places | None) -> Outcome:
    run = desk.run
    write_atomic(run.path / "recipe.json", desk.recipe.model_dump_json(indent=2) + "\n")
    if desk.released():
        return _outcome(desk, already=True)
    versions = {"hubkit": __version__, "python": platform.python_version()}
    run.log("begin", **versions, endpoint=desk.target.endpoint, options=asdict(desk.options))
    try:
        _run_jobs(desk, output, only, places)
    except BaseException as error:
        run.log("stopped", error=type(error).__name__, exit_code=getattr(error, "exit_code", None))
        raise
    run.log("released")
    return _outcome(desk, already=False)


def _run_jobs(desk: Desk, output: Output, only: str | None, places: Places | None) -> None:
    names = ("preflight", *(job.id for job in desk.jobs))
    with output.steps(names) as view, Worker(desk, only) as shared:
        view.start("preflight")
        began = time.monotonic()
        reach(desk.target.endpoint)
        findings = preflight.gather(desk, desk.jobs, shared.check, places)
        for finding in findings:
            if finding.level != "error":
                output.warn(finding.message)
        preflight.refuse(findings)
        view.done("preflight", f"{len(desk.jobs)} steps checked", time.monotonic() - began)
        for job in desk.jobs:
            artifact, _ = desk.kept(job)
            if artifact is not None and (changed := desk.outdated(job, artifact)) is not None:
                desk.run.log("stale", step=job.id, why=changed)
                artifact = None
            if artifact is not None:
                view.done(job.id, figure(artifact), artifact.seconds, reused=True)
            elif job.step.alone:
                shared.close()
                with Worker(desk, only) as own:
                    artifact = _run_job(desk, job, own, view)
            else:
                artifact = _run_job(desk, job, shared, view)
            for warning in artifact.summary.get("warnings", ()):
                output.warn(warning)
            desk.finished[job.id] = artifact


def _run_job(desk: Desk, job: Job, worker: Worker, view: StepView) -> StoredArtifact:
    view.start(job.id)
    key = desk.key(job)
    desk.run.log("start", step=job.id, key=key)
    try:
        worker.run(job, lambda words, share: view.progress(job.id, words, share))
    except BaseException:
        view.failed(job.id)
        raise
    artifact = desk.run.find(job.id)
    if artifact is None or artifact.key != key:
        raise HubkitError(f"The stage {job.stage!r} ended without an artifact.", hint="Its run() must return one.")
    desk.run.log("done", step=job.id, seconds=artifact.seconds)
    view.done(job.id, figure(artifact), artifact.seconds)
    return artifact


def figure(artifact: StoredArtifact) -> str:
    """The summary of ``artifact`` in a few words, for its step's line."""
    said = artifact.summary.get("figure")
    if said is not None:
        return str(said)
    return "  ".join(
        f"{name} {value}" for name, value in artifact.summary.items() if not isinstance(value, dict | list)
    )


def _outcome(desk: Desk, *, already: bool) -> Outcome:
    made = {name: artifact.path for name, artifact in desk.finished.items()}
    return read_outcome(made, desk.run.name, desk.target, already=already)


def finished_desk(recipe: Recipe, folder: Path, target: Target, run: Run) -> Desk:
    """A desk with all that ``run`` has finished and that still counts, for `plan` and `runs show`."""
    desk = Desk(recipe, folder, target, run, expand(recipe))
    for job in desk.jobs:
        artifact, _ = desk.kept(job)
        if artifact is not None:
            desk.finished[job.id] = artifact
    return desk
