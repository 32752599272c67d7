"""The architectures that can be written as GGUF, and what llama.cpp takes for granted about each of them.

llama.cpp has one fixed graph for an architecture. What a config.json asks for beyond it (another activation, another
order of windowed layers) would be computed differently without a word, so it is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubkit.core.errors import RefusedError

SILU, GELU = ("silu", "swish"), ("gelu_pytorch_tanh", "gelu_new")
_ANOTHER_TOOL = "Convert it with llama.cpp's convert_hf_to_gguf.py, and compare its answers with transformers'."


@dataclass(frozen=True)
class Family:
    """One architecture: ``name`` is GGUF's, ``activations`` what its graph computes.

    ``rotated``: the rows of Q and K are stored in the order of llama.cpp's rotary embedding. ``norm_plus_one``: norms
    are stored as the factor that they are, 1 + weight. ``window_every``: every so many layers one attends to all.
    """

    name: str
    activations: tuple[str, ...] = SILU
    rotated: bool = False
    norm_plus_one: bool = False
    experts: bool = False
    window_every: int | None = None


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family("llama", rotated=True),
    "MistralForCausalLM": Family("llama", rotated=True),
    "MixtralForCausalLM": Family("llama", rotated=True, experts=True),
    "Qwen2ForCausalLM": Family("qwen2"),
    "Qwen2MoeForCausalLM": Family("qwen2moe", experts=True),
    "Qwen3ForCausalLM": Family("qwen3"),
    "Qwen3MoeForCausalLM": Family("qwen3moe", experts=True),
    "GemmaForCausalLM": Family("gemma", GELU, norm_plus_one=True),
    "Gemma2ForCausalLM": Family("gemma2", GELU, norm_plus_one=True, window_every=2),
    "Gemma3ForCausalLM": Family("gemma3", GELU, norm_plus_one=True, window_every=6),
    "Phi3ForCausalLM": Family("phi3"),
    "SmolLM3ForCausalLM": Family("smollm3", rotated=True),
}
"""By the name in ``architectures`` of config.json."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that ``config``, which is config.json, names; RefusedError when there is none."""
    listed = config.get("architectures")
    named = str(listed[0]) if isinstance(listed, list) and listed else ""
    if named not in FAMILIES:
        known = ", ".join(sorted(name.removesuffix("ForCausalLM") for name in FAMILIES))
        parts = (
            " It has parts for images or sound." if config.get("vision_config") or config.get("audio_config") else ""
        )
        raise RefusedError(
            f"{named or 'A model without architectures in config.json'} cannot be written as GGUF.{parts}",
            hint=f"Architectures that can: {known}. For others: llama.cpp's convert_hf_to_gguf.py.",
        )
    return FAMILIES[named]


def refuse_differences(family: Family, config: Mapping[str, Any]) -> None:
    """RefusedError when llama.cpp's graph of ``family`` is not what ``config`` asks for.

    ``config`` is config.json as transformers completes it.
    """
    named = str(config["architectures"][0])
    for problem in _problems(family, config):
        raise RefusedError(f"llama.cpp computes {named} differently: {problem}.", hint=_ANOTHER_TOOL)


def _problems(family: Family, config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("quantization_config"):
        raise RefusedError(
            "The weights are quantized already; GGUF is written from weights in 16 or 32 bits.",
            hint="Start from the unquantized model.",
        )
    activation = config.get("hidden_activation") or config.get("hidden_act")
    if activation not in family.activations:
        yield f"its activation is {activation!r}, llama.cpp's {family.activations[0]!r}"
    yield from _window_problems(family, config)
    yield from _attention_problems(family, config)
    if family.experts:
        yield from _expert_problems(family, config)


def _window_problems(family: Family, config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("use_bidirectional_attention"):
        yield "its attention looks ahead (use_bidirectional_attention)"
    if family.window_every is None:
        if family.name != "llama" and config.get("use_sliding_window"):
            yield "it uses sliding windows (use_sliding_window), which llama.cpp ignores"
        return
    kinds: Sequence[str] = config.get("layer_types") or ()
    every = family.window_every
    expected = [
        "full_attention" if (number + 1) % every == 0 else "sliding_attention"
        for number in range(config["num_hidden_layers"])
    ]
    if list(kinds) != expected:
        yield f"not every {every}th of its layers, and no other, attends to the whole context (layer_types)"


def _attention_problems(family: Family, config: Mapping[str, Any]) -> Iterator[str]:
    if "query_pre_attn_scalar" in config and family.name in {"gemma2", "gemma3"}:
        per_head = config["hidden_size"] // config["num_attention_heads"]
        large = config["num_hidden_layers"] == {"gemma2": 46, "gemma3": 62}[family.name]
        expected = per_head if large else config["head_dim"]
        if config["query_pre_attn_scalar"] != expected:
            yield f"query_pre_attn_scalar is {config['query_pre_attn_scalar']}, llama.cpp takes {expected}"
    if family.name == "smollm3":
        rotary = [int((number + 1) % 4 != 0) for number in range(config["num_hidden_layers"])]
        if list(config.get("no_rope_layers") or ()) != rotary:
            yield "its layers without rotary embedding are not every fourth (no_rope_layers)"
    if family.name in {"qwen3", "qwen3moe"} and config.get("attention_bias"):
        yield "its attention has biases (attention_bias)"


def _expert_problems(family: Family, config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        yield "some of its layers have no experts (mlp_only_layers, decoder_sparse_step)"
    normalized = family.name != "qwen2moe"
    if config.get("norm_topk_prob", normalized) is not normalized:
        yield f"norm_topk_prob is {config.get('norm_topk_prob')}, llama.cpp computes with {normalized}"


def notes(family: Family, config: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the file should know: where llama.cpp and transformers differ, beyond some length."""
    window = config.get("sliding_window")
    if family.name == "llama" and window and window < config["max_position_embeddings"]:
        yield (
            f"llama.cpp has no sliding window for this architecture: beyond {window:,} tokens its answers differ from"
            " transformers'."
        )
