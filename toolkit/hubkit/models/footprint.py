"""The memory that a model takes once it is loaded, computed from its tensors: as stored, in NF4, and its KV cache.

Bytes are those that PyTorch and bitsandbytes allocate, without what a device rounds up, the libraries themselves
(a CUDA context has about 0.5 GB) and the activations of a pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hubkit.core.errors import HubkitError
from hubkit.models import tensors
from hubkit.models.facts import ModelFacts

QUANTIZED = ("Linear", "Conv1D")
"""The classes of layers that transformers has bitsandbytes quantize."""
_BLOCK, _SECOND_BLOCK = 64, 256
"""Weights that share a constant, and constants that share one: bitsandbytes' blocks of NF4, doubly quantized."""
_FEW = 8
"""Tokens of a pass that fills a cache."""
_TABLES = 16 * 4 + 4 + 256 * 4
"""Bytes that each quantized layer holds beside: the 16 values of NF4, an offset, the 256 values of its constants."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of a loaded model. ``weights`` in the ``dtype`` of its files; ``nf4`` with its linear layers in 4 bits.

    ``cache`` are the keys and values of one sequence as long as the ``context``. None: unknown.
    """

    dtype: str
    weights: int
    nf4: int | None
    context: int | None
    cache: int | None

    def to_json(self) -> dict[str, Any]:
        """As cards keep it."""
        return {
            "dtype": self.dtype, "weights": self.weights, "nf4": self.nf4, "context": self.context, "cache": self.cache,
        }  # fmt: skip


def footprint(folder: Path) -> Footprint:
    """The footprint of the model in ``folder``: config.json and safetensors files, of which only headers are read.

    RefusedError when the weights are incomplete. What transformers cannot tell of the config alone is None.
    """
    from hubkit.models import meta

    stored = {name: item for header in tensors.read_weights(folder).values() for name, item in header.tensors.items()}
    config = (folder / "config.json").read_bytes()
    try:
        facts = meta.facts_of(config)
    except HubkitError:  # code of its own, or an architecture that transformers does not have
        return Footprint(_dtype(stored), sum(item.size for item in stored.values()), None, None, None)
    kept = {name: item for name, item in stored.items() if name not in facts.tied or facts.tied[name] not in stored}
    weights = sum(item.size for item in kept.values())
    saved = sum(nf4_saves(count, facts.dtype) for count in quantized_layers(facts).values())
    return Footprint(_dtype(stored), weights, weights - saved, facts.positions, _cache(config, facts.positions))


def _dtype(stored: Mapping[str, tensors.Tensor]) -> str:
    """PyTorch's name of the type that most weights have."""
    bytes_of: dict[str, int] = {}
    for item in stored.values():
        bytes_of[item.dtype] = bytes_of.get(item.dtype, 0) + item.size
    most = max(bytes_of, key=lambda name: bytes_of[name])
    return next((name for name, short in tensors.DTYPE_NAMES.items() if short == most), most)


def quantized_layers(facts: ModelFacts) -> dict[str, int]:
    """The weights of each layer that is quantized, by the layer's name.

    transformers leaves out the layer whose weights are tied, and the last one: ``lm_head`` in most models
    (``transformers.quantizers.base.get_keys_to_not_convert``).
    """
    tied = {name.rpartition(".")[0] for name in (*facts.tied, *facts.tied.values())}
    last = next(reversed(list(facts.parameters)), "").rpartition(".")[0]
    return {
        name: math.prod(module.parameters["weight"])
        for name, module in facts.modules.items()
        if module.kind in QUANTIZED and "weight" in module.parameters and name not in {*tied, last}
    }


def nf4_bytes(weights: int) -> int:
    """Of a layer with so many ``weights`` in NF4 with double quantization, and its constants."""
    constants = math.ceil(weights / _BLOCK)
    return math.ceil(weights / 2) + constants + 4 * math.ceil(constants / _SECOND_BLOCK) + _TABLES


def nf4_saves(weights: int, dtype: str) -> int:
    """Bytes that NF4 saves of a layer with so many ``weights`` of ``dtype``; below zero for a very small layer."""
    bits = tensors.DTYPE_BITS[tensors.DTYPE_NAMES.get(dtype, "BF16")]
    return weights * bits // 8 - nf4_bytes(weights)


@lru_cache(16)
def _cache(config: bytes, tokens: int | None) -> int | None:
    """Bytes of the cache after ``tokens`` tokens, as transformers fills it in passes without numbers (the meta device).

    Two short passes tell how much each tensor of the cache grows by the token, and in which layers a window ends that.
    """
    import torch

    from hubkit.models import meta

    if tokens is None:
        return None
    try:
        model = meta.build(config)
        with torch.no_grad(), torch.device("meta"):
            few, more = (
                model(torch.zeros((1, length), dtype=torch.long), use_cache=True).past_key_values.layers
                for length in (_FEW, _FEW + 1)
            )
        return sum(_grown(*layers, tokens) for layers in zip(few, more, strict=True)) or None
    except Exception:  # an architecture that needs numbers, or keeps something else: unknown, and nothing is wrong
        return None


def _grown(few: Any, more: Any, tokens: int) -> int:
    """Bytes of one layer's cache after ``tokens`` tokens, from those after :data:`_FEW` and after one more."""
    window = getattr(few, "sliding_window", None)
    tokens = min(tokens, window - 1) if window else tokens  # the cache holds the window but the token that comes next
    first, second = _bytes_held(few), _bytes_held(more)
    return first + (second - first) * (tokens - _FEW)


def _bytes_held(layer: Any) -> int:
    return sum(item.numel() * item.element_size() for item in vars(layer).values() if hasattr(item, "element_size"))
