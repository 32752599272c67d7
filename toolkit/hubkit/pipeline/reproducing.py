"""Runs the recipe of a release again, to the merge, and compares what comes out: `hubkit reproduce`.

Nothing is published. The run has a folder of its own, so no run of the user's is touched; the same command resumes it.
The recipe is a stranger's: what trains has no token, and reads the base from the cache alone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hubkit import __version__
from hubkit.core.files import Digests, write_atomic
from hubkit.core.libraries import installed
from hubkit.core.output import Output
from hubkit.core.target import DEFAULT_ENDPOINT, Target
from hubkit.hub.client import Hub
from hubkit.models.merging.companions import PATTERNS
from hubkit.models.merging.machine import arithmetic
from hubkit.models.merging.merged import MergedWeights
from hubkit.pipeline.discards import refuse
from hubkit.pipeline.jobs import expand
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runner import Retraining, run_jobs
from hubkit.pipeline.runs import open_run, release_lock
from hubkit.publishing.bill.facts import mapping, sequence
from hubkit.publishing.bundle import of_models
from hubkit.publishing.manifest import CARDS
from hubkit.publishing.published_commits import refuse_unpublished
from hubkit.recipe.models import Recipe
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.data.prepared import PreparedData

_STEPS = ("base", "data", "train", "merge")
_BASE_FILES = (*PATTERNS, "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""What of the base a training reads."""
_FACTS = ("rows", "epochs", "steps", "tokens", "device", "processes", "quantization")
"""What of a training is compared; not how long it took."""


@dataclass(frozen=True)
class Cause:
    """One thing that was not as in the release: a version, the data, the seed or the device."""

    kind: str
    name: str
    then: Any
    now: Any


@dataclass(frozen=True)
class Reproduced:
    """What came out in the folder ``run``: which files are ``equal`` to the release's, which differ, which are missing.

    ``missing`` are files of the model that nothing made again. ``causes`` is what was not as in the release, and may be
    why; ``not_compared`` are files that measuring and writing the cards makes, and files in other folders.
    """

    run: Path
    equal: tuple[str, ...]
    different: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    not_compared: tuple[str, ...]
    causes: tuple[Cause, ...]

    @property
    def is_equal(self) -> bool:
        """Whether every file that was made again is the same."""
        return bool(self.equal) and not (self.different or self.missing or self.extra)

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return {**asdict(self), "run": str(self.run), "is_equal": self.is_equal}


def refuse_unpublished_sources(recipe: Recipe, hub: Hub) -> None:
    """ConflictError when ``recipe`` names a commit of the base or of data that is on no branch or tag of its repo."""
    refuse_unpublished(hub, recipe.base.repo, recipe.base.revision)
    for repo, revision in dict.fromkeys(
        (source.repo, source.revision) for sources in recipe.data.values() for source in sources
    ):
        if repo is not None:
            refuse_unpublished(hub, repo, revision, "dataset")


def reproduce(
    recipe: Recipe,
    content: Mapping[str, Any],
    released: Mapping[str, Digests],
    *,
    hub: Hub,
    folder: Path,
    home: Path,
    output: Output,
    foreign: Collection[str] = (),
) -> Reproduced:
    """Train and merge ``recipe`` (of one variant), with files in ``folder``, and compare it with the release.

    ``content`` is the release's manifest, which lists the files ``released``; ``foreign`` are files that it does not
    list. The base and the data are read from ``hub``. The run is in ``home``.
    """
    target = hub.target
    (variant,) = recipe.variants
    with release_lock(home, recipe.repo, target):
        run = open_run(home, recipe.repo, target)
        with run.lock():
            jobs = tuple(job for job in expand(recipe) if job.step.name in _STEPS)
            state = ReleaseState(recipe, folder, target, run, jobs, sealed=True)
            run.settle()
            state.record_trainings()
            write_atomic(run.path / "recipe.json", recipe.model_dump_json(indent=2) + "\n")
            output.heading(f"Reproducing {variant} of {recipe.repo} (run {run.path})")
            hub.download(recipe.base.repo, recipe.base.revision, cache=_cache(target), patterns=_BASE_FILES)
            run_jobs(state, output, None, None, Retraining(True, refuse))
    made = {name: artifact.path for name, artifact in state.finished.items()}
    stage = recipe.variants[variant].stage
    merged = MergedWeights.load(made[f"merge[{variant}]"])
    _, files, _ = of_models(merged, TrainedAdapter.load(made[f"train[{stage}]"]))
    trained = {name: TrainedAdapter.load(made[f"train[{name}]"]) for name in recipe.chain(stage)}
    causes = _causes(content, recipe, PreparedData.load(made["data"]), trained)
    return _compared(run.path, files, released, foreign, tuple(causes))


def _cache(target: Target) -> Path:
    """Where a training looks for the base: see :mod:`hubkit.pipeline.worker`."""
    own = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(own) if own and target.endpoint == DEFAULT_ENDPOINT else target.home / "hub"


def _compared(
    run: Path,
    files: Mapping[str, Digests],
    released: Mapping[str, Digests],
    foreign: Collection[str],
    causes: tuple[Cause, ...],
) -> Reproduced:
    there = {*released, *foreign}
    models = {path for path in there if path in files or _of_the_model(path, listed=path in released)}
    return Reproduced(
        run=run,
        equal=tuple(sorted(path for path in models if path in files and files[path] == released.get(path))),
        different=tuple(sorted(path for path in models if path in files and files[path] != released.get(path))),
        missing=tuple(sorted(models - files.keys())),
        extra=tuple(sorted(files.keys() - models)),
        not_compared=tuple(sorted(there - models)),
        causes=causes,
    )


def _of_the_model(path: str, *, listed: bool) -> bool:
    """Whether a loader may read ``path``: any file at the root or in ``adapter/`` but the cards.

    GGUF files are often added to a release later; the manifest does not list them, and `verify --rederive` makes them.
    """
    if path in CARDS.values() or path == ".gitattributes" or (not listed and path.endswith(".gguf")):
        return False
    return "/" not in path or path.startswith(("adapter/", "additional_chat_templates/"))


def _causes(
    content: Mapping[str, Any], recipe: Recipe, data: PreparedData, trained: Mapping[str, TrainedAdapter]
) -> Iterator[Cause]:
    """What was not as in the release. What its manifest does not say is no cause."""
    versions = {"hubkit": __version__}
    for name, then in mapping(content.get("made_by")).items():
        now = versions.get(name) or installed(name)
        if then != now:
            yield Cause("version", name, then, now)
    for name, then in mapping(content.get("merge")).items():
        now = arithmetic().get(name)
        if then != now:
            yield Cause("version" if name == "torch" else "device", f"merge: {name}", then, now)
    seed = mapping(content.get("recipe")).get("seed", recipe.seed)
    if seed != recipe.seed:
        yield Cause("seed", "seed", seed, recipe.seed)
    yield from _data(content, data)
    for item in map(mapping, sequence(content.get("trainings"))):
        made = trained.get(str(item.get("stage")))
        for name in _FACTS:
            then, now = item.get(name), getattr(made, name, None)
            if then is not None and then != now:
                kind = "device" if name in ("device", "processes") else "data"
                yield Cause(kind, f"{item['stage']}: {name}", then, now)


def _data(content: Mapping[str, Any], data: PreparedData) -> Iterator[Cause]:
    then: dict[Any, list[Mapping[str, Any]]] = {}
    for item in map(mapping, sequence(content.get("data"))):
        then.setdefault(item.get("set"), []).append(item)
    for name, report in data.sets.items():
        for place, source in enumerate(report.sources):
            before = then[name][place] if len(then.get(name, ())) > place else {}
            for key, now in (("commit", source.commit), ("rows", source.used)):
                if before.get(key) is not None and before[key] != now:
                    yield Cause("data", f"{name}: {source.repo}: {key}", before[key], now)
