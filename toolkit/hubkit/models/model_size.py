"""How large a model is, and the bytes that training it takes: activations, logits, state of the optimizer.

Pure arithmetic on what a base's config.json says; every constant names its source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

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


def logit_bytes(size: ModelSize, tokens: float, dtype: str) -> int:
    """Bytes of the logits of ``tokens`` tokens: TRL keeps a tile of them, in the model's type and once in float32."""
    return math.ceil(min(tokens, TILE_TOKENS) * min(size.vocabulary, TILE_WORDS) * (BYTES[dtype] + 4))
