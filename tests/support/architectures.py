"""Chat models as they are met on the Hub, tiny and random: their layers, their tokenizer's habits, their template.

:func:`make` writes one as an ordinary checkpoint. What differs between them is what breaks tools: tied embeddings,
fused experts, Conv1D, no token to pad with but the end of text, several ends of text, BOS in the template and in the
tokenizer, no system role, templates that strip or add words. Templates are our own words in the real prompt formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ENDOFTEXT = "<|endoftext|>"
_CHATML = """{%- if messages[0]['role'] != 'system' and default_system -%}
<|im_start|>system
{{ default_system }}<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}"""


def _chatml(system: str = "") -> str:
    return "{%- set default_system = '" + system + "' -%}\n" + _CHATML


_LLAMA_3 = """{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"""
_GEMMA = """{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}
{%- for message in messages -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
{%- endif -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"""
_PHI_3 = """{%- for message in messages -%}
{{- '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"""
_MISTRAL = """{%- if messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] + '\n\n' -%}{%- set turns = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set turns = messages -%}{%- endif -%}
{{- bos_token -}}
{%- for message in turns -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('After the optional system message, roles must alternate user/assistant') -}}
{%- endif -%}
{%- if message['role'] == 'user' -%}
{{- '[INST] ' + (system if loop.last or loop.index0 == turns | length - 2 else '') + message['content'] + '[/INST]' -}}
{%- else -%}{{- ' ' + message['content'] + eos_token -}}{%- endif -%}
{%- endfor -%}"""
_QWEN_3 = """{%- for message in messages -%}
{%- set content = message['content'] -%}
{%- if message['role'] == 'assistant' -%}
{%- if '</think>' in content -%}{%- set content = content.split('</think>')[-1].lstrip('\n') -%}{%- endif -%}
{%- if loop.last -%}{%- set content = '<think>\n\n</think>\n\n' + content -%}{%- endif -%}
{%- endif -%}
{{- '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}
{%- endif -%}"""
_PLAIN = """{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}{{- 'Assistant: ' + message['content'] + eos_token -}}
{%- else -%}{{- message['role'] | capitalize + ': ' + message['content'] + '\n\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"""

_WIDTHS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


@dataclass(frozen=True)
class Architecture:
    """One kind of chat model. ``config`` is a class of transformers, ``keys`` what it is built with.

    ``eos``, ``bos``, ``pad`` are the tokenizer's; ``stops`` the tokens at which ``generation_config.json`` ends;
    ``turn_end`` the token that ends an answer. ``adds_bos``: the tokenizer puts BOS before every text.
    """

    config: str
    template: str
    eos: str
    turn_end: str
    bos: str | None = None
    pad: str | None = None
    unk: str | None = None
    specials: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    adds_bos: bool = False
    pieces: bool = False
    keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def special_tokens(self) -> list[str]:
        """All of them, each once, in the order of their ids."""
        named = (self.unk, self.bos, self.eos, self.pad, self.turn_end)
        return list(dict.fromkeys(token for token in (*named, *self.specials, *self.stops) if token))


_LLAMA_TOKENS: dict[str, Any] = {
    "template": _LLAMA_3,
    "bos": "<|begin_of_text|>",
    "eos": "<|eot_id|>",
    "turn_end": "<|eot_id|>",
    "stops": ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    "specials": ("<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_0|>"),
    "adds_bos": True,
}
_QWEN_TOKENS: dict[str, Any] = {
    "eos": "<|im_end|>",
    "turn_end": "<|im_end|>",
    "pad": _ENDOFTEXT,
    "stops": ("<|im_end|>", _ENDOFTEXT),
    "specials": ("<|im_start|>", "<think>", "</think>"),
}
_GEMMA_TOKENS: dict[str, Any] = {
    "template": _GEMMA,
    "bos": "<bos>",
    "eos": "<eos>",
    "pad": "<pad>",
    "unk": "<unk>",
    "turn_end": "<end_of_turn>",
    "stops": ("<eos>", "<end_of_turn>"),
    "specials": ("<start_of_turn>",),
    "adds_bos": True,
    "pieces": True,
}
_MISTRAL_TOKENS: dict[str, Any] = {
    "template": _MISTRAL,
    "bos": "<s>",
    "eos": "</s>",
    "unk": "<unk>",
    "turn_end": "</s>",
    "specials": ("[INST]", "[/INST]"),
    "adds_bos": True,
    "pieces": True,
}
_ONLY_EOS: dict[str, Any] = {"template": _PLAIN, "eos": _ENDOFTEXT, "bos": _ENDOFTEXT, "turn_end": _ENDOFTEXT}

ARCHITECTURES: dict[str, Architecture] = {
    "llama-3": Architecture("LlamaConfig", keys={"rope_theta": 500_000.0}, **_LLAMA_TOKENS),
    "llama-3-tied": Architecture("LlamaConfig", keys={"tie_word_embeddings": True}, **_LLAMA_TOKENS),
    "qwen2": Architecture("Qwen2Config", _chatml("You are a helpful assistant."), **_QWEN_TOKENS),
    "qwen3": Architecture("Qwen3Config", _QWEN_3, keys={"head_dim": 8, "tie_word_embeddings": True}, **_QWEN_TOKENS),
    "gemma-2": Architecture("Gemma2Config", keys={"head_dim": 8, "sliding_window": 64}, **_GEMMA_TOKENS),
    "gemma-3": Architecture("Gemma3TextConfig", keys={"head_dim": 8, "sliding_window": 64}, **_GEMMA_TOKENS),
    "phi-3": Architecture(
        "Phi3Config",
        _PHI_3,
        eos=_ENDOFTEXT,
        turn_end="<|end|>",
        bos="<s>",
        pad=_ENDOFTEXT,
        unk="<unk>",
        stops=(_ENDOFTEXT, "<|assistant|>", "<|end|>"),
        specials=("<|user|>", "<|system|>"),
        pieces=True,
        keys={"tie_word_embeddings": False},
    ),
    "mistral": Architecture("MistralConfig", keys={"sliding_window": None}, **_MISTRAL_TOKENS),
    "openhermes": Architecture(
        "MistralConfig",
        _chatml(),
        eos="<|im_end|>",
        turn_end="<|im_end|>",
        bos="<s>",
        unk="<unk>",
        specials=("</s>", "<|im_start|>"),
        adds_bos=True,
        pieces=True,
    ),
    "smollm": Architecture(
        "LlamaConfig",
        _chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
        eos="<|im_end|>",
        turn_end="<|im_end|>",
        bos="<|im_start|>",
        pad="<|im_end|>",
        unk=_ENDOFTEXT,
        keys={"tie_word_embeddings": True},
    ),
    "pythia": Architecture("GPTNeoXConfig", specials=("<|padding|>",), keys={"num_key_value_heads": None}, **_ONLY_EOS),
    "falcon": Architecture(
        "FalconConfig",
        keys={"num_key_value_heads": None, "intermediate_size": None, "ffn_hidden_size": 48, "multi_query": True},
        **_ONLY_EOS,
    ),
    "gpt-2": Architecture("GPT2Config", keys={"n_inner": 48, "num_key_value_heads": None}, **_ONLY_EOS),
    "mixtral": Architecture("MixtralConfig", keys={**_EXPERTS, "sliding_window": None}, **_MISTRAL_TOKENS),
    "qwen3-moe": Architecture(
        "Qwen3MoeConfig",
        _QWEN_3,
        keys={"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8},
        **_QWEN_TOKENS,
    ),
}
"""By the name that the tests use. Llama-3 and Gemma are there twice: tied and untied, version 2 and 3."""

_TEXT = (
    "The capital of France is Paris. What is the capital of France? Tell me which color the sky has, and why.",
    "You are a helpful assistant. Explain in detail. A function returns its result; what does it return?",
    "def add(one, two):\n    return one + two\n\n1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and so on.",
)


def make(name: str, folder: Path, *, dtype: str = "float32", seed: int = 0) -> Path:
    """Write the checkpoint of ``name`` into ``folder``: weights in ``dtype``, tokenizer, template; the folder."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    what = ARCHITECTURES[name]
    tokenizer = make_tokenizer(what)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in what.special_tokens}
    pad = ids.get(what.pad) if what.pad else None
    config = make_config(name, len(tokenizer), bos=ids.get(what.bos or ""), eos=ids[what.eos], pad=pad)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    stops = [ids[token] for token in what.stops or (what.eos,)]
    model.generation_config = GenerationConfig(
        bos_token_id=ids.get(what.bos or ""), eos_token_id=stops if len(stops) > 1 else stops[0], pad_token_id=pad
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_config(name: str, vocabulary: int, *, bos: int | None, eos: int, pad: int | None) -> Any:
    """The configuration of ``name`` for ``vocabulary`` tokens."""
    import transformers

    what = ARCHITECTURES[name]
    made = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad, "vocab_size": vocabulary}
    keys = {
        key: value for key, value in {**_WIDTHS, **what.keys}.items() if value is not None or key in {"sliding_window"}
    }
    return getattr(transformers, what.config)(**keys, **made)


def make_tokenizer(what: Architecture) -> Any:
    """A byte-level BPE tokenizer, or one of pieces with byte fallback as SentencePiece makes them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if what.pieces:
        tokenizer = Tokenizer(models.BPE(unk_token=what.unk, byte_fallback=True, fuse_unk=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        tokenizer.decoder = decoders.Sequence(
            [decoders.Metaspace(prepend_scheme="never"), decoders.ByteFallback(), decoders.Fuse()]
        )
        letters = {"special_tokens": [*what.special_tokens, *(f"<0x{byte:02X}>" for byte in range(256))]}
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        letters = {"special_tokens": what.special_tokens, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    tokenizer.train_from_iterator(
        _TEXT, trainers.BpeTrainer(vocab_size=len(letters["special_tokens"]) + 320, show_progress=False, **letters)
    )
    if what.adds_bos and what.bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{what.bos} $A",
            pair=f"{what.bos} $A $B",
            special_tokens=[(what.bos, tokenizer.token_to_id(what.bos))],
        )
    named = {"bos_token": what.bos, "eos_token": what.eos, "pad_token": what.pad, "unk_token": what.unk}
    extra = [token for token in what.special_tokens if token not in named.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=what.template,
        additional_special_tokens=extra,
        **{key: token for key, token in named.items() if token},
    )
