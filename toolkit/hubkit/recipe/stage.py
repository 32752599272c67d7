"""The contract of a stage: what it is given (:class:`Context`), and what it leaves (:class:`Artifact`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hubkit.core.files import Digests, Manifest, digest_of, read_json
from hubkit.core.findings import Finding
from hubkit.core.libraries import installed
from hubkit.core.target import Target
from hubkit.recipe.models import Recipe, Training, Variant


class RunFolder(Protocol):
    """What a stage's context needs of the run (:class:`hubkit.pipeline.runs.Run`)."""

    @property
    def path(self) -> Path:
        """Its folder."""
        ...

    @property
    def work(self) -> Path:
        """What unfinished steps have so far."""
        ...

    def log(self, event: str, **facts: Any) -> None:
        """Append one line to the journal."""
        ...

    def journal(self) -> list[dict[str, Any]]:
        """The journal's lines."""
        ...

    def find(self, step: str) -> Artifact | None:
        """The finished artifact of ``step``, whatever its key."""
        ...

    def keep(self, ctx: Context, summary: Mapping[str, Any], known: Mapping[str, Digests] | None = None) -> Artifact:
        """Move the files of ``ctx.out`` to their place and write the manifest last."""
        ...


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
    run: RunFolder
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


def artifact_key(stage: Stage, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """sha256 over all that shapes an artifact: settings, the inputs' digests, stage and library versions."""
    libraries = {name: installed(name) for name in stage.SHAPED_BY}
    return digest_of({"settings": settings, "inputs": dict(inputs), "version": stage.VERSION, "libraries": libraries})
