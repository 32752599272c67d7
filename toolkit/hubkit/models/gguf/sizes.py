"""Numbers of config.json that must be those of the weights, compared before anything is computed with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.core.numbers import count, counted
from hubkit.models.gguf.families import Family

MOST_LAYERS = 512
"""llama.cpp has room for no more (LLAMA_MAX_LAYERS)."""
_LEAST: Mapping[str, int] = {
    **dict.fromkeys(
        ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
         "head_dim", "max_position_embeddings"), 1),
    **dict.fromkeys(
        ("sliding_window", "num_local_experts", "num_experts", "num_experts_per_tok", "moe_intermediate_size",
         "shared_expert_intermediate_size"), 0),
}  # fmt: skip
_MOST = 2**31 - 1
"""GGUF keeps them in 32 bits."""
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_BLOCK = re.compile(r"blk\.\d+\.(.+)")
_HINT = "Take config.json and the weights of one model; `hubkit check` says more."


def refuse_numbers(config: Mapping[str, Any], weights: Iterable[str] | None) -> None:
    """RefusedError when ``config`` has a size that is none, or other layers than ``weights``, the tensors' names.

    None: the weights are not known yet.
    """
    for key, least in _LEAST.items():
        value = config.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST):
            raise RefusedError(
                f"config.json has {key}: {str(value)[:40]!r}; it must be a whole number from {least} to {_MOST:,}.",
                hint=_HINT,
            )
    stated = config.get("num_hidden_layers")
    if weights is None:
        layers = stated or 0
    else:
        layers = 1 + max((int(layer[1][:9]) for name in weights if (layer := _LAYER.match(name))), default=-1)
    if stated is not None and stated != layers:
        raise RefusedError(
            f"The weights have {counted(layers, 'layer')}, config.json says {count(stated)} (num_hidden_layers).",
            hint=_HINT,
        )
    if layers > MOST_LAYERS:
        raise RefusedError(f"The model has {counted(layers, 'layer')}; llama.cpp runs at most {count(MOST_LAYERS)}.")


def shapes_of(family: Family, config: Mapping[str, Any], rows: int) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of the file by its name, without its block: what ``config`` asks for.

    ``rows`` are those of the embeddings.
    """
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    pairs = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    inner = config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (rows, hidden),
        "output": (rows, hidden),
        "attn_q": (heads * head, hidden),
        "attn_k": (pairs * head, hidden),
        "attn_v": (pairs * head, hidden),
        "attn_qkv": ((heads + 2 * pairs) * head, hidden),
        "attn_output": (hidden, heads * head),
        "ffn_gate": (inner, hidden),
        "ffn_up": (2 * inner if family.name == "phi3" else inner, hidden),
        "ffn_down": (hidden, inner),
        **dict.fromkeys(("attn_q_norm", "attn_k_norm"), (head,)),
        **dict.fromkeys(("output_norm", "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"), (hidden,)),
    }
    if family.experts:
        experts = config.get("num_local_experts") or config["num_experts"]
        each, shared = config.get("moe_intermediate_size") or inner, config.get("shared_expert_intermediate_size")
        shapes |= {"ffn_gate_inp": (experts, hidden), "ffn_down_exps": (experts, hidden, each)}
        shapes |= dict.fromkeys(("ffn_gate_exps", "ffn_up_exps"), (experts, each, hidden))
        if shared:
            shapes |= {"ffn_gate_shexp": (shared, hidden), "ffn_up_shexp": (shared, hidden)}
            shapes["ffn_down_shexp"] = (hidden, shared)
    return shapes


def refuse_shape(name: str, shape: tuple[int, ...], source: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """RefusedError when the tensor ``name`` of the file, made of ``source``, has another shape than in ``shapes``."""
    bare, _, kind = name.rpartition(".")
    block = _BLOCK.fullmatch(bare)
    expected = shapes.get(block[1] if block else bare)
    if expected is None:
        return
    expected = expected[:1] if kind == "bias" else expected
    if shape != expected:
        written, asked = (" x ".join(map(str, item)) for item in (shape, expected))
        raise RefusedError(f"{source} has the shape {written}, config.json asks for {asked}.", hint=_HINT)
