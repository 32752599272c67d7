"""Run a release: reuse finished artifacts, run the other jobs in order, and read the outcome from the artifacts."""

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
from hubkit.pipeline.earlier_runs import finished_before
from hubkit.pipeline.jobs import Job, expand
from hubkit.pipeline.outcome import Outcome, read_outcome
from hubkit.pipeline.release_state import ReleaseState
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
    """Run the release of ``recipe`` on ``target``; its files are in ``folder``. A finished release does nothing.

    With ``overwrite_card`` edits of the cards on the Hub are lost where this release writes the same place.
    ``places`` are the lines of the recipe's keys, for messages.

    Raises HubkitError: RefusedError by a check or a gate (nothing was promoted), ConflictError when a branch moved
    or another process has the run, RemoteError when the Hub cannot be reached.
    """
    with release_lock(home, recipe.repo, target):
        if not fresh and (earlier := finished_before(recipe, folder, target, home)) is not None:
            output.say(f"Already released by an earlier version of hubkit (run {earlier.run}).")
            return earlier
        run = open_run(home, recipe.repo, target, fresh=fresh)
        with run.lock():
            state = ReleaseState(
                recipe, folder, target, run, expand(recipe, only=only), options=Options(overwrite_card)
            )
            return _release(state, output, only, places)


def _release(state: ReleaseState, output: Output, only: str | None, places: Places | None) -> Outcome:
    run = state.run
    write_atomic(run.path / "recipe.json", state.recipe.model_dump_json(indent=2) + "\n")
    if state.released():
        return _outcome(state, up_to_date=True)
    versions = {"hubkit": __version__, "python": platform.python_version()}
    run.log("begin", **versions, endpoint=state.target.endpoint, options=asdict(state.options))
    try:
        _run_jobs(state, output, only, places)
    except BaseException as error:
        run.log("stopped", error=type(error).__name__, exit_code=getattr(error, "exit_code", None))
        raise
    run.log("released")
    return _outcome(state, up_to_date=False)


def _run_jobs(state: ReleaseState, output: Output, only: str | None, places: Places | None) -> None:
    names = ("preflight", *(job.id for job in state.jobs))
    with output.steps(names) as view, Worker(state, only) as shared:
        view.start("preflight")
        began = time.monotonic()
        reach(state.target.endpoint)
        findings = preflight.gather(state, state.jobs, shared.check, places)
        for finding in findings:
            if finding.level != "error":
                output.warn(finding.message)
        preflight.refuse(findings)
        view.done("preflight", f"{len(state.jobs)} steps checked", time.monotonic() - began)
        for job in state.jobs:
            artifact, _ = state.reusable_artifact(job)
            if artifact is not None and (changed := state.outdated(job, artifact)) is not None:
                state.run.log("stale", step=job.id, why=changed)
                artifact = None
            if artifact is not None:
                view.done(job.id, figure(artifact), artifact.seconds, reused=True)
            elif job.step.alone:
                shared.close()
                with Worker(state, only) as own:
                    artifact = _run_job(state, job, own, view)
            else:
                artifact = _run_job(state, job, shared, view)
            for warning in artifact.summary.get("warnings", ()):
                output.warn(warning)
            state.finished[job.id] = artifact


def _run_job(state: ReleaseState, job: Job, worker: Worker, view: StepView) -> StoredArtifact:
    view.start(job.id)
    key = state.key(job)
    state.run.log("start", step=job.id, key=key)
    try:
        worker.run(job, lambda words, share: view.progress(job.id, words, share))
    except BaseException:
        view.failed(job.id)
        raise
    artifact = state.run.find(job.id)
    if artifact is None or artifact.key != key:
        raise HubkitError(f"The stage {job.stage!r} ended without an artifact.", hint="Its run() must return one.")
    state.run.log("done", step=job.id, seconds=artifact.seconds)
    view.done(job.id, figure(artifact), artifact.seconds)
    return artifact


def figure(artifact: StoredArtifact) -> str:
    """The summary of ``artifact`` in a few words, for its step's line."""
    text = artifact.summary.get("figure")
    if text is not None:
        return str(text)
    return "  ".join(
        f"{name} {value}" for name, value in artifact.summary.items() if not isinstance(value, dict | list)
    )


def _outcome(state: ReleaseState, *, up_to_date: bool) -> Outcome:
    made = {name: artifact.path for name, artifact in state.finished.items()}
    return read_outcome(made, state.run.name, state.target, up_to_date=up_to_date)


def finished_state(recipe: Recipe, folder: Path, target: Target, run: Run) -> ReleaseState:
    """A state with all that ``run`` has finished and that still counts, for `plan` and `runs show`."""
    state = ReleaseState(recipe, folder, target, run, expand(recipe))
    for job in state.jobs:
        artifact, _ = state.reusable_artifact(job)
        if artifact is not None:
            state.finished[job.id] = artifact
    return state
