"""A GGUF file compared with the model folder that it was written from, as llama.cpp and transformers run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hubkit.core.errors import ConflictError
from hubkit.core.numbers import counted
from hubkit.models.chat.golden import golden_names, golden_requests
from hubkit.models.chat.rendering import render_untrusted
from hubkit.models.gguf.runtime import GgufModel
from hubkit.models.load import load_tokenizer

PLAIN = (
    "I've been told it's 1,234.5 in total - isn't it?\n\n  Yes:\t1234567 of them.",
    "Ça coûte 12 €… 你好 🌞\r\nfin",
)
"""Texts that are compared where a model has no chat template, and beside its conversations."""


def same_token_ids(folder: Path, file: Path) -> int:
    """How many texts ``file`` encodes to the ids of transformers' tokenizer in ``folder``: all golden conversations.

    ConflictError when it encodes one of them differently.
    """
    tokenizer = load_tokenizer(folder)
    texts = golden_texts(tokenizer)
    with GgufModel(file, vocabulary_only=True) as model:
        for name, text in texts.items():
            expected, found = list(tokenizer(text, add_special_tokens=False)["input_ids"]), model.tokenize(text)
            if expected != found:
                place = next((at for at, (one, two) in enumerate(zip(expected, found, strict=False)) if one != two), 0)
                raise ConflictError(
                    f"{file.name} encodes text differently than the model it was written from ({name}): token {place}"
                    f" is {found[place : place + 1]} instead of {expected[place : place + 1]}, of"
                    f" {counted(len(expected), 'token')}.",
                    hint="Do not publish this file. Convert the model with llama.cpp's own converter and compare.",
                )
    return len(texts)


def golden_texts(tokenizer: Any) -> dict[str, str]:
    """The golden conversations as the chat template of ``tokenizer`` writes them, and some plain text, by name."""
    found = {f"plain text {number}": text for number, text in enumerate(PLAIN, start=1)}
    template = tokenizer.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    if template:
        special = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
        renderings = render_untrusted(template, golden_requests(), variables=special)
        for name, rendering in zip(golden_names(), renderings, strict=True):
            if rendering.text is not None:
                found[name] = rendering.text
    return found
