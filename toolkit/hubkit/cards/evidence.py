"""What a card is written from: the result files of the steps, the shipped chat template, one held-out question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hubkit.cards.measured import wrap
from hubkit.evals.results import RESULTS_FILE, Results, parse_results
from hubkit.evals.scores import Measured
from hubkit.models.base import PinnedBase
from hubkit.models.chat.agreement import special_tokens
from hubkit.models.chat.gate_verdicts import GateVerdicts
from hubkit.models.chat.stop_rates import StopRates
from hubkit.models.gguf.made import GgufFiles
from hubkit.models.merging.merged import MergedWeights
from hubkit.models.readers.made import ReadBy
from hubkit.recipe.artifact import JsonArtifact
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.data.prepared import PreparedData

BASE_STOP_RATE, BASE_BENCHMARKS = "base-stopping", "base-scores"
"""The steps that measure the base."""
_QUESTION_LIMIT = 400
_LINES = 200


def stop_rate_step(variant: str) -> str:
    """The id of the step that measures the stop rates of ``variant``: a card's numbers name the step they come from."""
    return f"stopping[{variant}]"


def benchmarks_step(variant: str) -> str:
    """The id of the step that benchmarks ``variant``."""
    return f"evaluate[{variant}]"


def merge_step(variant: str) -> str:
    """The id of the step that merges ``variant``."""
    return f"merge[{variant}]"


def gguf_step(variant: str) -> str:
    """The id of the step that writes the GGUF files of ``variant``."""
    return f"gguf[{variant}]"


def readers_step(variant: str) -> str:
    """The id of the step that has other programs read ``variant``."""
    return f"readers[{variant}]"


def training_step(stage: str) -> str:
    """The id of the step that runs the training stage ``stage``."""
    return f"train[{stage}]"


def card_step(variant: str) -> str:
    """The id of the step that writes the cards of ``variant``."""
    return f"card[{variant}]"


@dataclass(frozen=True)
class Evidence:
    """Result files by step and name, as plain JSON.

    ``template`` is the Jinja text that the branch ships, ``tokens`` the special tokens that it may name. ``question``
    is a held-out prompt's user message, for the examples; None when none is short enough.
    """

    files: Mapping[str, Mapping[str, Any]]
    template: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    question: str | None = None
    derived: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)
    """Files that are computed for a card from the others, in the same shape; the card's step keeps them."""
    _parsed: dict[str, Results] = field(default_factory=dict, repr=False, compare=False)
    _wrapped: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    def get(self, step: str, name: str) -> Any:
        """The file ``name`` of ``step``; None when the step did not run or made no such file."""
        return {**self.files.get(step, {}), **self.derived.get(step, {})}.get(name)

    def wrapped(self) -> dict[str, dict[str, Any]]:
        """The files, with every number as one that knows its place: made once, for the cards of all variants."""
        if not self._wrapped:
            for step, made in self.files.items():
                self._wrapped[step] = {name: wrap(value, step, name) for name, value in made.items()}
        return self._wrapped

    def stop_rates(self, step: str) -> StopRates | None:
        """The stop rates that ``step`` measured; None when it did not."""
        found = self.get(step, StopRates.FILE)
        return StopRates.parse(found) if found is not None else None

    def gates(self) -> GateVerdicts | None:
        """What the gates decided; None before they have."""
        found = self.get("gate", GateVerdicts.FILE)
        return GateVerdicts.parse(found) if found is not None else None

    def results(self, step: str) -> Results | None:
        """The benchmark results of ``step``; None when it was not measured."""
        found = self.get(step, RESULTS_FILE)
        if found is not None and step not in self._parsed:
            self._parsed[step] = parse_results(found, f"{step}/{RESULTS_FILE}")
        return self._parsed.get(step)


@dataclass(frozen=True)
class Measurements:
    """All that the steps before measured: what the cards of a variant are written from.

    ``merged`` are the variant's own weights; ``adapters`` (or the weights that were trained in their place) are given
    by training stage, ``stop_rates`` and ``benchmarks`` by variant. What the recipe does not ask for is None or empty.
    """

    base: PinnedBase
    data: PreparedData
    adapters: Mapping[str, TrainedAdapter]
    merged: MergedWeights
    base_stop_rate: StopRates | None
    stop_rates: Mapping[str, StopRates]
    base_benchmarks: Results | None
    benchmarks: Mapping[str, Results]
    gates: GateVerdicts | None
    scores: Measured | None = None
    """The variant's benchmarks with the score of every question, which are published beside the card."""
    gguf: GgufFiles | None = field(default=None, metadata={"later": True})
    """The variant's GGUF files."""
    readers: ReadBy | None = field(default=None, metadata={"later": True})
    """Which programs read it."""


def gather(measured: Measurements, variant: str) -> Evidence:
    """The evidence for the card of ``variant``."""
    results = {benchmarks_step(name): found for name, found in measured.benchmarks.items()}
    if measured.base_benchmarks is not None:
        results = {BASE_BENCHMARKS: measured.base_benchmarks, **results}
    artifacts: dict[str, JsonArtifact | None] = {
        "base": measured.base,
        "data": measured.data,
        **{training_step(name): found for name, found in measured.adapters.items()},
        merge_step(variant): measured.merged,
        gguf_step(variant): measured.gguf,
        readers_step(variant): measured.readers,
        BASE_STOP_RATE: measured.base_stop_rate,
        **{stop_rate_step(name): found for name, found in measured.stop_rates.items()},
        "gate": measured.gates,
    }
    files = {step: {found.FILE: found.to_json()} for step, found in artifacts.items() if found is not None}
    files |= {step: {RESULTS_FILE: found.model_dump(mode="json")} for step, found in results.items()}
    template = measured.merged.template or measured.base.template
    tokens = special_tokens(measured.merged.tokenizer_config())
    return Evidence(files, template, tokens, _question(measured.data.held_out(_LINES)))


def _question(prompts: Iterable[Mapping[str, Any]]) -> str | None:
    """The shortest user message among the first held-out prompts that are a single question."""
    found = []
    for prompt in prompts:
        messages = prompt["messages"]
        if [item["role"] for item in messages] == ["user"]:
            found.append(str(messages[0]["content"]))
    short = [text for text in found if len(text) <= _QUESTION_LIMIT]
    return min(short, key=lambda text: (len(text), text)) if short else None
