"""`train_on: all`: the loss falls on every answer with its end-of-turn token, and on nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from architectures import ARCHITECTURES, make_tokenizer

from hubkit.core.errors import RefusedError, UsageError
from hubkit.models.chat import eos
from hubkit.recipe.loading import parse_recipe
from hubkit.training import batches, tokenized
from hubkit.training.data import tokens, turns
from hubkit.training.data.prepared import TrainingRows, rows_file

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


@pytest.mark.parametrize("args", [{"max_length": 110}, {"max_length": 110, "truncation_mode": "keep_end"}])
def test_the_trainer_has_all_answers_in_its_loss_also_when_the_tokens_are_made_again(
    args: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = make_tokenizer(ARCHITECTURES["smollm"])
    end = eos.find(tokenizer)
    rows = [{**TALK, "prompt": TALK["prompt"][:length]} for length in (1, 3, 5, 7) for _ in range(2)]
    file = tmp_path / rows_file("mine")
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept, encoder = TrainingRows.load(file), tokens.Encoder(tokenizer, end, {}, all_answers=True)
    assert kept.tokens(tokenizer) is None, "as after a change of the tokenizer"
    config = SFTConfig(output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True, bf16=False, **args)
    dataset, _ = tokenized.datasets_for(kept, tokenizer, "sft", config, tmp_path / "scratch", encoder)
    widths = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **widths))
    trainer = SFTTrainer(model=model, args=config, train_dataset=dataset, processing_class=tokenizer)
    first = tokenized.first_rows(trainer.train_dataset, batches.ROWS, kept)
    assert batches.prove(trainer, tokenizer, end, first, all_answers=True) == len(dataset)
    with pytest.raises(RefusedError, match="trains on other tokens than those of the answers"):
        batches.prove(trainer, tokenizer, end, first)
