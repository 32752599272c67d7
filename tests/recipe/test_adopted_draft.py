"""The recipe that `hubkit release --adapter` writes: it parses, states what the person said, and trains nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hubkit.recipe.adopted_draft import AdoptedDraft, adopted_draft
from hubkit.recipe.draft import BaseFacts, DataFacts
from hubkit.recipe.loading import parse_recipe

BASE = BaseFacts(
    repo="them/Chat-1B",
    architecture="LlamaForCausalLM",
    parameters=1_000_000_000,
    dtype="bfloat16",
    context=8192,
    license="apache-2.0",
    license_name=None,
    license_link=None,
    language=("en",),
    has_template=True,
)
ROWS = DataFacts(
    repo="./my prompts.jsonl",
    local=True,
    split="train",
    columns=("messages",),
    mapping="messages",
    kind="sft",
    rows=70,
    all_rows=True,
    row_tokens=50,
    answer_tokens=20,
)
DRAFT = AdoptedDraft("me/mine", "embedded", BASE, "adapter", "./out")


def test_the_least_that_is_known() -> None:
    recipe = parse_recipe(adopted_draft(DRAFT))
    stage = recipe.stages["adopted"]
    assert (stage.uses, stage.adapter, stage.weights, stage.base, stage.quantization) == (
        "adopt", "./out", None, None, "none",
    )  # fmt: skip
    assert recipe.data == {} and recipe.wanted_stages() == ("adopted",) and list(recipe.variants) == ["main"]
    rate = recipe.gates.on_stop_rate()
    assert (rate.prompts, rate.prompts_from, rate.max_new_tokens) == (128, None, 512)
    assert recipe.chat.template == "base" and recipe.space is not None and recipe.space.repo == "me/mine-space"


def test_what_the_person_says_and_what_lies_beside_it() -> None:
    text = adopted_draft(
        replace(
            DRAFT,
            stated_base="unsloth/chat-1b-bnb-4bit",
            quantized=True,
            trained_with='Unsloth "2025.9": fast',
            reports=("./out/trainer_state.json", "./my config.yaml"),
            template="./out/chat_template.jinja",
            prompts=ROWS,
        )
    )
    recipe = parse_recipe(text)
    stage = recipe.stages["adopted"]
    assert (stage.base, stage.quantization) == ("unsloth/chat-1b-bnb-4bit", "nf4")
    assert stage.trained_with == 'Unsloth "2025.9": fast'
    assert stage.reports == ("./out/trainer_state.json", "./my config.yaml")
    assert recipe.chat.template == "./out/chat_template.jinja"
    assert recipe.data["prompts"][0].file == "./my prompts.jsonl"
    rate = recipe.gates.on_stop_rate()
    assert (rate.prompts_from, rate.prompts) == ("prompts", 64)
    assert "that it is them/Chat-1B is what --base says" in text


@pytest.mark.parametrize(("context", "tokens"), [(256, 128), (None, 512), (1_000_000, 512)])
def test_answers_have_room_in_the_context(context: int | None, tokens: int) -> None:
    recipe = parse_recipe(adopted_draft(replace(DRAFT, base=replace(BASE, context=context))))
    assert recipe.gates.on_stop_rate().max_new_tokens == tokens


def test_weights_of_a_base_without_a_template() -> None:
    draft = replace(DRAFT, form="weights", source="./merged", base=replace(BASE, has_template=False))
    recipe = parse_recipe(adopted_draft(draft))
    assert recipe.chat.template == "chatml" and recipe.stages["adopted"].weights == "./merged"
    assert recipe.published_form("main") == "weights"


def test_there_are_128_prompts_each_once() -> None:
    from hubkit.training.data.own_prompts import conversations

    prompts = [messages[0]["content"] for messages in conversations(1000)]
    assert len(prompts) == len(set(prompts)) == 128 and conversations(4) == conversations(1000)[:4]
