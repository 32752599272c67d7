"""Measured stop rates: how often each form of a model ends its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

from hubkit.core.intervals import wilson
from hubkit.models.chat.form_agreement import FormAgreement
from hubkit.models.chat.stop_rate import StopRate
from hubkit.recipe.artifact import JsonArtifact

Form = Literal["base", "merged", "adapter", "four-bit"]
PUBLISHED: tuple[Form, ...] = ("merged", "adapter")
"""The forms that are published, so they are the ones that must pass the gate. A variant without an adapter has one."""

SHOWN, SHORT_PROMPT = 4, 200
"""How many answers are kept to be shown, and the most characters of their prompts."""


@dataclass(frozen=True)
class Example:
    """One greedy answer to a held-out prompt."""

    prompt: str
    answer: str
    stopped: bool


@dataclass(frozen=True)
class Answer:
    """A measured answer that is shown to readers, verbatim and without special tokens.

    ``ended``: by the end-of-turn token, or cut at the token limit. ``tokens`` are the new ones, the end-of-turn token
    among them.
    """

    prompt: str
    answer: str
    ended: Literal["eos", "limit"]
    tokens: int


@dataclass(frozen=True)
class MeasuredRate:
    """``stopped`` of ``prompts`` answers ended with the end-of-turn token: ``rate``, with its 95 % interval.

    ``answers`` are those to the first short single questions among the prompts: the same ones, in the same order, for
    the base and every form. Results of earlier versions have none.
    """

    stopped: int
    prompts: int
    rate: float
    low: float
    high: float
    mean_tokens: float
    dtype: str
    examples: tuple[Example, ...] = ()
    generated_by: str = "transformers"
    answers: tuple[Answer, ...] = ()

    @classmethod
    def of(cls, measured: StopRate) -> MeasuredRate:
        """What is kept of ``measured``: the counts, and three answers (those that did not stop first)."""
        low, high = wilson(measured.stopped, measured.prompts)
        chosen = sorted(measured.answers, key=lambda item: item.stopped)[:3]
        return cls(
            stopped=measured.stopped,
            prompts=measured.prompts,
            rate=measured.rate,
            low=low,
            high=high,
            mean_tokens=measured.mean_tokens,
            dtype=measured.dtype,
            examples=tuple(Example(item.prompt, item.answer, item.stopped) for item in chosen),
            generated_by=measured.generated_by,
            answers=_shown_answers(measured),
        )


def _shown_answers(measured: StopRate) -> tuple[Answer, ...]:
    """The answers to the first :data:`SHOWN` prompts that are one short question each. Which these are does not depend
    on the answers."""
    shown = (
        item for item in measured.answers if item.single and item.prompt.strip() and len(item.prompt) <= SHORT_PROMPT
    )
    return tuple(
        Answer(item.prompt, item.plain, "eos" if item.stopped else "limit", len(item.ids))
        for item in islice(shown, SHOWN)
    )


@dataclass(frozen=True)
class Token:
    """The end-of-turn token and its id."""

    token: str
    id: int


@dataclass(frozen=True)
class StopRates(JsonArtifact):
    """The stop rate of each measured form, and why a form was skipped.

    ``agreement``: how far the published forms agree (None for a base or a single form, and in older releases).
    """

    FILE = "stopping.json"
    max_new_tokens: int
    prompts: int
    end_of_turn: Token
    forms: Mapping[Form, MeasuredRate]
    skipped: Mapping[Form, str] = field(default_factory=dict)
    agreement: FormAgreement | None = None

    @classmethod
    def parse(cls, value: Any, folder: Path = Path()) -> Self:
        """The stop rates in the plain ``value``; hubkit 0.1 called the end-of-turn token ``turn_end``."""
        if "turn_end" in value:
            value = {"end_of_turn": value["turn_end"], **value}
        return super().parse(value, folder)

    @property
    def base(self) -> MeasuredRate:
        """The rate of the base model alone."""
        return self.forms["base"]

    @property
    def published(self) -> dict[Form, MeasuredRate]:
        """The rates of the forms that are published: both, or the weights alone of a variant without an adapter."""
        return {form: self.forms[form] for form in PUBLISHED if form in self.forms}
