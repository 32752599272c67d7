"""Repos that a built-in recipe creates on the embedded Hub, so that a release can start from nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hubkit.core.target import Target
from hubkit.recipe.artifact import JsonArtifact
from hubkit.recipe.stage import Report, silent


@dataclass(frozen=True)
class Needed:
    """What a recipe loads: its base model, its datasets, and the seed with which stand-ins are made."""

    base: str
    datasets: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class ProvidedRepo:
    """A repo that the recipe loads, at its commit. ``made``: it was created now."""

    repo: str
    type: Literal["model", "dataset"]
    commit: str
    made: bool


@dataclass(frozen=True)
class ProvidedRepos(JsonArtifact):
    """Everything that the recipe loads from the embedded Hub."""

    FILE = "provided.json"
    repos: tuple[ProvidedRepo, ...]


@dataclass(frozen=True)
class ProvideContext:
    """What a recipe's ``provide(ctx)`` is given: what is needed, the embedded Hub, a folder to work in."""

    needed: Needed
    target: Target
    scratch: Path
    report: Report = silent
