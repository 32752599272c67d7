"""Tiny models of the architectures that can be written as GGUF, with the settings that llama.cpp takes for granted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import architectures
import pytest

from hubkit.models.gguf.layout import FILE_TYPES, Kind
from hubkit.models.gguf.quantizing import Quantize, Report

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


def library_quantizer(**changed: Any) -> Quantize:
    """A quantizer to Q4_0 by the gguf library, in its own order of tensors; ``changed`` are keys that it spoils."""

    import gguf
    import numpy

    def quantize(source: Path, out: Path, kind: Kind, threads: int, report: Report | None = None) -> None:
        reader, q4 = gguf.GGUFReader(source), gguf.GGMLQuantizationType.Q4_0
        writer = gguf.GGUFWriter(out, "")
        writer.kv_data[0].clear()
        for name, field in reader.fields.items():
            if not name.startswith("GGUF."):
                value = {"general.file_type": FILE_TYPES[kind], **changed}.get(name, field.contents())
                writer.add_key_value(name, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
        for item in sorted(reader.tensors, key=lambda item: item.name, reverse=True):
            numbers = gguf.dequantize(item.data, item.tensor_type).astype(numpy.float32)
            if item.tensor_type == gguf.GGMLQuantizationType.F32 or numbers.shape[-1] % 32:
                raw = None if item.tensor_type == gguf.GGMLQuantizationType.F32 else item.tensor_type
                writer.add_tensor(item.name, item.data, raw_dtype=raw)
            else:
                writer.add_tensor(item.name, gguf.quantize(numbers, q4), raw_dtype=q4)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        if report:
            report("all tensors", 1.0)

    return quantize
