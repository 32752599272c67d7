"""The arithmetic of the cost model: FLOPs, seconds and bytes. Pure functions; every constant names its source.

FLOPs of a forward pass: 2 for each parameter that a token is multiplied with, and attention (Kaplan et al. 2020,
arXiv:2001.08361, table 1; the form is that of llm-foundry's MFU: ``2 * n_params + 4 * layers * width * length`` for a
token). A backward pass costs as much again for the activations, and again for the weights that are trained (the 6 N of
Chinchilla, arXiv:2203.15556, appendix F). A frozen base needs no gradients of its weights: LoRA costs 4 N a token,
activation checkpointing 2 N more, the reference of DPO 2 N more.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from hubkit.models.model_size import BYTES as BYTES
from hubkit.models.model_size import NF4_BYTES as NF4_BYTES
from hubkit.models.model_size import OPTIMIZER_BYTES as OPTIMIZER_BYTES
from hubkit.models.model_size import ModelSize as ModelSize
from hubkit.models.model_size import activation_bytes as activation_bytes
from hubkit.models.model_size import logit_bytes as logit_bytes
from hubkit.models.model_size import optimizer_bytes as optimizer_bytes

LIBRARIES = 650_000_000
"""Bytes of Python with PyTorch, TRL and PEFT in a training of the tiny recipe on a CPU; about a CUDA context's, too."""
SPREAD = 0.55
"""Standard deviation of the logarithm of row lengths, assumed. With it a batch of 4 pairs in random order is padded to
1.98 times its tokens, as was measured on lognormal lengths."""


# --- rows


@lru_cache(maxsize=64)
def padding(sequences: int) -> float:
    """How many times its tokens a batch of ``sequences`` rows takes when all are padded to the longest.

    Expected maximum over mean of lognormal lengths (:data:`SPREAD`): 1 for one row, and more the more rows.
    """
    if sequences <= 1:
        return 1.0
    grid = [index / 200 for index in range(-1000, 1001)]
    mean = math.exp(SPREAD**2 / 2)
    return (
        sum(
            math.exp(SPREAD * (low + high) / 2) * (_normal(high) ** sequences - _normal(low) ** sequences)
            for low, high in pairwise(grid)
        )
        / mean
    )


def _normal(value: float) -> float:
    return (1 + math.erf(value / math.sqrt(2))) / 2


# --- memory


@dataclass(frozen=True)
class Memory:
    """Bytes on the device at the worst moment of a step, by what they hold."""

    weights: int = 0
    adapter: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    cache: int = 0
    libraries: int = LIBRARIES

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())

    def times(self, processes: int) -> Memory:
        """That of several processes in one memory."""
        return Memory(**{name: value * processes for name, value in asdict(self).items()})

    def to_json(self) -> dict[str, Any]:
        """The parts and their sum."""
        return {**asdict(self), "total": self.total}


def training_memory(
    size: ModelSize,
    *,
    dtype: str,
    quantized: bool,
    trained: int,
    optimizer: str,
    tokens: float,
    checkpointing: bool,
    full: bool = False,
    reference: bool = False,
) -> Memory:
    """Of a training step on ``tokens`` tokens. Adapter, gradients and optimizer are in float32, as hubkit trains.

    ``full``: all the weights are trained, in float32, and autocast holds them once more in a narrower ``dtype``;
    ``reference``: DPO holds the start weights beside them. Logits are in tiles of 4,096 tokens and 32,768 words, in the
    model's type and once in float32.
    """
    return Memory(
        weights=_full_weights(size, dtype, reference) if full else size.bytes("nf4" if quantized else dtype),
        adapter=0 if full else 4 * trained,
        gradients=4 * trained,
        optimizer=math.ceil(optimizer_bytes(optimizer) * trained),
        activations=activation_bytes(size, tokens, dtype, checkpointing=checkpointing),
        logits=logit_bytes(size, tokens, dtype),
    )


def _full_weights(size: ModelSize, dtype: str, reference: bool) -> int:
    cast = size.bytes(dtype) if BYTES[dtype] < BYTES["float32"] else 0
    return size.bytes("float32") + cast + (size.bytes(dtype) if reference else 0)


def generation_memory(size: ModelSize, weights: int, batch: int, prompt: int, new: int, dtype: str) -> Memory:
    """Of a generation of ``new`` tokens after ``batch`` prompts: the keys and values of every token are kept."""
    width = BYTES[dtype]
    return Memory(
        weights=weights,
        cache=batch * (prompt + new) * size.layers * size.cached * width,
        activations=batch * prompt * (2 * size.hidden + 2 * size.intermediate) * width,
        logits=batch * size.vocabulary * (width + 4),
    )


def scoring_memory(size: ModelSize, weights: int, batch: int, length: int, dtype: str) -> Memory:
    """Of lm-eval's log-likelihoods: the logits of the whole batch, and their log-softmax in float32."""
    width = BYTES[dtype]
    return Memory(
        weights=weights,
        activations=batch * length * (2 * size.hidden + 2 * size.intermediate) * width,
        logits=batch * length * size.vocabulary * (width + 4),
    )
