"""The keys of a GGUF file: the settings of the model, its vocabulary, its chat template and where answers end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.models.gguf.layout import FILE_TYPES, Kind
from hubkit.models.gguf.model import Described
from hubkit.models.gguf.rotary import Tables, write_rotary

_LARGEST = 3.4e38
"""About the largest float of 32 bits."""


def write_settings(writer: Any, described: Described, kind: Kind, name: str | None) -> Tables:
    """Add all keys of the file to ``writer``; the tables that are tensors."""
    import gguf

    config, family = described.config, described.family
    writer.add_type(gguf.GGUFType.MODEL)
    if name:
        writer.add_name(name)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(FILE_TYPES[kind])
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(len(described.vocabulary.tokens))
    if family.window_every or family.name == "phi3":
        writer.add_sliding_window(config.get("sliding_window") or 0)
    if family.name == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if family.experts:
        _write_experts(writer, config)
    tables = write_rotary(writer, config)
    described.vocabulary.write(writer)
    described.stops.write(writer)
    _refuse_large(writer)
    if described.templates:
        named = [{"name": key, "template": text} for key, text in described.templates.items()]
        writer.add_chat_template(described.template if list(described.templates) == ["default"] else named)
    return tables


def _write_experts(writer: Any, config: Mapping[str, Any]) -> None:
    writer.add_expert_count(config.get("num_local_experts") or config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    if config.get("moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if config.get("shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def _refuse_large(writer: Any) -> None:
    """RefusedError for a number that 32 bits do not hold."""
    for key, item in writer.kv_data[0].items():
        if isinstance(item.value, float) and not abs(item.value) < _LARGEST:
            raise RefusedError(
                f"config.json makes {key} {item.value:g}, which GGUF cannot hold.",
                hint="`hubkit check` says what is wrong with the model.",
            )
