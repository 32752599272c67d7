"""From the list of steps to the jobs of one recipe: a step for one variant or training stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hubkit.pipeline.step_inputs import Source, Step
from hubkit.pipeline.steps import STEPS
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Scope
from hubkit.training.data.prepared import rows_file

_PUBLISHING = frozenset({"publish", "publish-gguf", "loadback", "snippets"})
_ONCE_WHOLE = ("space", "collection", "new-version")
"""Steps about all the variants, which are not made with one alone."""
_GGUF = frozenset({"gguf", "publish-gguf"})
"""Steps of the variants that are also published as GGUF files; the second one where these have a place of their own."""


@dataclass(frozen=True)
class InputSource:
    """Which artifacts fill one field of a stage's ``Inputs``.

    ``jobs`` are the ids of the jobs that produce it, by name ('' when it is one artifact); no job: the field is None,
    or an empty mapping when ``many``. ``part`` is the one file of the artifact that may be read and counts.
    """

    jobs: Mapping[str, str]
    many: bool = False
    part: str | None = None


@dataclass(frozen=True)
class Job:
    """A step for one variant or training stage: what the runner runs. ``id`` is 'merge[main]' or 'data'."""

    step: Step
    id: str
    stage: str
    input_sources: Mapping[str, InputSource]
    stage_name: str | None = None
    variant_name: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The ids of the jobs whose artifacts it is given."""
        return tuple(dict.fromkeys(job for source in self.input_sources.values() for job in source.jobs.values()))

    def scope(self, recipe_folder: Path) -> Scope:
        """What it is made for."""
        return Scope(recipe_folder, variant=self.variant_name, training=self.stage_name)


def expand(recipe: Recipe, *, only: str | None = None) -> tuple[Job, ...]:
    """The jobs of ``recipe`` in the order in which they run.

    ``only`` names the one variant to publish; the others are still trained and measured, for the cards compare them.
    The Space and the collection show all the variants, so they are not made with one alone, nor while they are only
    proposed; nor is an older repo replaced then. What the recipe does not ask for is not done: no stop rates without a
    gate, no benchmarks without suites.
    """
    jobs: dict[str, Job] = {}
    for step in STEPS:
        if step.name == "provide" and recipe.provide is None:
            continue
        if step.name in _ONCE_WHOLE and (only is not None or recipe.pull_request):
            continue
        if not _asked_for(step, recipe):
            continue
        for name in _names(step, recipe, only):
            job = _job(step, name, recipe, jobs)
            jobs[job.id] = job
    return tuple(jobs.values())


def _asked_for(step: Step, recipe: Recipe) -> bool:
    """Whether ``recipe`` has what ``step`` measures, decides or shows."""
    if step.stage in ("space", "collection"):
        return getattr(recipe, step.stage) is not None
    if step.stage == "new_version":
        return bool(recipe.card.replaces)
    if step.stage == "evaluate":
        return bool(recipe.evaluate.suites)
    if step.name in _GGUF:
        return recipe.gguf is not None
    if step.stage == "readers":
        return bool(recipe.readers)
    if step.stage == "gate":
        return recipe.gates.are_set
    return step.stage != "stopping" or recipe.gates.stop_rate is not None


def _names(step: Step, recipe: Recipe, only: str | None) -> Sequence[str | None]:
    """The variants or training stages for which ``step`` is made; (None,) for once."""
    if step.per == "release":
        return (None,)
    if step.per == "stage":
        return recipe.wanted_stages()
    names = (only,) if only is not None and step.name in _PUBLISHING else tuple(recipe.variants)
    if step.name not in _GGUF:
        return names
    beside = step.name == "publish-gguf" and recipe.gguf is not None and recipe.gguf.place == "folder"
    return () if beside else tuple(name for name in names if name in recipe.gguf_variants())


def _job(step: Step, name: str | None, recipe: Recipe, earlier: Mapping[str, Job]) -> Job:
    training = name if step.per == "stage" else None
    variant = name if step.per == "variant" else None
    return Job(
        step,
        _id(step.name, name),
        step.stage or recipe.stages[name or ""].uses or name or "",
        {field: _input_source(source, training, variant, recipe, earlier) for field, source in step.inputs.items()},
        stage_name=training,
        variant_name=variant,
    )


def _input_source(
    source: Source, training: str | None, variant: str | None, recipe: Recipe, earlier: Mapping[str, Job]
) -> InputSource:
    if source.which == "every":
        names = [*recipe.variants, *recipe.stages]
        found = {name: _id(source.step, name) for name in names if _id(source.step, name) in earlier}
        return InputSource(found, many=True)
    if source.which == "one":
        wanted: str | None = source.step
    elif source.which == "continued":
        before = recipe.stages[training or ""].continues
        wanted = _id(source.step, before) if before else None
    else:
        published = recipe.variants[variant].stage if variant else training
        wanted = next((job for job in (_id(source.step, variant), _id(source.step, published)) if job in earlier), None)
    part = None
    if source.rows_only:
        trained_on = recipe.stages[training or ""].data
        if trained_on is None:
            return InputSource({})
        part = rows_file(trained_on)
    return InputSource({"": wanted} if wanted in earlier and wanted else {}, part=part)


def _id(step: str, name: str | None) -> str:
    return f"{step}[{name}]" if name else step
