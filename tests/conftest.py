"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """Make a byte-level tokenizer without merges: ids 0-255 are bytes, then <s> </s> <pad> <|im_start|> <|im_end|>."""

    def make(template: str | None = CHAT, **names: Any) -> Any:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        letters = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        made = Tokenizer(models.BPE(vocab=letters, merges=[]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        names = {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            **names,
        }
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **names)
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """Make a random Mistral of 2 layers, 261 tokens, float32; ``settings`` are keys of MistralConfig."""

    def make(seed: int = 0, **settings: Any) -> Any:
        import torch
        from transformers import MistralConfig, MistralForCausalLM

        torch.manual_seed(seed)
        shape = {
            "vocab_size": 261,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "bos_token_id": 256,
            "eos_token_id": 260,
            "pad_token_id": 258,
        }
        return MistralForCausalLM(MistralConfig(**{**shape, **settings})).eval()

    return make
