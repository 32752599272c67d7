"""The release, as one list: every step in order, a line each. Below it, the small runner.

Read :data:`STEPS` first; it is the program. A step's stage is found through the entry-point group
``hubkit.stages``, so that a third party's counts as ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, cast

from hubkit.core.errors import UsageError
from hubkit.core.files import Manifest, digests
from hubkit.core.target import Target
from hubkit.pipeline.runs import Run
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Artifact, Context, Stage, artifact_key

Per = Literal["release", "stage", "variant"]


@dataclass(frozen=True)
class Step:
    """One line of the release.

    ``stage`` is its code; None: what the recipe's training stage ``uses``. ``needs`` are the steps whose artifacts
    it is given ('x' this variant's or stage's own, 'x*' everybody's, 'x<' that of the stage it continues, 'x:set' x, of
    which only the rows of the stage's data set count). ``reads``
    are the parts of the recipe that it may read; with the needs they make the key of what it makes ('@' before a
    part: the files that it names, too). ``alone``: it has a process of its own, so that its memory comes back.
    ``lasting``: what it made on the Hub must still be there for the release to count as done.
    """

    name: str
    stage: str | None
    per: Per
    says: str
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    alone: bool = False
    lasting: bool = False


_PROMPTS = ("gates.stop_rate.prompts", "gates.stop_rate.max_new_tokens", "gates.stop_rate.batch_size")
_HELD_OUT = ("gates.stop_rate.prompts", "gates.stop_rate.prompts_from")
_SCORES = ("evaluate", "@evaluate.include")

# fmt: off
STEPS = (
    Step("provide", "provide", per="release", says="make what the embedded Hub lacks",
         reads=("provide", "base", "data", "seed"), alone=True),
    Step("base", "base", per="release", says="pin the base model to a commit, find its turn end",
         needs=("provide",), reads=("base", "chat", "@chat.template")),
    Step("data", "data", per="release", says="map and check the rows, hold prompts out",
         needs=("provide", "base"), reads=("data", "stages", "variants", *_HELD_OUT, "chat", "@chat.template", "seed")),
    Step("base-stopping", "stopping", per="release", says="measure how often the base ends its turns",
         needs=("base", "data"), reads=(*_PROMPTS, "base.dtype")),
    Step("base-scores", "evaluate", per="release", says="benchmark the base",
         needs=("base",), reads=(*_SCORES, "base.dtype")),
    Step("train", None, per="stage", says="train an adapter",
         needs=("base", "data:set", "train<"), reads=("training", "seed"), alone=True),
    Step("merge", "merge", per="variant", says="merge the adapter into the base",
         needs=("base", "train"), reads=("base", "chat", "@chat.template")),
    Step("stopping", "stopping", per="variant", says="measure the stop rate of each published form",
         needs=("base", "data", "train", "merge"), reads=(*_PROMPTS, "training.quantization")),
    Step("evaluate", "evaluate", per="variant", says="benchmark the merged weights",
         needs=("base", "merge"), reads=_SCORES),
    Step("gate", "gate", per="release", says="hold the measurements against the gates",
         needs=("base-stopping", "stopping*"), reads=("gates", "variants")),
    Step("card", "card", per="variant", says="write the cards from the measurements",
         needs=("base", "data", "train*", "merge", "base-stopping", "stopping*", "base-scores", "evaluate*", "gate"),
         reads=("*", "@card.template")),
    Step("publish", "publish", per="variant", says="upload to a staging branch, verify what the Hub holds",
         needs=("base", "data", "train", "merge", "card"),
         reads=("repo", "visibility", "pull_request", "sign", "@sign.key", "seed", "base", "chat", "@chat.template",
                "data", "stages", "variants", *_SCORES, "gates")),
    Step("loadback", "loadback", per="variant", says="load the staged commit back and gate it again",
         needs=("base", "data", "train", "merge", "stopping", "gate", "publish"), reads=("gates",)),
    Step("snippets", "snippets", per="variant", says="run the cards' Python blocks against the staged commit",
         needs=("base", "publish", "loadback")),
    Step("promote", "promote", per="release", says="move the branches, main last",
         needs=("publish*", "loadback*", "snippets*"), reads=("repo", "variants", "pull_request"), lasting=True),
    Step("space", "space", per="release", says="build the Space, try it here, deploy it, ask it",
         needs=("base", "merge*", "stopping*", "promote"), lasting=True,
         reads=("space", "repo", "visibility", "license", "card.title", "variants", "gates.stop_rate.max_new_tokens")),
)
# fmt: on


@dataclass(frozen=True)
class Job:
    """A step for one variant or stage: what the runner runs. ``id`` is 'merge[main]' or 'data'."""

    step: Step
    id: str
    stage: str
    inputs: tuple[str, ...]
    stage_name: str | None = None
    variant_name: str | None = None


def expand(recipe: Recipe, *, only: str | None = None) -> tuple[Job, ...]:
    """The jobs of ``recipe`` in the order in which they run.

    ``only`` names the one variant to publish; the others are still trained and measured, for the cards compare them.
    The Space shows all the variants, so it is not deployed with one alone, nor while they are only proposed.
    """
    stages = recipe.wanted_stages()
    jobs: list[Job] = []
    for step in STEPS:
        if step.name == "provide" and recipe.provide is None:
            continue
        if step.name == "space" and (recipe.space is None or only is not None or recipe.pull_request):
            continue
        names: Sequence[str | None] = {
            "release": (None,),
            "stage": stages,
            "variant": tuple(recipe.variants),
        }[step.per]
        if only is not None and step.name in {"publish", "loadback", "snippets"}:
            names = (only,)
        for name in names:
            done = {job.id for job in jobs}
            jobs.append(
                Job(
                    step,
                    f"{step.name}[{name}]" if name else step.name,
                    step.stage or recipe.stages[name or ""].uses or name or "",
                    tuple(_inputs(step, name, recipe, done)),
                    stage_name=name if step.per == "stage" else None,
                    variant_name=name if step.per == "variant" else None,
                )
            )
    return tuple(jobs)


def _inputs(step: Step, name: str | None, recipe: Recipe, done: set[str]) -> Iterator[str]:
    for need in step.needs:
        if need.endswith("*"):
            yield from sorted(known for known in done if known.startswith(f"{need[:-1]}["))
        elif need.endswith("<"):
            before = recipe.stages[name or ""].continues
            if before:
                yield f"{need[:-1]}[{before}]"
        elif need == "train" and name:
            yield f"train[{recipe.variants[name].stage}]"
        elif need.partition(":")[0] in done:
            yield need.partition(":")[0]
        elif f"{need}[{name}]" in done:
            yield f"{need}[{name}]"


@cache
def find_stage(name: str) -> Stage:
    """The stage that an installed distribution offers as ``name``. UsageError when none does."""
    found = [point for point in entry_points(group="hubkit.stages") if point.name == name]
    if not found:
        known = ", ".join(sorted(point.name for point in entry_points(group="hubkit.stages")))
        raise UsageError(f"There is no stage {name!r}; installed are: {known}.", hint="Check `uses:` in the recipe.")
    return cast(Stage, found[0].load())


def job_settings(job: Job, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The parts of the recipe that ``job`` may read, as plain values: these enter its key."""
    whole = recipe.model_dump(mode="json", exclude={"hub"})
    name = job.stage_name or (recipe.variants[job.variant_name].stage if job.variant_name else None)
    if name:
        whole["training"] = whole["stages"][name]
    settings: dict[str, Any] = {}
    for part in job.step.reads:
        if part == "*":
            settings |= {key: value for key, value in whole.items() if key != "training"}
        elif part.startswith("@"):
            named = _at(whole, part[1:])
            if named and (folder / named).exists():
                settings.setdefault("files", {})[part[1:]] = _content(folder / named)
        else:
            *above, last = part.split(".")
            place = settings
            for key in above:
                place = place.setdefault(key, {})
            place[last] = _at(whole, part)
    return settings


def _at(whole: Mapping[str, Any], path: str) -> Any:
    found: Any = whole
    for key in path.split("."):
        found = None if found is None else found[key]
    return found


def _content(path: Path) -> str:
    return Manifest.of(path).digest if path.is_dir() else digests(path).sha256


@dataclass
class Desk:
    """All that the runner has before it: the recipe, its jobs, the run and what is finished."""

    recipe: Recipe
    folder: Path
    target: Target
    run: Run
    jobs: tuple[Job, ...]
    finished: dict[str, Artifact] = field(default_factory=dict)

    def context(self, job: Job) -> Context:
        """What ``job``'s stage is given. Its key is empty while an input is not finished."""
        inputs = {name: self.finished[name] for name in job.inputs if name in self.finished}
        settings = job_settings(job, self.recipe, self.folder)
        ready = len(inputs) == len(job.inputs)
        return Context(
            step=job.id,
            recipe=self.recipe,
            recipe_folder=self.folder,
            settings=settings,
            inputs=inputs,
            target=self.target,
            run=self.run,
            key=artifact_key(find_stage(job.stage), settings, self._digests(job, inputs)) if ready else "",
            stage_name=job.stage_name,
            variant_name=job.variant_name,
        )

    def _digests(self, job: Job, inputs: Mapping[str, Artifact]) -> dict[str, str]:
        """What of each input counts for the key of ``job``."""
        found = {name: artifact.manifest.digest for name, artifact in inputs.items()}
        for need in job.step.needs:
            if need.endswith(":set"):
                name = need.removesuffix(":set")
                rows = f"sets/{self.recipe.stages[job.stage_name or ''].data}.jsonl"
                found[name] = inputs[name].manifest.only(rows).digest
        return found

    def kept(self, job: Job) -> tuple[Artifact | None, str]:
        """The artifact that still counts for ``job``, and in words why there is none."""
        ctx = self.context(job)
        found = self.run.find(job.id)
        if not ctx.key:
            return None, "waits for an input" if found is None else "kept if its inputs come out the same"
        if found is None:
            return None, "not made yet"
        if found.key != ctx.key:
            return None, "its settings, inputs, code or libraries have changed"
        return found, "made"

    def holds(self, job: Job, artifact: Artifact) -> str | None:
        """None while the world outside is as ``artifact`` says, else what has changed (stages may define `holds`)."""
        ask = getattr(find_stage(job.stage), "holds", None)
        answer: str | None = ask(self.context(job), artifact) if ask else None
        return answer

    def released(self) -> bool:
        """Whether the whole release stands and the Hub still holds it."""
        for job in self.jobs:
            artifact, _ = self.kept(job)
            if artifact is None:
                return False
            self.finished[job.id] = artifact
        if any(job.step.lasting and self.holds(job, self.finished[job.id]) is not None for job in self.jobs):
            self.finished.clear()
            return False
        return True
