"""Quantized checkpoints: in which format, told from the settings that quantizers leave. Their tensors are packed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_FILES: Mapping[str, str] = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
    "quantization_config.json": "quantized",
}
"""Files that quantizers write beside a config.json that does not name the format. ModelOpt's is NVIDIA's."""
_KEYS = ("quantization_config", "compression_config", "quantization", "quant_config")
"""Keys of config.json: transformers' own, that of older compressed-tensors, MLX's, and that of older AWQ."""


def quantization_of(config: Mapping[str, Any], files: Collection[str]) -> str | None:
    """The format of quantized weights, such as ``gptq``; None when nothing says that they are quantized."""
    text = config.get("text_config")
    for settings in (config, text if isinstance(text, Mapping) else {}):
        for key in _KEYS:
            if (value := settings.get(key)) and isinstance(value, Mapping):
                method = value.get("quant_method") or ("MLX" if key == "quantization" else None)
                return method if isinstance(method, str) and method.isprintable() else "quantized"
    return next((name for file, name in _FILES.items() if file in files), None)
