"""Which tensors of a checkpoint hold a model's parameters: transformers renames, stacks and joins them as it loads.

transformers 5 keeps the experts of a mixture in one parameter, where most checkpoints have a tensor for each expert.
Source: transformers 5, core_model_loading.py (``convert_and_load_state_dict_in_model``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """A tensor of the checkpoint with a whole parameter, or with the rows from ``first`` on of its ``expert``."""

    name: str
    shape: Shape
    expert: int | None = None
    first: int = 0


@dataclass(frozen=True)
class Layout:
    """``parts`` of each parameter by its name in the model; ``mixed`` are those that are kept in another way.

    ``names``: the name under which transformers looks for a parameter that the checkpoint lacks.
    """

    parts: Mapping[str, tuple[Part, ...]]
    mixed: frozenset[str]


def layout(model: Any, checkpoint: Mapping[str, Shape]) -> Layout:
    """Where ``model`` (on the meta device) finds its parameters in ``checkpoint``, the shapes by tensor name."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    parameters = model.state_dict()
    transforms = get_model_conversion_mapping(model)
    renamings = [item for item in transforms if isinstance(item, WeightRenaming)]
    converters = [item for item in transforms if isinstance(item, WeightConverter)]
    by_pattern = {pattern: item for item in converters for pattern in item.source_patterns}
    found: dict[str, dict[str | None, list[str]]] = {}
    for name in sorted(checkpoint, key=dot_natural_key):
        key, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, parameters)
        if key not in parameters and name in parameters:
            key, pattern = rename_source_key(name, [], [], model.base_model_prefix, parameters)
        found.setdefault(key, {}).setdefault(pattern, []).append(name)
    parts: dict[str, tuple[Part, ...]] = {}
    mixed: set[str] = set()
    for key, names in found.items():
        if set(names) == {None}:
            parts[key] = tuple(Part(name, checkpoint[name]) for name in names[None])
            continue
        converter = by_pattern[next(pattern for pattern in names if pattern is not None)]
        stacked = _stacked(converter, names, checkpoint)
        if stacked and key in parameters and _fits(stacked, tuple(parameters[key].shape)):
            parts[key] = stacked
        else:
            first, *_ = converter.target_patterns
            mixed |= {key.replace(first, target) for target in converter.target_patterns}
    return Layout(parts, frozenset(mixed))


def _stacked(
    converter: Any, names: Mapping[str | None, list[str]], checkpoint: Mapping[str, Shape]
) -> tuple[Part, ...] | None:
    """The parts of [expert, rows, width] made of matrices: one for each expert, or several above each other."""
    operations = [(type(item).__name__, getattr(item, "dim", None)) for item in converter.operations]
    if operations not in ([("MergeModulelist", 0)], [("MergeModulelist", 0), ("Concatenate", 1)]):
        return None
    if None in names or len(converter.target_patterns) != 1:
        return None
    parts: list[Part] = []
    first = 0
    for pattern in converter.source_patterns:
        own = names.get(pattern, [])
        if not own or len({checkpoint[name] for name in own}) != 1 or len(checkpoint[own[0]]) != 2:
            return None
        parts += [Part(name, checkpoint[name], expert, first) for expert, name in enumerate(own)]
        first += checkpoint[own[0]][0]
    return tuple(parts)


def _fits(parts: tuple[Part, ...], shape: Shape) -> bool:
    return sum(math.prod(part.shape) for part in parts) == math.prod(shape) and len(shape) == 3
