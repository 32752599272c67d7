"""Have other programs read what a variant publishes, before its card is written: the card's table "Works with".

    readers: [transformers-4, peft-0.6, transformers-js, llama-cpp]

They read the merged weights, the adapter and the GGUF files of this run: the bytes that are then published. Each runs
in an environment that is installed once under hubkit's home. What a program cannot read is a warning and is on the
card; what was not run is not on it.

Writes ``readers.json``.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hubkit.core.findings import Finding
from hubkit.core.home import hubkit_home
from hubkit.core.numbers import count, rough_size
from hubkit.models.base import PinnedBase
from hubkit.models.gguf.made import GgufFiles
from hubkit.models.merging.companions import fetch_base
from hubkit.models.merging.merged import MergedWeights
from hubkit.models.readers.asking import Questions
from hubkit.models.readers.environments import installed
from hubkit.models.readers.made import ReadBy
from hubkit.models.readers.matrix import Model, read_by
from hubkit.models.readers.readers import reader_of
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.data.prepared import PreparedData

VERSION = 2
SHAPED_BY = ("torch", "transformers", "tokenizers", "peft")
_PROMPTS, _TOKENS = 8, 128
"""How many of the held-out prompts are asked, and the longest answer: it is about reading, not about rates."""


@dataclass(frozen=True)
class Settings:
    """The readers, with digests of their pinned packages; how many held-out prompts they answer, and how long."""

    readers: Mapping[str, str]
    prompts: int
    max_new_tokens: int

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        rate = recipe.gates.stop_rate
        return cls(
            {name: _digest(name) for name in recipe.readers},
            min(_PROMPTS, rate.prompts) if rate else 0,
            min(_TOKENS, rate.max_new_tokens) if rate else _TOKENS,
        )


def _digest(name: str) -> str:
    """The pinned packages of the reader called ``name``, and its script."""
    reader = reader_of(name)
    files = [reader.script] if reader.lock is None else [reader.script, *_files(reader.lock)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def _files(lock: Path) -> list[Path]:
    return sorted(lock.iterdir()) if lock.is_dir() else [lock]


@dataclass(frozen=True)
class Inputs:
    """What is published, the base of the adapter, and the held-out prompts."""

    base: PinnedBase
    data: PreparedData
    adapter: TrainedAdapter
    merged: MergedWeights
    gguf: GgufFiles | None = None


Output = ReadBy


def check(ctx: CheckContext[Settings]) -> Iterator[Finding]:
    """Whether Node is there, for transformers.js, and what is downloaded after the training."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if "transformers-js" in ctx.settings.readers and missing:
        yield Finding(
            "error",
            f"readers has transformers-js, but {missing[0]} is not installed.",
            "Install Node 20 or later, with npm, or leave out transformers-js.",
            2,
        )
    home = hubkit_home()
    if new := [name for name in ctx.settings.readers if not installed(reader_of(name), home)]:
        yield Finding(
            "warning",
            f"readers: {', '.join(new)} will be installed after the training, about"
            f" {rough_size(sum(reader_of(name).disk for name in new))} from PyPI or npm into {home / 'readers'}.",
            "`hubkit readers MODEL` with any model installs them before.",
        )


def run(ctx: Context[Settings, Inputs]) -> StageResult[ReadBy]:
    """Write ``readers.json``. A reader that cannot be installed is not run, with a warning."""
    settings, inputs = ctx.settings, ctx.inputs
    prompts = [row["messages"] for row in inputs.data.held_out(settings.prompts)] if settings.prompts else []
    whole = inputs.adapter.form == "weights"
    model = Model(
        inputs.merged.model,
        None if whole else inputs.adapter.weights,
        None if whole else fetch_base(ctx.target, inputs.base.repo, inputs.base.commit),
        tuple(inputs.gguf.path(file.name) for file in inputs.gguf.files) if inputs.gguf else (),
    )
    found = read_by(
        list(settings.readers),
        model,
        Questions.of(prompts, max_new_tokens=settings.max_new_tokens),
        home=hubkit_home(),
        report=lambda text: ctx.report(text, None),
    )
    works = sum(cell.status == "works" for cell in found.cells)
    ran = sum(cell.status != "not run" for cell in found.cells)
    warnings = tuple(
        f"{cell.reader} does not read the {cell.what} of this variant: {cell.why}."
        for cell in found.cells
        if cell.status == "fails"
    )
    warnings += tuple(f"{name} was not run: {error.message}" for name, error in found.errors.items())
    warnings += tuple(f"{name} did not read the {what} of this variant: {why}." for name, what, why in found.broken)
    artifact = ReadBy(found.cells, found.date, found.machine, settings.max_new_tokens)
    nothing = next((cell.why for cell in found.cells if cell.why), "nothing to read")
    return StageResult(artifact, f"{works} of {count(ran)} readings work" if ran else f"not run: {nothing}", warnings)
