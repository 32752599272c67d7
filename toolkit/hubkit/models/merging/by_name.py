"""What the usual adapter changes, told by its tensors' names alone: LoRA and DoRA on the linear layers of known models.

It needs neither transformers nor PEFT, which take seconds to import. Everything else goes through
:mod:`hubkit.models.merging.resolution`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.models.merging.changes import Change, ReplacedTensor, ShiftedBias
from hubkit.models.merging.low_rank import Dora, LowRank
from hubkit.models.merging.support import BY_PEFT
from hubkit.models.tensors import Header

PREFIX = "base_model.model."
Shape = tuple[int, ...]
_KNOWN = frozenset({"gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3"})
"""``model_type`` of models whose layers are all ``nn.Linear``, each a tensor of the same name in the checkpoint."""
_PARTS = re.compile(
    r"(?P<module>(?:[A-Za-z_]\w*\.)+\d+\.[\w.]+?)\."
    r"(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_magnitude_vector|(?:base_layer\.)?bias)"
)
"""A tensor of a module in a numbered layer: never an embedding, so never tied to another."""
_NEEDS_THE_MODEL = ("fan_in_fan_out", "modules_to_save", "target_parameters", "trainable_token_indices")


def changes_by_name(
    settings: Mapping[str, Any], header: Header, base: Mapping[str, Shape], model_type: str
) -> dict[str, Change] | None:
    """The changes by the base's tensor name; None when names do not tell. ``base``: its shapes by tensor name.

    RefusedError when the adapter does not fit the base.
    """
    if model_type not in _KNOWN or any(settings.get(key) for key in _NEEDS_THE_MODEL):
        return None
    if any(settings.get(key) for key in BY_PEFT):
        return None
    modules: dict[str, dict[str, str]] = {}
    for name in header.tensors:
        parts = _PARTS.fullmatch(name.removeprefix(PREFIX))
        if parts is None:
            return None
        modules.setdefault(parts["module"], {})[parts["part"]] = name
    changes: dict[str, Change] = {}
    for module, tensors in modules.items():
        changes |= _module(module, tensors, settings, header, base)
    return changes


def _module(
    module: str, tensors: Mapping[str, str], settings: Mapping[str, Any], header: Header, base: Mapping[str, Shape]
) -> dict[str, Change]:
    changes: dict[str, Change] = {}
    trained = tensors.get("bias") or tensors.get("base_layer.bias")
    scaling = 0.0
    if rest := set(tensors) - {"bias", "base_layer.bias"}:
        needed = {"lora_A.weight", "lora_B.weight"} | ({"lora_magnitude_vector"} if settings.get("use_dora") else set())
        if rest != needed | ({"lora_B.bias"} if settings.get("lora_bias") else set()):
            raise RefusedError(f"The adapter has only {', '.join(sorted(rest))} for {module}.")
        a, b = header.tensors[tensors["lora_A.weight"]], header.tensors[tensors["lora_B.weight"]]
        rank = of_pattern(settings.get("rank_pattern"), module, settings["r"])
        alpha = of_pattern(settings.get("alpha_pattern"), module, settings["lora_alpha"])
        if len(a.shape) != 2 or len(b.shape) != 2 or not a.shape[0] == b.shape[1] == rank:
            raise RefusedError(
                f"The adapter's tensors for {module} have shapes {a.shape} and {b.shape}, not rank {rank}."
            )
        scaling = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
        names, shape = (tensors["lora_A.weight"], tensors["lora_B.weight"]), (b.shape[0], a.shape[1])
        if settings.get("use_dora"):
            magnitude = tensors["lora_magnitude_vector"]
            if math.prod(header.tensors[magnitude].shape) != shape[0]:
                raise RefusedError(f"The adapter's magnitudes for {module} are not {shape[0]} numbers.")
            changes[f"{module}.weight"] = Dora(module, *names, magnitude, scaling, False, shape)
        else:
            changes[f"{module}.weight"] = LowRank(module, *names, scaling, False, shape)
    bias = tensors.get("lora_B.bias")
    if bias:
        changes[f"{module}.bias"] = ShiftedBias(module, bias, scaling, header.tensors[bias].shape, frozen=trained)
    elif trained:
        changes[f"{module}.bias"] = ReplacedTensor(module, trained, header.tensors[trained].shape, expected=False)
    for name, change in changes.items():
        check_shape(name, change.shape, base.get(name))
    return changes


def of_pattern(pattern: Mapping[str, Any] | None, module: str, otherwise: float) -> Any:
    """The value for ``module``: the first key that matches its end (``peft.utils.get_pattern_key``)."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def check_shape(name: str, shape: Shape, there: Shape | None) -> None:
    """Refuse a change that makes ``shape`` of the base's tensor ``name``, which has the shape ``there``."""
    if there is None:
        raise RefusedError(
            f"The adapter changes {name}, which the base does not have.",
            hint="It was trained on another base, or this architecture's files use other names.",
        )
    if shape != there:
        raise RefusedError(
            f"The adapter's change to {name} has the shape {shape}, the base's tensor {there}.",
            hint="It was trained on another base, or on one whose embeddings were resized.",
        )
