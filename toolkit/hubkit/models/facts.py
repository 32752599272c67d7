"""What a base's config.json and a LoRA config say about the model that would be trained, as plain data.

:mod:`hubkit.models.meta` finds it out with transformers and PEFT; this module imports neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Shape = tuple[int, ...]
TargetKind = Literal["linear", "conv1d", "embedding", "parameter", "other"]


@dataclass(frozen=True)
class ModuleFacts:
    """A module that has parameters of its own: its class (``Linear``, ``MixtralExperts``) and their shapes by name."""

    kind: str
    parameters: Mapping[str, Shape]


@dataclass(frozen=True)
class ModelFacts:
    """A model as transformers builds it from config.json, without its weights.

    ``parameters`` has each tensor once, under the name that transformers lists first; ``tied`` maps the other names of
    tied tensors to it. ``dtype`` is that of config.json (float32 when it names none), ``quantization`` the method of a
    quantized checkpoint. ``positions`` is the longest sequence that config.json states. ``experts`` and
    ``experts_per_token`` are those of a mixture-of-experts model; ``balances_experts`` says that it can return its
    router logits. The two embeddings are names of modules.
    """

    architecture: str
    model_type: str
    dtype: str
    parameters: Mapping[str, Shape]
    tied: Mapping[str, str]
    modules: Mapping[str, ModuleFacts]
    layers: int | None = None
    hidden: int | None = None
    intermediate: int | None = None
    vocabulary: int | None = None
    heads: int | None = None
    key_value_heads: int | None = None
    head_dim: int | None = None
    positions: int | None = None
    experts: int | None = None
    experts_per_token: int | None = None
    quantization: str | None = None
    input_embeddings: str | None = None
    output_embeddings: str | None = None
    balances_experts: bool = False

    @property
    def count(self) -> int:
        """The number of parameters, tied ones once."""
        return sum(math.prod(shape) for shape in self.parameters.values())

    @property
    def count_in_experts(self) -> int:
        """The number of parameters in the stacked weights of experts (three dimensions, the first one the expert)."""
        if not self.experts:
            return 0
        return sum(
            math.prod(shape) for shape in self.parameters.values() if len(shape) == 3 and shape[0] == self.experts
        )

    @property
    def active(self) -> int:
        """The number of parameters that one token uses: all, but of the experts only those that it is sent to."""
        if not self.experts or not self.experts_per_token:
            return self.count
        return self.count - self.count_in_experts * (self.experts - self.experts_per_token) // self.experts

    @property
    def ties_embeddings(self) -> bool:
        """Whether input and output embeddings are one tensor."""
        return bool(self.tied)


@dataclass(frozen=True)
class Target:
    """A weight that gets a LoRA pair: ``parameter`` of ``module``, with its shape as the base keeps it."""

    module: str
    parameter: str
    kind: TargetKind
    shape: Shape
    rank: int


@dataclass(frozen=True)
class AdapterFacts:
    """What PEFT makes of a LoRA config on one model.

    ``trained`` are all tensors that get a gradient, by their names in the PEFT model. ``in_full`` are base tensors
    that are trained themselves (``modules_to_save``, ``bias``). ``unmatched`` are entries of the config that match
    nothing (``target_modules: q_prj``). ``settings`` is what adapter_config.json would hold, with the targets as PEFT
    resolved them. ``warnings`` are PEFT's own.
    """

    targets: tuple[Target, ...]
    trained: Mapping[str, Shape]
    in_full: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def trainable(self) -> int:
        """The number of parameters that are trained."""
        return sum(math.prod(shape) for shape in self.trained.values())
