"""Cards of every kind of recipe: one to five variants, by adapter or by weights, with and without measurements."""

from __future__ import annotations

import re
from itertools import product

import pytest

from hubkit.cards.lint import lint_text
from hubkit.cards.placeholder import placeholder
from hubkit.cards.template_context import cards_of
from hubkit.cards.trace import untraced
from hubkit.cards.validate import validate
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe

STAGES = """
repo: me/my-model
visibility: public
license: apache-2.0
base: {repo: them/base}
data: {pairs: [{repo: them/pairs}], chats: [{repo: them/chats}]}
card: {title: My Model}
stages:
  dpo: {data: pairs}
  sft: {data: chats}
  repaired: {uses: sft, data: chats, continues: dpo}
  full-dpo: {uses: dpo, data: pairs, lora: none}
  full: {uses: sft, data: chats, lora: none}
  full-repaired: {uses: sft, data: chats, lora: none, continues: full-dpo}
  adapted: {uses: sft, data: chats, continues: full-dpo, quantization: none, lora: {r: 4}}
  merged-first: {uses: sft, data: chats, continues: dpo, lora: none}
"""
VARIANTS = {
    "DPO alone": {"main": "dpo"},
    "SFT alone": {"main": "sft"},
    "the story": {"dpo-v0": "dpo", "main": "repaired"},
    "all weights": {"main": "full"},
    "all weights, the story": {"v0": "full-dpo", "main": "full-repaired"},
    "an adapter on trained weights": {"main": "adapted"},
    "an adapter merged, then all weights": {"main": "merged-first"},
    "both forms, no shared chain": {"main": "dpo", "full": "full"},
    "five": {"main": "repaired", "a": "dpo", "b": "sft", "c": "full", "d": "adapted"},
}
GATE = "gates: {stop_rate: {prompts_from: chats}}\n"
SUITES = "evaluate: {suites: [gpt4all, truthfulqa]}\n"
ADAPTER_WORDS = re.compile(r"adapter|peft|LoRA|merged|merge\b", re.IGNORECASE)


def recipe_of(variants: dict[str, str], *parts: str) -> Recipe:
    listed = ", ".join(f"{name}: {{stage: {stage}, gate: report}}" for name, stage in variants.items())
    return parse_recipe(f"{STAGES}variants: {{{listed}}}\n{''.join(parts)}")


def empty_parts(text: str) -> list[str]:
    """Headings, tables, details and lists on a card that have no content."""
    body = re.sub(r"```.*?```", "code", text.partition("\n---\n")[2], flags=re.DOTALL)
    body = re.sub(r"<!-- hubkit:(begin|end) [a-z]+ -->\n?", "", body)
    found = re.findall(r"^(#+ .*)\n+(?=#|\Z)", body, re.MULTILINE)
    found += re.findall(r"<summary>(.*)</summary>\n+</details>", body)
    found += re.findall(r"^(\|[-:| ]+\|)\n(?!\|)", body, re.MULTILINE)
    found += re.findall(r"^(.*:)\n+(?=#|\Z)", body, re.MULTILINE)
    return found + re.findall(r"hubkit:begin (\w+) -->\s*<!-- hubkit:end", text)


def ragged_tables(text: str) -> list[str]:
    """Rows of tables with another number of cells than their head."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = table.strip().split("\n")
        found += [row for row in rows if row.replace("\\|", "").count("|") != rows[0].count("|")]
    return found


@pytest.mark.parametrize("measured", list(product([False, True], repeat=2)), ids=lambda item: f"{item}")
@pytest.mark.parametrize("kind", VARIANTS)
def test_each_card_is_complete_and_has_no_empty_section(kind: str, measured: tuple[bool, bool]) -> None:
    stops, scores = measured
    recipe = recipe_of(VARIANTS[kind], GATE if stops else "", SUITES if scores else "")
    for variant, stage in VARIANTS[kind].items():
        evidence = placeholder(recipe)
        cards = cards_of(recipe, variant, evidence)[1]
        assert set(cards) == {"README.md", *(["adapter-README.md"] if recipe.form(stage) == "adapter" else [])}
        for card in cards.values():
            assert validate(card.text) == [] and empty_parts(card.text) == [] and ragged_tables(card.text) == []
            assert [item for item in lint_text(card.text) if item.level == "error"] == []
            assert list(untraced(card.text, [number.to_json() for number in card.numbers], evidence.get)) == []
            assert "None" not in card.text and "not measured" not in _measured_part(card.text)
        text = cards["README.md"].text
        for heading in ("## Quickstart", "## Prompt format", "## Training", "## Limitations", "<summary>Provenance"):
            assert heading in text, heading
        assert ("## Benchmarks" in text) == scores
        assert ("The stop rate was not measured" in text) == (not stops)
        assert ("This variant was not benchmarked" in text) == (not scores)
        several = len(VARIANTS[kind]) > 1
        assert ("## Which branch to use" in text) == several
        assert ("## Compared with its base" in text) == ((stops or scores) and not several)
        assert ("## Sample answers" in text) == ("<summary>Stop rate of" in text) == stops


def _measured_part(text: str) -> str:
    """What a card says outside of its limitations, and of the Known-issue section of placeholder numbers."""
    for name in ("limitations", "erratum"):
        text = re.sub(f"<!-- hubkit:begin {name} -->.*?<!-- hubkit:end {name} -->", "", text, flags=re.DOTALL)
    return text.replace("Its stop rate was not measured.", "")


@pytest.mark.parametrize("parts", [(), (GATE,), (GATE, SUITES)], ids=["bare", "gate", "all"])
@pytest.mark.parametrize("kind", ["all weights", "all weights, the story"])
def test_no_word_about_an_adapter_where_there_is_none(kind: str, parts: tuple[str, ...]) -> None:
    recipe = recipe_of(VARIANTS[kind], *parts)
    for variant in VARIANTS[kind]:
        text = cards_of(recipe, variant, placeholder(recipe))[1]["README.md"].text
        assert ADAPTER_WORDS.findall(text) == []
        assert "All the weights of [`them/base`](/them/base) were trained" in text


def test_empty_parts_are_found() -> None:
    card = "---\na: b\n---\n# T\n\n## One\n\n## Two\n\n| a |\n|---|\n\n<details>\n<summary>S</summary>\n\n</details>\n"
    assert empty_parts(card + "\nListed:\n\n## Last\n") == ["# T", "## One", "## Last", "S", "|---|", "Listed:"]
    assert ragged_tables("| a | b |\n|---|---|\n| 1 |\n") == ["| 1 |"]
