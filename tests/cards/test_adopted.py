"""Cards of what was trained elsewhere: complete, without empty sections, and what is reported is marked as that."""

from __future__ import annotations

import pytest

from hubkit.cards.placeholder import placeholder
from hubkit.cards.template_context import cards_of
from hubkit.cards.trace import untraced
from hubkit.cards.validate import validate
from hubkit.recipe.loading import parse_recipe

RECIPE = """
repo: me/mine
visibility: public
license: apache-2.0
base: {{repo: them/base}}
data: {{chats: [{{repo: them/chats}}]}}
stages:
  theirs: {{uses: adopt, {form}: ./out, trained_with: axolotl 0.9, training: state.json}}
  repair: {{uses: sft, data: chats, continues: theirs}}
variants: {{main: {{stage: {stage}, gate: report}}}}
evaluate: {{suites: []}}
gates: {{stop_rate: {{prompts: 4, max_new_tokens: 8}}}}
card: {{title: Mine}}
"""


@pytest.mark.parametrize("form", ["adapter", "weights"])
@pytest.mark.parametrize("stage", ["theirs", "repair"])
def test_a_card_says_what_is_reported_and_what_is_not_known(form: str, stage: str) -> None:
    recipe = parse_recipe(RECIPE.format(form=form, stage=stage))
    evidence = placeholder(recipe)
    cards = cards_of(recipe, "main", evidence)[1]
    assert set(cards) == {"README.md", *(["adapter-README.md"] if form == "adapter" else [])}
    assert [problem for card in cards.values() for problem in validate(card.text)] == []
    text, numbers = cards["README.md"].text, [item.to_json() for item in cards["README.md"].numbers]
    assert list(untraced(text, numbers, evidence.get)) == []
    reported = [item for item in numbers if item["pointer"] == "/reported/files/0/values/steps"]
    assert [(item["step"], item["file"]) for item in reported] == [("train[theirs]", "training.json")]
    what = "A LoRA adapter for" if form == "adapter" else "A fine-tune of"
    more = ", then trained further by SFT on [`them/chats`](/datasets/them/chats)" if stage == "repair" else ""
    assert f"\n{what} [`them/base`](/them/base), trained with axolotl 0.9{more} · " in text
    assert "Trained with axolotl 0.9, as reported by the authors." in text
    assert "As reported by `state.json`, and not measured by this release: steps 1." in text
    assert "is not known to this release: rows and licenses were not checked." in text
    assert "greedy answers to hubkit's own prompts" in text
    assert ("| Stage | Dataset |" in text) == (stage == "repair") == ("| License |" in text)
