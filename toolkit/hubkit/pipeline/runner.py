"""Run a release: reuse finished artifacts, run the other jobs in order, and read the outcome from the artifacts."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hubkit import __version__
from hubkit.core.errors import HubkitError
from hubkit.core.files import write_atomic
from hubkit.core.output import Output
from hubkit.core.processes.named import this_process
from hubkit.core.step_view import StepView
from hubkit.core.target import Target
from hubkit.hub.reach import reach
from hubkit.pipeline import launched, preflight
from hubkit.pipeline.ahead import Ahead
from hubkit.pipeline.discards import Consent, Discard, discarded, refuse
from hubkit.pipeline.earlier_runs import finished_before
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import Job, expand
from hubkit.pipeline.made_from import upgrades, upgrades_in_words
from hubkit.pipeline.outcome import Outcome, read_outcome
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runs import Run, open_run, release_lock
from hubkit.pipeline.worker import Worker
from hubkit.recipe.artifact import StoredArtifact
from hubkit.recipe.mistakes import Places
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Options

PREFLIGHT = "preflight"
"""The name of the checks before the first step, among the steps that are shown."""


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
    thorough: bool = False,
    places: Places | None = None,
    retrain: bool = False,
    consent: Consent = refuse,
) -> Outcome:
    """Run the release of ``recipe`` on ``target``; its files are in ``folder``. A finished release does nothing.

    With ``overwrite_card`` edits of the cards on the Hub are lost where this release writes the same place; with
    ``thorough`` every number of the merged weights is proved.
    ``places`` are the lines of the recipe's keys, for messages. ``consent`` is asked before trainings of more than a
    minute are replaced. With ``retrain`` it is not asked, and what was trained with other versions of the libraries is
    trained again, too.

    Raises HubkitError: RefusedError by a check or a gate (nothing was promoted), ConflictError when a branch moved
    or another process has the run, RemoteError when the Hub cannot be reached.
    """
    launched.refuse_by_hand()
    with release_lock(home, recipe.repo, target):
        if not fresh and (earlier := finished_before(recipe, folder, target, home)) is not None:
            output.say(f"Already released by an earlier version of hubkit (run {earlier.run}).")
            return earlier
        run = open_run(home, recipe.repo, target, fresh=fresh)
        with run.lock():
            state = ReleaseState(
                recipe, folder, target, run, expand(recipe, only=only), options=Options(overwrite_card, thorough)
            )
            run.settle()
            state.record_trainings()
            return _release(state, output, only, places, Retraining(retrain, consent))


@dataclass
class Retraining:
    """What may be trained again: all of it, or what was agreed to."""

    everything: bool
    consent: Consent
    agreed: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)
    """The steps whose line was printed, when what was asked interrupts the view."""

    def agree(self, state: ReleaseState) -> None:
        """Ask for the trainings that ``state`` is now known to discard; ``consent`` raises when they must stay."""
        if not self.everything and (found := self._open(state)):
            self.consent(found)
            self.agreed |= {item.step for item in found}

    def asks(self, state: ReleaseState) -> bool:
        """Whether ``state`` is now known to discard a training that was not agreed to."""
        return not self.everything and bool(self._open(state))

    def _open(self, state: ReleaseState) -> list[Discard]:
        return [item for item in discarded(state) if item.step not in self.agreed]

    def again(self, state: ReleaseState, job: Job, artifact: StoredArtifact) -> bool:
        """Whether the reusable ``artifact`` is trained again, because libraries changed since."""
        return self.everything and state.upgraded(job, artifact) is not None


def _release(
    state: ReleaseState, output: Output, only: str | None, places: Places | None, retraining: Retraining
) -> Outcome:
    run = state.run
    retraining.agree(state)
    write_atomic(run.path / "recipe.json", state.recipe.model_dump_json(indent=2) + "\n")
    if state.released() and not any(retraining.again(state, job, state.finished[job.id]) for job in state.jobs):
        return _outcome(state, up_to_date=True)
    versions = {"hubkit": __version__, "python": platform.python_version()}
    given = {"endpoint": state.target.endpoint, "options": asdict(state.options)}
    run.log("begin", **versions, **given, process=this_process())
    output.heading(_heading(state))
    try:
        while not run_jobs(state, output, only, places, retraining):
            retraining.agree(state)
    except BaseException as error:
        run.log("stopped", error=type(error).__name__, exit_code=getattr(error, "exit_code", None))
        raise
    run.log("released")
    return _outcome(state, up_to_date=False)


def _heading(state: ReleaseState) -> str:
    """What is released, where, and in which run."""
    does = "Proposing" if state.recipe.pull_request else "Releasing"
    hub = f"{'the embedded Hub at ' if state.target.embedded else ''}{state.target.endpoint}"
    return f"{does} {' and '.join(state.recipe.repos())} on {hub} (run {state.run.name})"


def run_jobs(
    state: ReleaseState, output: Output, only: str | None, places: Places | None, retraining: Retraining
) -> bool:
    """Run what cannot be reused. False, before any training: one would be discarded that was not agreed to."""
    names = (PREFLIGHT, *(job.id for job in state.jobs))
    with output.steps(names, retraining.shown) as view, Worker(state, only) as shared, Ahead(state, only) as ahead:
        _preflight(state, output, shared, view, places)
        together: dict[str, StoredArtifact] = {}
        for job in state.jobs:
            ahead.begin()
            ahead.finish(job, view)
            artifact = reused = _reusable(state, job, retraining)
            if job.id in together:
                artifact, reused = together[job.id], None
                view.done(job.id, figure(artifact), artifact.seconds)
            elif artifact is not None:
                if words := state.upgraded(job, artifact):
                    output.warn(f"{job.id} is reused: {words}. Pass --retrain to train it again.")
                view.done(job.id, figure(artifact), artifact.seconds, reused=True)
            elif job.step.alone:
                shared.close()
                with Worker(state, only, sealed=state.sealed) as own:
                    artifact = _run_job(state, job, own, view)
            else:
                others = _to_run_with(state, job, retraining)
                artifact = _run_job(state, job, shared, view, others)
                together |= {other.id: made for other in others if (made := state.reusable_artifact(other)[0])}
            for warning in artifact.summary.get("warnings", ()):
                output.warn(warning)
            state.finished[job.id] = artifact
            if reused is None and retraining.asks(state):
                return False
    return True


def _preflight(state: ReleaseState, output: Output, shared: Worker, view: StepView, places: Places | None) -> None:
    """Check everything that can fail before any step runs, and show what is checked."""
    view.start(PREFLIGHT)
    began = time.monotonic()
    names: list[str] = []

    def checking(name: str, share: float) -> None:
        names.append(name)
        view.progress(PREFLIGHT, f"checking {name}", share)

    try:
        checking("Hub", 0.0)
        reach(state.target.endpoint)
        findings = preflight.gather(state, state.jobs, shared.check, places, checking)
        for finding in findings:
            if finding.level != "error":
                output.warn(finding.message)
        preflight.refuse(findings)
    except BaseException as error:
        view.failed(PREFLIGHT, interrupted=not isinstance(error, Exception))
        raise
    view.done(PREFLIGHT, preflight.in_words(names, state.jobs), time.monotonic() - began)


def _reusable(state: ReleaseState, job: Job, retraining: Retraining) -> StoredArtifact | None:
    """The artifact that ``job`` reuses, restored if it was replaced before; None when the job must run."""
    artifact, _ = state.reusable_artifact(job)
    if artifact is None or retraining.again(state, job, artifact):
        return None
    if (changed := state.outdated(job, artifact)) is not None:
        state.run.log("stale", step=job.id, why=changed)
        return None
    for training in state.run.kept():
        if training.path == artifact.path:
            state.run.restore(training)
            return state.run.find(job.id)
    return artifact


def _to_run_with(state: ReleaseState, job: Job, retraining: Retraining) -> list[Job]:
    """The other variants that must run through the step of ``job``, and can already, if its stage takes several."""
    if not hasattr(find_stage(job.stage), "run_together"):
        return []
    others = [other for other in state.jobs if (other.step, other.stage) == (job.step, job.stage) and other is not job]
    return [
        other
        for other in others
        if other.id not in state.finished and state.key(other) and _reusable(state, other, retraining) is None
    ]


def _run_job(
    state: ReleaseState, job: Job, worker: Worker, view: StepView, together: Sequence[Job] = ()
) -> StoredArtifact:
    view.start(job.id)
    key = state.key(job)
    if words := _upgraded_since_checkpoint(state, job, key):
        view.output.warn(f"{job.id} is resumed; its checkpoints were {words}.")
    state.run.log("start", step=job.id, key=key)
    for other in together:
        state.run.log("start", step=other.id, key=state.key(other))
    try:
        worker.run(job, lambda words, share: view.progress(job.id, words, share), together)
    except BaseException as error:
        view.failed(job.id, interrupted=not isinstance(error, Exception))
        raise
    artifact = state.run.find(job.id)
    if artifact is None or artifact.key != key:
        raise HubkitError(f"The stage {job.stage!r} ended without an artifact.", hint="Its run() must return one.")
    state.run.log("done", step=job.id, seconds=artifact.seconds)
    for other in together:
        if made := state.reusable_artifact(other)[0]:
            state.run.log("done", step=other.id, seconds=made.seconds)
    view.done(job.id, figure(artifact), artifact.seconds)
    return artifact


def _upgraded_since_checkpoint(state: ReleaseState, job: Job, key: str) -> str | None:
    """Which libraries changed since the unfinished training of ``job`` began; None when it begins anew."""
    begun, now = state.recorded_of_unfinished(job) if job.step.dear else None, state.made_from(job)
    if begun is None or now is None or state.run.begun(job.id) != key:
        return None
    found = upgrades(begun, now)
    return upgrades_in_words(found) if found else None


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
