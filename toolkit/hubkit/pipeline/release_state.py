"""State of a release while it runs: recipe, jobs, run folder, finished artifacts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hubkit.core.files import MANIFEST, Manifest, read_json, write_atomic, write_json
from hubkit.core.target import Target
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import InputSource, Job
from hubkit.pipeline.keys import artifact_key, input_digests
from hubkit.pipeline.made_from import MadeFrom, changes, made_from, proven, training_key, upgrades, upgrades_in_words
from hubkit.pipeline.runs import Run
from hubkit.pipeline.stored import KEY, MADE_FROM
from hubkit.recipe.artifact import StoredArtifact
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import BaseRepo, CheckContext, Context, Earlier, Options, Report, silent


@dataclass
class ReleaseState:
    """What the runner knows: the recipe, its jobs, the run folder and the finished artifacts by job.

    ``sealed``: the recipe is a stranger's, so what trains has no token, and reads the base from the cache alone.
    """

    recipe: Recipe
    folder: Path
    target: Target
    run: Run
    jobs: tuple[Job, ...]
    finished: dict[str, StoredArtifact] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    sealed: bool = False

    def settings(self, job: Job) -> Any:
        """The ``Settings`` of ``job``'s stage."""
        return find_stage(job.stage).Settings.of(self.recipe, job.scope(self.folder))

    def key(self, job: Job) -> str:
        """The key of the artifact of ``job``; empty while an input is not finished."""
        if not self.finished.keys() >= {*job.inputs}:
            return ""
        if (record := self.made_from(job)) is not None:
            return training_key(record)
        return artifact_key(find_stage(job.stage), self.settings(job), input_digests(job, self.finished))

    def made_from(self, job: Job) -> MadeFrom | None:
        """What the training ``job`` would be made from; None for another step, and while an input is not finished."""
        if not job.step.dear or not self.finished.keys() >= {*job.inputs}:
            return None
        return made_from(find_stage(job.stage), job, self.settings(job), self.finished)

    def recorded(self, job: Job, artifact: StoredArtifact) -> MadeFrom | None:
        """What the training ``artifact`` was made from: its record, or what its old key proves; None when unknown."""
        if artifact.made_from is not None:
            return artifact.made_from
        stage, found = find_stage(job.stage), dict(self.finished)
        for name in job.inputs:  # as they were when the release began: a step before may run again
            if name not in found and (stored := self.run.find(name)) is not None:
                found[name] = stored
        return proven(stage, job, artifact, self._settings_then(job), found)

    def recorded_of_unfinished(self, job: Job) -> MadeFrom | None:
        """What the unfinished training of ``job`` is made from; None when there is none, or that is unknown."""
        key, folder = self.run.begun(job.id), self.run.unfinished(job.id)
        if key is None:
            return None
        if (folder / MADE_FROM).is_file():
            return dict(read_json(folder / MADE_FROM))
        return self.recorded(job, StoredArtifact(folder, key, Manifest({}), {}, 0.0))

    def record_trainings(self) -> None:
        """Write down what trainings were made from that an earlier version of hubkit left without, where it is proven.

        Their keys become today's, so that nothing is trained again because keys are computed differently now.
        """
        for job in self.jobs:
            if not job.step.dear:
                continue
            found = self.run.find(job.id)
            if found is not None and found.made_from is None and (record := self.recorded(job, found)) is not None:
                kept = {**read_json(found.path / MANIFEST), "key": training_key(record), "made_from": record}
                write_json(found.path / MANIFEST, kept)
            record, folder = self.recorded_of_unfinished(job), self.run.unfinished(job.id)
            if record is not None and self.run.begun(job.id) != training_key(record):
                write_json(folder / MADE_FROM, record)
                write_atomic(folder / KEY, training_key(record))

    def _settings_then(self, job: Job) -> list[Any]:
        """The settings of the training ``job``: today's, and those of the recipe that the run was last begun with."""
        candidates = [self.settings(job)]
        with contextlib.suppress(OSError, ValueError, KeyError):
            text = (self.run.path / "recipe.json").read_text(encoding="utf-8")
            before = Recipe.model_validate_json(text)
            candidates.append(find_stage(job.stage).Settings.of(before, job.scope(self.folder)))
        return candidates

    def upgraded(self, job: Job, artifact: StoredArtifact) -> str | None:
        """Which libraries changed since ``artifact`` was trained, in words; None when none did, or for other steps."""
        now, before = self.made_from(job), artifact.made_from
        found = upgrades(before, now) if now and before else ()
        return upgrades_in_words(found) if found else None

    def check_context(self, job: Job) -> CheckContext[Any]:
        """The argument of ``check`` of ``job``'s stage."""
        base = BaseRepo(self.recipe.base.repo, self.recipe.base.revision, self.recipe.provide is not None)
        return CheckContext(self.settings(job), self.target, self.options, base)

    def context(self, job: Job, report: Report = silent) -> Context[Any, Any]:
        """The argument of ``run`` of ``job``'s stage. All of its inputs must be finished."""

        def note(point: str, **facts: Any) -> None:
            self.run.log(point, **{"step": job.id, **facts})

        return Context(
            settings=self.settings(job),
            inputs=load_inputs(job, self.finished),
            target=self.target,
            out=self.run.out(job.id),
            scratch=self.run.scratch(job.id),
            report=report,
            note=note,
            options=self.options,
            earlier=self._earlier(job),
        )

    def _earlier(self, job: Job) -> Earlier:
        found = self.run.find(job.id)
        return Earlier(self.run.notes(job.id), found.path if found else None)

    def reusable_artifact(self, job: Job) -> tuple[StoredArtifact | None, str]:
        """The artifact that ``job`` can reuse (None: it must run), and the reason in words.

        A training that was replaced and has the key is reused, too: the runner restores it.
        """
        key, found = self.key(job), self.run.find(job.id)
        if not key:
            return None, "needs an earlier step" if found is None else "reused if its inputs do not change"
        if job.step.dear:
            return self._reusable_training(job, key, found)
        if found is None:
            return None, "not run yet"
        if found.key != key:
            return None, "its settings, inputs, code or libraries changed"
        return found, "reused"

    def _reusable_training(self, job: Job, key: str, found: StoredArtifact | None) -> tuple[StoredArtifact | None, str]:
        if found is not None and found.key == key:
            words = self.upgraded(job, found)
            return found, f"reused; {words}" if words else "reused"
        record = self.recorded(job, found) if found is not None else None
        if record is not None and training_key(record) == key:
            return found, "reused"
        for training in reversed(self.run.kept()):
            if training.stored is not None and (training.step, training.key) == (job.id, key):
                return training.stored, f"reused: {training.id} is kept and was made from the same"
        if found is None:
            return None, "not run yet"
        now = self.made_from(job)
        listed = "; ".join(map(str, changes(job, record, now))) if record and now else "its settings or inputs changed"
        return None, listed

    def outdated(self, job: Job, artifact: StoredArtifact) -> str | None:
        """What has changed since ``artifact`` was made; None when nothing has (stages may define ``outdated``)."""
        stage = find_stage(job.stage)
        ask = getattr(stage, "outdated", None)
        answer: str | None = ask(self.context(job), stage.Output.load(artifact.path)) if ask else None
        return answer

    def released(self) -> bool:
        """Whether the release is finished and the Hub still holds it."""
        for job in self.jobs:
            artifact, _ = self.reusable_artifact(job)
            if artifact is None:
                return False
            self.finished[job.id] = artifact
        if any(job.step.lasting and self.outdated(job, self.finished[job.id]) is not None for job in self.jobs):
            self.finished.clear()
            return False
        return True


def load_inputs(job: Job, finished: Mapping[str, StoredArtifact]) -> Any:
    """The ``Inputs`` of ``job``'s stage: each artifact is loaded by its field's type."""
    inputs = find_stage(job.stage).Inputs
    kinds = get_type_hints(inputs)
    return inputs(**{name: _load(kinds[name], source, finished) for name, source in job.input_sources.items()})


def _load(kind: Any, source: InputSource, finished: Mapping[str, StoredArtifact]) -> Any:
    load = _artifact_type(kind).load
    found = {
        name: load(finished[made].path / (source.part or "")) for name, made in source.jobs.items() if made in finished
    }
    return found if source.many else found.get("")


def _artifact_type(kind: Any) -> Any:
    """The type of the artifact in an annotation: X itself, X | None, or Mapping[str, X]."""
    return next((item for item in reversed(get_args(kind)) if item is not type(None)), kind)
