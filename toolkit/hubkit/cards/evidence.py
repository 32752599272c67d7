"""What a card is written from: the result files of the steps, the shipped chat template, one held-out question."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hubkit.cards.measured import wrap
from hubkit.evals.results import RAW_FILE, RESULTS_FILE, Results, parse_results
from hubkit.models.chat import special_tokens

if TYPE_CHECKING:
    from hubkit.recipe.stage import Artifact

_QUESTION_LIMIT = 400
_LINES = 200


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

    def results(self, step: str) -> Results | None:
        """The benchmark results of ``step``; None when it was not measured."""
        found = self.get(step, RESULTS_FILE)
        if found is not None and step not in self._parsed:
            self._parsed[step] = parse_results(found, f"{step}/{RESULTS_FILE}")
        return self._parsed.get(step)


def gather(inputs: Mapping[str, Artifact], variant: str) -> Evidence:
    """The evidence in the artifacts ``inputs`` (by step id) for the card of ``variant``."""
    files = {
        step: {
            name: artifact.json(name)
            for name in artifact.manifest.files
            if "/" not in name and name.endswith(".json") and name != RAW_FILE
        }
        for step, artifact in inputs.items()
    }
    merge = inputs.get(f"merge[{variant}]")
    template = inputs["base"].path / "chat_template.jinja"
    tokens: dict[str, str] = {}
    if merge is not None:
        shipped = merge.path / "model" / "chat_template.jinja"
        template = shipped if shipped.is_file() else template
        if "model/tokenizer_config.json" in merge.manifest.files:
            tokens = special_tokens(merge.json("model/tokenizer_config.json"))
    return Evidence(files, template.read_text(encoding="utf-8"), tokens, _question(inputs.get("data")))


def _question(data: Artifact | None) -> str | None:
    """The shortest user message among the first held-out prompts that are a single question."""
    if data is None or "prompts.jsonl" not in data.manifest.files:
        return None
    found = []
    with (data.path / "prompts.jsonl").open(encoding="utf-8") as lines:
        for _, line in zip(range(_LINES), lines, strict=False):
            messages = json.loads(line)["messages"]
            if [item["role"] for item in messages] == ["user"]:
                found.append(str(messages[0]["content"]))
    short = [text for text in found if len(text) <= _QUESTION_LIMIT]
    return min(short, key=lambda text: (len(text), text)) if short else None
