"""`train_on: all`: the loss falls on every answer with its end-of-turn token, and on nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from architectures import ARCHITECTURES, make_tokenizer

from hubkit.core.errors import RefusedError, UsageError
from hubkit.models.chat import eos
from hubkit.recipe.loading import parse_recipe
from hubkit.training.data import tokens, turns

TALK = {
    "prompt": [
        {"role": "user", "content": "Hi there."},
        {"role": "assistant", "content": "Hello you."},
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "A cat it is.", "weight": 0},
        {"role": "user", "content": "And that?"},
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": "Bye."},
    ],
    "completion": [{"role": "assistant", "content": "Farewell."}],
}
ANSWERS = ("Hello you.", "A dog.", "Farewell.")


def trained_texts(tokenizer: Any, row: Any, *, every: bool) -> list[str]:
    end = eos.find(tokenizer)
    (shown,) = turns.spans([row], tokenizer, all_answers=end if every else None)
    return [text for text, trained in shown["rows"] if trained]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_answer_is_trained_with_its_end_and_nothing_that_others_say(name: str) -> None:
    tokenizer = make_tokenizer(ARCHITECTURES[name])
    end = eos.find(tokenizer)
    texts = trained_texts(tokenizer, TALK, every=True)
    assert len(texts) == len(ANSWERS), texts
    for text, answer in zip(texts, ANSWERS, strict=True):
        assert answer in text and text.count(end.token) == 1
        assert len(text.replace(answer, "").replace(end.token, "").strip()) <= len("<think>\n\n</think>")
    (last,) = trained_texts(tokenizer, TALK, every=False)
    assert last == texts[-1]
    alone = {**TALK, "prompt": TALK["prompt"][:1]}
    assert trained_texts(tokenizer, alone, every=True) == trained_texts(tokenizer, alone, every=False)


def test_labels_are_those_of_the_trained_tokens() -> None:
    tokenizer = make_tokenizer(ARCHITECTURES["qwen3"])
    end = eos.find(tokenizer)
    chunk = tokens.Encoder(tokenizer, end, {}, all_answers=True)([json.dumps(TALK)])
    ids, labels = (chunk.columns[name][0].tolist() for name in ("input_ids", "labels"))
    assert all(label in (token, tokens.IGNORED) for token, label in zip(ids, labels, strict=True))
    assert labels.count(end.id) == len(ANSWERS)
    text = tokenizer.decode([label for label in labels if label != tokens.IGNORED])
    assert "Hi there." not in text and "A cat" not in text and all(answer in text for answer in ANSWERS)


def test_what_tools_say_is_not_trained_and_calls_are() -> None:
    tokenizer = make_tokenizer(ARCHITECTURES["smollm"])
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    call = {"type": "function", "function": {"name": "lamp", "arguments": {"on": True}}}
    row = {
        "prompt": [
            {"role": "user", "content": "Light!"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "It is on."},
        ],
        "completion": [{"role": "assistant", "content": "Done."}],
    }
    called, done = trained_texts(tokenizer, row, every=True)
    assert "lamp" in called and "It is on." not in called + done and done.startswith("Done.")


def test_an_answer_that_has_no_end_is_refused_with_the_way_out() -> None:
    tokenizer = make_tokenizer(ARCHITECTURES["smollm"])
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "{% if loop.last %}<|im_end|>{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(RefusedError, match="does not end an earlier answer") as error:
        trained_texts(tokenizer, TALK, every=True)
    assert "train_on: last" in str(error.value.hint)


RECIPE = """
repo: me/my-model
visibility: public
license: apache-2.0
base: {repo: them/base}
data:
  chats: [{repo: them/chats}]
stages:
  sft: {data: chats, train_on: all}
  more: {uses: sft, data: chats, continues: sft, train_on: WHICH}
variants: {main: {stage: more}}
evaluate: {suites: []}
gates: {stop_rate: {prompts_from: chats}}
card: {title: T}
"""


def test_stages_of_the_same_data_train_on_the_same_answers_and_dpo_on_the_last() -> None:
    assert parse_recipe(RECIPE.replace("WHICH", "all")).stages["more"].train_on == "all"
    with pytest.raises(
        UsageError, match=r"hubkit\.yaml:9: stages\.sft\.train_on: stage 'more' trains on other answers"
    ):
        parse_recipe(RECIPE.replace("WHICH", "last"))
    with pytest.raises(UsageError, match="dpo compares the last answers"):
        parse_recipe(RECIPE.replace("uses: sft", "uses: dpo").replace("WHICH", "all"))
