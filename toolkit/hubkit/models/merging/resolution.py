"""What an adapter changes of its base, as PEFT resolves it: names, ranks, scalings, what is tied to what.

The model is built on PyTorch's meta device, where tensors have shapes and no numbers, and PEFT puts the adapter on it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hubkit.core.errors import RefusedError
from hubkit.models import meta
from hubkit.models.merging.checkpoint_names import Layout, layout

PREFIX = "base_model.model."
_ADAPTER = "default"
Kind = Literal["linear", "embedding", "experts", "saved", "tokens"]


@dataclass(frozen=True)
class Claim:
    """A parameter of the model that the adapter changes, and the adapter's tensors for it by their role.

    ``names`` are all its names in the model: two when it is tied. ``saved_as``: what the trained copy of a module in
    ``modules_to_save`` is; two claims with the same one are one tensor.
    """

    kind: Kind
    module: str
    parameter: str
    tensors: Mapping[str, str]
    rank: int = 0
    scaling: float = 0.0
    transposed: bool = False
    experts: int = 1
    indices: tuple[int, ...] = ()
    saved_as: int = 0


@dataclass(frozen=True)
class Resolution:
    """``claims`` of the adapter on the model, and where the base's files have its parameters.

    ``groups``: the names of tied parameters, by each of them. ``embeddings``: the parameters of the input and output
    embeddings, those that may be resized.
    """

    claims: tuple[Claim, ...]
    layout: Layout
    groups: Mapping[str, tuple[str, ...]]
    embeddings: frozenset[str]

    def names(self, parameter: str) -> tuple[str, ...]:
        """All the names of ``parameter``."""
        return self.groups.get(parameter, (parameter,))


def resolve(
    settings: Mapping[str, Any], config: Mapping[str, Any], checkpoint: Mapping[str, tuple[int, ...]]
) -> Resolution:
    """What PEFT makes of an adapter with ``settings`` on the model of ``config`` (config.json).

    ``checkpoint``: the shapes of the base's tensors by name.

    RefusedError, in PEFT's words, when it does not accept them, or transformers the config.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    model = meta.build(json.dumps(config).encode())
    groups, places = _groups(model), layout(model, checkpoint)
    parts = {name: getattr(model, name)() for name in ("get_input_embeddings", "get_output_embeddings")}
    ends = {id(item) for part in parts.values() if part is not None for item in part.parameters()}
    embeddings = {name for name, item in model.named_parameters(remove_duplicate=False) if id(item) in ends}
    known = {key: value for key, value in settings.items() if key in LoraConfig.__dataclass_fields__}
    dropped = ("auto_mapping", "runtime_config", "eva_config", "corda_config", "loftq_config", "lora_ga_config")
    wanted = {key: value for key, value in known.items() if key not in {"peft_type", *dropped}}
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            made = LoraConfig(**{**wanted, "task_type": "CAUSAL_LM", "init_lora_weights": False})
            wrapped = get_peft_model(model, made)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        words = " ".join(str(error).split())[:300].rstrip(". ")
        raise RefusedError(
            f"PEFT cannot put this adapter on the base: {words}.", hint="Was it trained on another base?"
        ) from error
    return Resolution(tuple(_claims(wrapped.base_model.model)), places, groups, frozenset(embeddings))


def _groups(model: Any) -> dict[str, tuple[str, ...]]:
    """The names of tied parameters, by each of them."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}


def _claims(model: Any) -> Iterator[Claim]:
    """The parameters that the adapter on ``model`` changes, in the order of its modules."""
    from peft.tuners.lora.layer import LoraLayer
    from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

    inside: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if any(name.startswith(f"{outer}.") for outer in inside):
            continue
        if isinstance(module, LoraLayer) and _ADAPTER in module.r:
            yield _lora(name, module)
        elif isinstance(module, ModulesToSaveWrapper) and _ADAPTER in module.modules_to_save:
            inside.append(name)
            for key, item in module.modules_to_save[_ADAPTER].named_parameters(remove_duplicate=False):
                yield Claim("saved", name, f"{name}.{key}", {"source": f"{PREFIX}{name}.{key}"}, saved_as=id(item))
        elif isinstance(module, TrainableTokensWrapper):
            inside.append(name)
            adapter = module.token_adapter
            yield Claim(
                "tokens",
                name,
                f"{name}.weight",
                {} if adapter.tied_adapter else {"source": f"{PREFIX}{name}.token_adapter.trainable_tokens_delta"},
                indices=tuple(adapter.token_indices[_ADAPTER]),
            )


def _lora(name: str, module: Any) -> Claim:
    import torch
    from peft.tuners.lora.layer import Embedding, ParamWrapper

    own = f"{PREFIX}{name}"
    bare = name.replace(".base_layer", "")
    embedding, experts = isinstance(module, Embedding), isinstance(module, ParamWrapper)
    parameter = module.parameter_name if experts else "weight"
    if embedding:
        tensors = {"a": f"{own}.lora_embedding_A", "b": f"{own}.lora_embedding_B"}
    else:
        tensors = {"a": f"{own}.lora_A.weight", "b": f"{own}.lora_B.weight"}
    if module.use_dora.get(_ADAPTER):
        tensors["magnitude"] = f"{own}.lora_magnitude_vector"
    if module.lora_bias.get(_ADAPTER):
        tensors["bias"] = f"{own}.lora_B.bias"
    layer = module.get_base_layer()
    if not embedding and not experts and not isinstance(layer, torch.nn.Linear) and not module.fan_in_fan_out:
        raise NotLocalError(f"{bare} is a {type(layer).__name__}")
    stacked = experts and getattr(layer, parameter).ndim == 3
    return Claim(
        "experts" if stacked else "embedding" if embedding else "linear",
        bare,
        f"{bare}.{parameter}",
        tensors,
        rank=module.r[_ADAPTER],
        scaling=module.scaling[_ADAPTER],
        transposed=not module._did_swap_in_out_features if stacked else embedding or bool(module.fan_in_fan_out),
        experts=module.num_experts if stacked else 1,
    )


class NotLocalError(Exception):
    """A change that is not made of one tensor of the base: PEFT itself must merge it. The message says which."""
