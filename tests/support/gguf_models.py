"""Tiny models of the architectures that can be written as GGUF, with the settings that llama.cpp takes for granted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import architectures
import pytest

WRITABLE = (
    "llama-3", "llama-3-tied", "qwen2", "qwen3", "gemma-2", "gemma-3", "phi-3", "mistral", "openhermes", "smollm",
    "mixtral", "qwen3-moe",
)  # fmt: skip
_AS_PUBLISHED: dict[str, dict[str, Any]] = {
    "gemma-2": {"query_pre_attn_scalar": 8},
    "gemma-3": {"query_pre_attn_scalar": 8},
    "qwen3-moe": {"norm_topk_prob": True},
}
"""Settings that the published models have, and the defaults of transformers' configurations do not."""


def sharpen(folder: Path, factor: float) -> None:
    """Multiply the matrices of the layers in ``folder``, so that attention looks at some tokens more than at others.

    With the numbers of a fresh model it looks at all of them alike, and a wrong rotary embedding changes nothing.
    """
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    sharp = {name: item * factor if "proj.weight" in name else item for name, item in tensors.items()}
    save_file(sharp, folder / "model.safetensors", {"format": "pt"})


def make(name: str, folder: Path, *, dtype: str = "bfloat16", **keys: Any) -> Path:
    """The checkpoint of ``name`` in ``folder``, with ``keys`` in its config."""
    what = architectures.ARCHITECTURES[name]
    changed = dataclasses.replace(what, keys={**what.keys, **_AS_PUBLISHED.get(name, {}), **keys})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(architectures.ARCHITECTURES, name, changed)
        return architectures.make(name, folder, dtype=dtype)
