"""What lint finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Fault:
    """A fault of a card. ``line`` counts from 1 in the file ``path``; ``what`` and ``todo`` are sentences."""

    rule: str
    path: str
    line: int
    what: str
    todo: str

    def to_json(self) -> dict[str, Any]:
        """``{"rule", "path", "line", "what", "todo"}``."""
        return asdict(self)


RULES: Mapping[str, str] = {
    "no-card": "there is a card",
    "front-matter": "the Hub accepts the front matter",
    "licence-missing": "the front matter names a licence",
    "licence-mismatch": "the licence is that of the base",
    "base-model": "base_model is a repo id, and the repo is there",
    "base-relation": "base_model_relation is what the files are",
    "adapter-at-root": "no adapter lies beside merged weights",
    "average": "a stated average is that of its table",
    "table-heading": "a table stands under the heading of its suite",
    "placeholder": "no number is still to come",
    "scores-not-shown": "scores that are compared in words are shown",
    "local-path": "no place of the author's machine is named",
    "dead-link": "what a relative link or picture names is there",
    "snippet-syntax": "a Python block is Python",
    "undefined-name": "every name of a Python block is defined",
    "generation-prompt": "a prompt for an answer opens the assistant's turn",
    "template-result": "what apply_chat_template returns is used as what it is",
    "template-missing": "a model whose card speaks of a prompt format ships a chat template",
    "template-differs": "the prompt on the card is what the shipped template renders",
}
"""What holds of a sound card, by rule."""
