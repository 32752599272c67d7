"""The token to pad with: of real tokenizers' special tokens, and never one that a prompt holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from architectures import ARCHITECTURES, make_tokenizer

from hubkit.core.files import read_json, write_json
from hubkit.models.chat import agreement, padding
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.merging.companions import write_companions

END = EndOfTurn("<|end|>", 9)


@pytest.mark.parametrize(
    ("special", "added", "chosen"),
    [
        ({"pad_token": "<p>"}, {"<p>": 1}, "<p>"),
        ({"pad_token": "<|end|>", "unk_token": "<unk>"}, {"<unk>": 0}, "<unk>"),
        ({"unk_token": "<unk>"}, {"<unk>": 0, "<|finetune_right_pad_id|>": 4}, "<|finetune_right_pad_id|>"),
        ({}, {"<|padding|>": 1}, "<|padding|>"),
        ({}, {"[PAD]": 1}, "[PAD]"),
        ({"bos_token": "<s>"}, {"<s>": 0, "<unused1>": 8, "<unused0>": 7}, "<unused0>"),
        ({"bos_token": "<s>"}, {"<s>": 0, "<|image_pad|>": 3}, "<|end|>"),
        ({"bos_token": "<b>", "eos_token": "</s>"}, {"<b>": 0, "</s>": 2}, "<b>"),
        ({"bos_token": "<s>", "eos_token": "</s>"}, {"<s>": 0, "</s>": 2}, "</s>"),
        ({"unk_token": "<|end|>", "bos_token": "<|end|>", "eos_token": "<|end|>"}, {}, "<|end|>"),
        ({"pad_token": "<pad>"}, {"<pad>": 10}, "<|end|>"),
        ({"unk_token": "<unpadded>"}, {"<unpadded>": 5}, "<unpadded>"),
    ],
)
def test_the_first_that_is_no_end_of_turn_and_in_no_prompt(special: Any, added: Any, chosen: str) -> None:
    """``<s>`` opens the prompt here: without an attention mask, ``generate`` would take it for padding."""
    found = padding.choose(special, {**added, "<|end|>": 9}, END, prompt="<s>Hello<|end|>", rows=10)
    assert found.token == chosen and found.why
    assert found.id == {**added, "<|end|>": 9}[chosen]


EXPECTED = {
    "llama-3": "<|reserved_special_token_0|>",
    "qwen3": "<|endoftext|>",
    "gemma-2": "<pad>",
    "phi-3": "<|endoftext|>",
    "mistral": "<unk>",
    "smollm": "<|endoftext|>",
    "pythia": "<|padding|>",
    "falcon": "<|endoftext|>",
    "gpt-2": "<|endoftext|>",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_choice_for_tokenizers_as_they_are_met(name: str) -> None:
    what = ARCHITECTURES[name]
    tokens = agreement.Tokens.of(make_tokenizer(what))
    stops = {"eos_token_id": [tokens.added[token] for token in (*what.stops, what.eos)]}
    agreed = agreement.agree(what.template, tokens, {"vocab_size": tokens.count, **stops}, stops)
    assert agreed.end_of_turn is not None and agreed.end_of_turn.token == what.turn_end
    assert agreed.pad is not None and agreed.pad.token == EXPECTED[name]
    assert (agreed.pad.token == what.turn_end) == (name in {"falcon", "gpt-2"})
    assert [item.rule for item in agreed.files if item.level == "error"] == ["eos-padding"] * (name == "smollm")


@pytest.mark.parametrize("pad", [None, "<|endoftext|>"])
def test_padding_with_the_only_token_is_a_warning_and_published(pad: str | None, tmp_path: Path) -> None:
    """GPT-2, and a GPT-2 in which somebody made the padding token explicit."""
    tokenizer = make_tokenizer(ARCHITECTURES["gpt-2"])
    tokenizer.pad_token = pad
    tokens = agreement.Tokens.of(tokenizer)
    config = {"vocab_size": tokens.count, "eos_token_id": 0}
    agreed = agreement.agree(tokenizer.chat_template, tokens, config, config)
    assert [(item.rule, item.level) for item in agreed.files] == ([("eos-padding", "warning")] if pad else [])
    agreement.refuse(agreed.findings)
    base, out = tmp_path / "base", tmp_path / "out"
    tokenizer.save_pretrained(base)
    write_json(base / "config.json", config)
    out.mkdir()
    end, chosen = agreed.end_of_turn, agreed.pad
    assert end and chosen
    write_companions(base, out, dtype="float32", end_of_turn=end, pad_token=chosen.token)
    assert read_json(out / "tokenizer_config.json")["pad_token"] == "<|endoftext|>"
    assert read_json(out / "generation_config.json")["pad_token_id"] == 0
    assert read_json(out / "config.json")["pad_token_id"] == 0


def test_the_padding_token_goes_to_tokenizer_and_configs_alike(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(ARCHITECTURES["smollm"])
    base, out = tmp_path / "base", tmp_path / "out"
    tokenizer.save_pretrained(base)
    ends = tokenizer.eos_token_id
    write_json(base / "config.json", {"text_config": {"eos_token_id": ends, "pad_token_id": ends, "vocab_size": 400}})
    write_json(base / "generation_config.json", {"eos_token_id": ends, "pad_token_id": ends})
    out.mkdir()
    write_companions(base, out, dtype="float32", end_of_turn=EndOfTurn("<|im_end|>", ends), pad_token="<|endoftext|>")
    number = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    config = read_json(out / "config.json")
    assert config["text_config"] == {"eos_token_id": ends, "pad_token_id": number, "vocab_size": 400}
    assert "eos_token_id" not in config and "pad_token_id" not in config
    assert read_json(out / "generation_config.json")["pad_token_id"] == number


def test_settings_are_read_where_transformers_reads_them() -> None:
    nested = {"text_config": {"eos_token_id": [12, 13], "vocab_size": 16}}
    assert agreement.eos_ids(nested) == (12, 13)
    assert agreement.eos_ids({**nested, "eos_token_id": 3}) == (3,)
    assert agreement.ends_of(agreement.Tokens({}, {}), nested, None).vocabulary == 16
    assert agreement.eos_ids({"text_config": "none"}) == ()
