"""Trainings that a release would discard: shown by `hubkit plan`, agreed to before `hubkit release` begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

from pydantic import ValidationError

from hubkit.core.errors import RefusedError
from hubkit.core.numbers import counted, duration, size
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import Job, expand
from hubkit.pipeline.made_from import Change, MadeFrom, changes, counted_settings, training_key
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runs import Run
from hubkit.pipeline.stored import DEAR_SECONDS, KeptTraining, trained_form, training_seconds, unfinished_seconds
from hubkit.recipe.models import Recipe


@dataclass(frozen=True)
class Discard:
    """A training of more than a minute that a release would replace.

    ``what``: the finished adapter (or weights), or the checkpoints of a training that was interrupted. ``changes`` is
    what differs; empty when an earlier version of hubkit did not record what it was made from. ``after`` is the
    training whose new adapter it would continue, where that is the reason.
    """

    step: str
    what: Literal["adapter", "weights", "checkpoints"]
    seconds: float
    bytes: int
    changes: tuple[Change, ...] = ()
    after: str | None = None

    @property
    def why(self) -> str:
        """The reason in words: what changed, from what to what."""
        if self.changes:
            return "; ".join(map(str, self.changes))
        if self.after is not None:
            return f"{self.after} is trained again, which it continues"
        return "its settings or inputs changed (an earlier version of hubkit did not record which)"

    def __str__(self) -> str:
        thing = "the checkpoints of an interrupted training" if self.what == "checkpoints" else f"its {self.what}"
        return f"{self.step}: {thing} ({duration(self.seconds)}, {size(self.bytes)}) would be replaced. {self.why}"

    def to_json(self) -> dict[str, Any]:
        """As `hubkit plan --json` prints it."""
        return {
            "step": self.step,
            "what": self.what,
            "seconds": self.seconds,
            "bytes": self.bytes,
            "why": self.why,
            "changes": [vars(change) for change in self.changes],
        }


Consent = Callable[[Sequence[Discard]], None]
"""Returns when the trainings may be replaced, and raises when not."""


def refuse(found: Sequence[Discard]) -> NoReturn:
    """RefusedError that lists ``found``."""
    listed = "\n".join(f"  {item}" for item in found)
    what = "model" if any(item.what == "weights" for item in found) else "adapter"
    raise RefusedError(
        f"This release would train {counted(len({item.step for item in found}), what)} again:\n{listed}",
        hint="Undo the change, or pass --retrain. What is replaced is kept: see `hubkit runs show`.",
    )


def discarded(state: ReleaseState) -> list[Discard]:
    """The trainings that a release of ``state`` would discard, as far as is known before it runs.

    While a step before a training must run, its rows and its base are not known: the release asks again when they are.
    """
    walked, found, again = replace(state, finished={}), list[Discard](), set[str]()
    for job in state.jobs:
        artifact, _ = walked.reusable_artifact(job)
        if artifact is not None:
            walked.finished[job.id] = artifact
        elif job.step.dear:
            these = list(_discards(walked, job, again))
            found += these
            if these or walked.key(job) or again & {*job.inputs}:
                again.add(job.id)
    return found


def _discards(state: ReleaseState, job: Job, again: set[str]) -> Iterator[Discard]:
    """What a training of ``job``, which must run, would discard. ``again`` are trainings that surely run before."""
    key, run = state.key(job), state.run
    unfinished = state.recorded_of_unfinished(job)
    if key and (run.begun(job.id) == key or (unfinished is not None and training_key(unfinished) == key)):
        return  # it was agreed to when it began
    after = next((name for name in job.inputs if name in again), None)
    now, present = state.made_from(job), run.find(job.id)
    if present is not None and (seconds := training_seconds(present)) > DEAR_SECONDS:
        different = _changes(state, job, state.recorded(job, present), now)
        if key or different or after:
            yield Discard(job.id, trained_form(present), seconds, present.manifest.size, different, after)
    work = run.unfinished(job.id)
    if run.begun(job.id) is not None and (seconds := unfinished_seconds(work)) > DEAR_SECONDS:
        different = _changes(state, job, unfinished, now)
        if key or different or after:
            nbytes = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
            yield Discard(job.id, "checkpoints", seconds, nbytes, different, after)


def _changes(state: ReleaseState, job: Job, record: MadeFrom | None, now: MadeFrom | None) -> tuple[Change, ...]:
    """What changed since ``record``; of the settings alone while the inputs are not known (``now`` is None)."""
    if record is None:
        return ()
    return changes(job, record, now or {**record, "settings": counted_settings(state.settings(job))})


def recipe_changes(run: Run, training: KeptTraining) -> tuple[Change, ...]:
    """In what the recipe that ``run`` was last begun with differs from what ``training`` was trained with."""
    try:
        recipe = Recipe.model_validate_json((run.path / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return ()
    job = next((job for job in expand(recipe) if job.id == training.step), None)
    if job is None or training.made_from is None:
        return ()
    settings = find_stage(job.stage).Settings.of(recipe, job.scope(run.path))
    return changes(job, training.made_from, {**training.made_from, "settings": counted_settings(settings)})
