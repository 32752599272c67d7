"""How a step names its inputs: one(), own(), every(), continued(), rows_of()."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Per = Literal["release", "stage", "variant"]


@dataclass(frozen=True)
class Source:
    """Which artifacts of the step ``step`` fill a field. Built by :func:`one`, :func:`own` and the others here."""

    step: str
    which: Literal["one", "own", "every", "continued"]
    rows_only: bool = False


def one(step: str) -> Source:
    """The artifact of a step that is made once per release; None when this release has no such step."""
    return Source(step, "one")


def own(step: str) -> Source:
    """The artifact that ``step`` made for the same variant, or for the training stage whose adapter it publishes."""
    return Source(step, "own")


def every(step: str) -> Source:
    """The artifacts of ``step`` for all variants or training stages, by name."""
    return Source(step, "every")


def continued(step: str) -> Source:
    """The artifact that ``step`` made for the training stage that this one continues; None when it continues none."""
    return Source(step, "continued")


def rows_of(step: str) -> Source:
    """The rows of the training stage's own dataset. Nothing else of what ``step`` made can be read, or counts."""
    return Source(step, "one", rows_only=True)


@dataclass(frozen=True)
class Step:
    """One line of the release.

    ``stage`` is the name of its code; None: the one that the recipe's training stage ``uses``. ``inputs`` are, for
    each field of the stage's ``Inputs``, the artifacts that fill it. ``alone``: it gets a process of its own, so that
    its memory is freed. ``lasting``: what it published must still be on the Hub for the release to count as finished.
    ``dear``: it trains. Its artifact is not discarded unasked, and only what can change the weights counts for its key.
    """

    name: str
    stage: str | None
    per: Per
    does: str
    inputs: Mapping[str, Source] = field(default_factory=dict)
    alone: bool = False
    lasting: bool = False
    dear: bool = False
