"""`hubkit check` on files as they are met: a text model's settings in a part of config.json, a tokenizer of pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hubkit.checks.model import FolderSource, check
from hubkit.models.chat.library import CHATML

CHAT_TOKENS = {"10": "<|endoftext|>", "11": "<|im_start|>", "12": "<|im_end|>"}
TEXT = {"vocab_size": 16, "eos_token_id": 12}
PIECES: dict[str, Any] = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "chat_template": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}"
    "{{ eos_token }}{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}",
}


def write(folder: Path, **files: Any) -> Path:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize(
    ("text", "generation", "rules"),
    [
        (TEXT, {"eos_token_id": [12, 10]}, []),
        (TEXT, None, []),
        ({**TEXT, "eos_token_id": 10}, None, ["eos-generation"]),
        ({**TEXT, "vocab_size": 11}, {"eos_token_id": 12}, ["vocabulary"]),
    ],
)
def test_settings_of_the_text_model_count(tmp_path: Path, text: Any, generation: Any, rules: list[str]) -> None:
    tokenizer = {
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "added_tokens_decoder": {number: {"content": token} for number, token in CHAT_TOKENS.items()},
        "chat_template": CHATML,
    }
    files: dict[str, Any] = {"config": {"model_type": "qwen3_vl", "text_config": text}, "tokenizer_config": tokenizer}
    files |= {"generation_config": generation} if generation else {}
    report = check(FolderSource(write(tmp_path, **files)))
    known = {"eos-generation", "eos-config", "eos-padding", "eos-tokenizer", "vocabulary"}
    assert [item.rule for item in report.findings if item.rule in known] == rules


def test_a_vocabulary_of_pieces_has_its_eos_id_in_the_configs(tmp_path: Path) -> None:
    config = {"model_type": "llama", "vocab_size": 32000, "eos_token_id": 2}
    report = check(FolderSource(write(tmp_path, config=config, tokenizer_config=PIECES)))
    assert report.end_of_turn is not None and (report.end_of_turn.token, report.end_of_turn.id) == ("</s>", 2)
    assert not [item for item in report.findings if "never closes" in item.message]


def test_a_vocabulary_of_pieces_without_any_id_cannot_be_judged(tmp_path: Path) -> None:
    config = {"model_type": "llama", "vocab_size": 32000, "eos_token_id": [2, 3]}
    report = check(FolderSource(write(tmp_path, config=config, tokenizer_config=PIECES)))
    [found] = [item for item in report.findings if item.rule == "no-tokenizer"]
    assert found.level == "note" and "Cannot tell where an answer ends" in found.message
    assert report.end_of_turn is None and not [item for item in report.findings if "never closes" in item.message]
