"""What kind of repo this is, told from its files and config.json: not each holds a chat model for transformers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

Family = Literal["text generation", "other model", "diffusers", "sentence-transformers", "gguf", "unknown"]
_TRANSFORMERS = re.compile(r"model(\.[\w-]+)?\.safetensors|model(\.[\w-]+)?-\d{5,}-of-\d{5,}(\.[\w-]+)?\.safetensors")
"""The names under which transformers looks for weights: one file, or shards, each also in a variant such as fp16."""
_GENERATES = re.compile(r"\w+(ForCausalLM|LMHeadModel|ForConditionalGeneration|ForImageTextToText)")
_SEES_OR_HEARS = ("vision_config", "audio_config", "text_config", "image_token_id", "image_token_index")


def family_of(config: Mapping[str, Any], files: Collection[str]) -> Family:
    """The kind of repo that has ``config`` (config.json, empty without one) and ``files``."""
    if "model_index.json" in files:
        return "diffusers"
    if "modules.json" in files or "config_sentence_transformers.json" in files:
        return "sentence-transformers"
    if any(name.endswith(".gguf") for name in files) and not any(name.endswith(".safetensors") for name in files):
        return "gguf"
    names = [name for name in config.get("architectures") or () if isinstance(name, str)]
    if not names:
        return "unknown"
    generates = any(_GENERATES.fullmatch(name) for name in names)
    if not generates or config.get("is_encoder_decoder") is True:
        return "other model"
    conditional = all(name.endswith("ForConditionalGeneration") for name in names)
    if conditional and not any(key in config for key in _SEES_OR_HEARS):  # T5, BART, Whisper
        return "other model"
    return "text generation"


def weights_of_transformers(files: Collection[str]) -> list[str]:
    """The safetensors files at the root that transformers loads, by their names."""
    return sorted(name for name in files if _TRANSFORMERS.fullmatch(name))


def says_that_it_chats(card: Mapping[str, Any], body: str) -> bool:
    """Whether a card says of the model that one talks with it, by a tag or by its code."""
    tags = card.get("tags")
    listed = tags if isinstance(tags, list) else [tags]
    return bool({"conversational", "chat"} & {tag for tag in listed if isinstance(tag, str)}) or (
        "apply_chat_template" in body
    )
