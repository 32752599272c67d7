"""The arithmetic of the cost model: FLOPs, seconds and bytes. Pure functions; every constant names its source.

FLOPs of a forward pass: 2 for each parameter that a token is multiplied with, and attention (Kaplan et al. 2020,
arXiv:2001.08361, table 1; the form is that of llm-foundry's MFU: ``2 * n_params + 4 * layers * width * length`` for a
token). A backward pass costs as much again for the activations, and again for the weights that are trained (the 6 N of
Chinchilla, arXiv:2203.15556, appendix F). A frozen base needs no gradients of its weights: LoRA costs 4 N a token,
activation checkpointing 2 N more, the reference of DPO 2 N more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from hubkit.models.facts import ModelFacts

BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by PyTorch's name of its type."""
NF4_BYTES = 0.5 + 0.127 / 8
"""Of a weight in NF4 with double quantization: 4 bits and 0.127 bits of constants (QLoRA, arXiv:2305.14314, 3)."""
OPTIMIZER_BYTES: tuple[tuple[str, float], ...] = (
    ("adamw_8bit", 2),
    ("adamw_bnb_8bit", 2),
    ("paged_adamw_8bit", 2),
    ("ademamix_8bit", 3),
    ("lion_8bit", 1),
    ("paged_lion_8bit", 1),
    ("lion", 4),
    ("sgd", 4),
    ("adafactor", 0.1),
)
"""Bytes of optimizer state for each trained parameter, by the name of the optimizer; 8 (two float32) for others."""
TILE_TOKENS, TILE_WORDS = 4096, 32_768
"""TRL 1.16 computes log-probabilities from tiles of the logits (``trl/kernels/chunked_logprob.py``)."""
LIBRARIES = 650_000_000
"""Bytes of Python with PyTorch, TRL and PEFT in a training of the tiny recipe on a CPU; about a CUDA context's, too."""
SPREAD = 0.55
"""Standard deviation of the logarithm of row lengths, assumed. With it a batch of 4 pairs in random order is padded to
1.98 times its tokens, as was measured on lognormal lengths."""


@dataclass(frozen=True)
class ModelSize:
    """What the formulas need of a model. ``multiplied`` are the parameters that a token is multiplied with in one pass,
    ``linear`` those that NF4 stores in 4 bits; ``attention`` and ``cached`` are the widths of queries and of keys and
    values together.
    """

    parameters: int
    multiplied: int
    linear: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    attention: int
    cached: int

    @classmethod
    def of(cls, facts: ModelFacts) -> ModelSize:
        """From the model that transformers builds. ValueError when its config has no number of layers or widths."""
        layers, hidden, vocabulary = facts.layers, facts.hidden, facts.vocabulary
        if not layers or not hidden or not vocabulary:
            raise ValueError(f"the config of {facts.architecture} has no number of layers, width or vocabulary")
        looked_up = sum(
            math.prod(shape)
            for module in facts.modules.values()
            if module.kind.endswith("Embedding")
            for shape in module.parameters.values()
        )
        heads, head = facts.heads or 1, facts.head_dim or hidden // (facts.heads or 1)
        return cls(
            parameters=facts.count,
            multiplied=facts.active - looked_up + (vocabulary * hidden if facts.ties_embeddings else 0),
            linear=sum(
                math.prod(shape)
                for name, module in facts.modules.items()
                if module.kind in {"Linear", "Conv1D"} and not name.endswith(("lm_head", "embed_out"))
                for shape in module.parameters.values()
                if len(shape) == 2
            ),
            layers=layers,
            hidden=hidden,
            intermediate=facts.intermediate or 4 * hidden,
            vocabulary=vocabulary,
            attention=heads * head,
            cached=2 * (facts.key_value_heads or heads) * head,
        )

    def bytes(self, dtype: str) -> int:
        """Of the weights in ``dtype``; 'nf4' is NF4 for the linear layers and 16 bits for the rest."""
        if dtype == "nf4":
            return math.ceil(self.linear * NF4_BYTES + 2 * (self.parameters - self.linear))
        return self.parameters * BYTES[dtype]

    def forward(self, tokens: float, length: float) -> float:
        """FLOPs of one forward pass over ``tokens`` tokens in sequences of ``length``."""
        return tokens * (2 * self.multiplied + 4 * self.layers * self.attention * length)


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

    def to_json(self) -> dict[str, Any]:
        """The parts and their sum."""
        return {**asdict(self), "total": self.total}


def optimizer_bytes(name: str) -> float:
    """Bytes of state of the optimizer ``name`` (transformers' ``optim``) for each trained parameter."""
    return next((size for known, size in OPTIMIZER_BYTES if name.startswith(known)), 8.0)


def activation_bytes(size: ModelSize, tokens: float, dtype: str, *, checkpointing: bool) -> int:
    """Bytes of what a backward pass needs of a forward pass over ``tokens`` tokens of a LoRA model.

    A layer keeps the inputs of its linear layers, of LoRA's and of its nonlinear operations, norms in float32, scores
    of attention not at all (SDPA; after Korthikanti et al. 2022, arXiv:2205.05198, section 4, for layers with a gate).
    With checkpointing each layer keeps its input alone, and one layer at a time is computed again. Compared with
    SmolLM2-135M in float32, DPO of 1,536 tokens without checkpointing: 6.0 GB measured, 5.1 GB computed.
    """
    width = BYTES[dtype]
    layer = width * (10 * size.hidden + 3 * size.attention + 2 * size.cached + 6 * size.intermediate) + 8 * size.hidden
    kept = size.layers * size.hidden * width + layer if checkpointing else size.layers * layer
    return math.ceil(tokens * kept)


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
    tile = min(tokens, TILE_TOKENS) * min(size.vocabulary, TILE_WORDS)
    return Memory(
        weights=_full_weights(size, dtype, reference) if full else size.bytes("nf4" if quantized else dtype),
        adapter=0 if full else 4 * trained,
        gradients=4 * trained,
        optimizer=math.ceil(optimizer_bytes(optimizer) * trained),
        activations=activation_bytes(size, tokens, dtype, checkpointing=checkpointing),
        logits=math.ceil(tile * (BYTES[dtype] + 4)),
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
