"""The card's table of the programs that read the model: what was run is on it, what was not is not."""

from __future__ import annotations

from typing import Any

import card_samples as samples

from hubkit.cards.evidence import Evidence
from hubkit.cards.placeholder import placeholder
from hubkit.cards.render import MODEL_CARD
from hubkit.cards.template_context import cards_of
from hubkit.cards.validate import validate
from hubkit.recipe.loading import parse_recipe

RECIPE = parse_recipe(samples.RECIPE + "readers: [transformers-4, peft-0.6, transformers-js]\n")
PLAIN: dict[str, Any] = {
    "why": None, "conversations": 30, "answers": 8, "stopped": 7, "same": 8, "notes": [], "status": "works",
}  # fmt: skip


def cell(reader: str, form: str, versions: dict[str, str], **keys: Any) -> dict[str, Any]:
    return {"reader": reader, "form": form, "versions": versions, **PLAIN, **keys}


CELLS = [
    cell("transformers", "merged", {"transformers": "5.23.0", "tokenizers": "0.23.3", "torch": "2.13.0"}, same=None),
    cell("transformers-4", "merged", {"transformers": "4.57.6"}),
    cell(
        "peft-0.6", "adapter", {"transformers": "4.57.6", "peft": "0.6.2"}, status="fails",
        why="the adapter cannot be loaded: TypeError: unexpected | 'x'", answers=None, stopped=None, same=None,
    ),
    cell(
        "transformers-js", "tokenizer", {"transformers.js": "4.3.2", "node": "20.20.2"}, answers=None, stopped=None,
        same=None,
    ),
    cell("llama-cpp", "gguf", {"llama-cpp-python": "0.3.36"}, file="me-F16.gguf"),
    cell("llama-cpp", "gguf", {"llama-cpp-python": "0.3.36"}, file="me-Q8_0.gguf", same=None),
    cell("vllm", "merged", {}, status="not run", why="it needs a GPU"),
]  # fmt: skip


def evidence(cells: list[dict[str, Any]]) -> Evidence:
    made = samples.evidence()
    found = {"cells": cells, "date": "2026-11-29", "machine": "x86_64, Linux", "max_new_tokens": 64}
    return Evidence({**made.files, "readers[main]": {"readers.json": found}}, made.template, made.tokens, made.question)


def card(cells: list[dict[str, Any]]) -> Any:
    return cards_of(RECIPE, "main", evidence(cells))[1][MODEL_CARD]


def test_the_table_has_what_was_run() -> None:
    made = card(CELLS)
    rows = [line for line in made.text.partition("## Works with")[2].partition("\n## ")[0].splitlines() if "|" in line]
    assert rows[2:] == [
        "| transformers 5.23.0 | merged weights | works | 30 | 7 of 8 |  |",
        "| transformers 4.57.6 | merged weights | works | 30 | 7 of 8 | 8 of 8 |",
        "| transformers 4.57.6, PEFT 0.6.2 | adapter on its base | fails: the adapter cannot be loaded: TypeError:"
        " unexpected &vert; 'x' |  |  |  |",
        "| transformers.js 4.3.2 | tokenizer and chat template | works | 30 |  |  |",
        "| llama-cpp-python 0.3.36 | GGUF file me-F16.gguf | works | 30 | 7 of 8 | 8 of 8 |",
        "| llama-cpp-python 0.3.36 | GGUF file me-Q8_0.gguf | works | 30 | 7 of 8 |  |",
    ]
    assert "vLLM" not in "".join(rows) and "Run on 2026-11-29 (x86" in made.text
    assert "are compared with those of transformers 5.23.0, up to rounding" in made.text
    assert validate(made.text) == []
    numbers = [item for item in made.numbers if item.step == "readers[main]"]
    assert len(numbers) == 3 + 5 + 1 + 5 + 3 + 1  # the five rows that work, and the token limit


def test_without_anything_that_was_run_there_is_no_table() -> None:
    assert "## Works with" not in card([CELLS[-1]]).text
    plain = cards_of(parse_recipe(samples.RECIPE), "main", samples.evidence())[1][MODEL_CARD]
    assert "## Works with" not in plain.text


def test_preflight_renders_it() -> None:
    made = cards_of(RECIPE, "main", placeholder(RECIPE))[1][MODEL_CARD]
    assert "## Works with" in made.text and validate(made.text) == []
