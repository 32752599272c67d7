"""State of a release while it runs: recipe, jobs, run folder, finished artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hubkit.core.target import Target
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import InputSource, Job
from hubkit.pipeline.keys import artifact_key, input_digests
from hubkit.pipeline.runs import Run
from hubkit.recipe.artifact import StoredArtifact
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Context, Earlier, Options, Report, silent


@dataclass
class ReleaseState:
    """What the runner knows: the recipe, its jobs, the run folder and the finished artifacts by job."""

    recipe: Recipe
    folder: Path
    target: Target
    run: Run
    jobs: tuple[Job, ...]
    finished: dict[str, StoredArtifact] = field(default_factory=dict)
    options: Options = field(default_factory=Options)

    def settings(self, job: Job) -> Any:
        """The ``Settings`` of ``job``'s stage."""
        return find_stage(job.stage).Settings.of(self.recipe, job.scope(self.folder))

    def key(self, job: Job) -> str:
        """The key of the artifact of ``job``; empty while an input is not finished."""
        if not self.finished.keys() >= {*job.inputs}:
            return ""
        return artifact_key(find_stage(job.stage), self.settings(job), input_digests(job, self.finished))

    def check_context(self, job: Job) -> CheckContext[Any]:
        """The argument of ``check`` of ``job``'s stage."""
        return CheckContext(self.settings(job), self.target, self.options)

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
        """The artifact that ``job`` can reuse (None: it must run), and the reason in words."""
        key, found = self.key(job), self.run.find(job.id)
        if not key:
            return None, "needs an earlier step" if found is None else "reused if its inputs do not change"
        if found is None:
            return None, "not run yet"
        if found.key != key:
            return None, "its settings, inputs, code or libraries changed"
        return found, "reused"

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
