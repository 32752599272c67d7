"""The model of a base's config.json on PyTorch's meta device, where tensors have shapes and no numbers.

transformers builds it, PEFT resolves a LoRA config against it: so what a recipe trains is known before any weight is
read. Nothing is downloaded, and code of a model repo never runs.

    model = build(config_json)                          # seconds for any size; RefusedError: not a base to train
    facts, adapter = describe(model), resolve(config_json, {"r": 16, "target_modules": "all-linear"})

It imports torch, transformers and PEFT: a command that has not asks a child of its own.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.bounded_json import SETTINGS, JsonError, load_json
from hubkit.core.errors import HubkitError, RefusedError
from hubkit.models.facts import AdapterFacts, ModelFacts, ModuleFacts, Shape, Target, TargetKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft import LoraConfig

_MOST_LAYERS = 1000
"""More than any model has: building one takes time and memory by the layer."""
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_local_experts", "num_experts")


class UnknownError(HubkitError):
    """Something that needs the numbers of the weights: nothing is wrong, and nothing is known."""


def build(config: bytes) -> Any:
    """The causal language model of ``config`` (a config.json) on the meta device.

    RefusedError, whose sentence is about "the base", when transformers cannot build it as it is; UnknownError when it
    needs numbers for that.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = _settings(config)
    with tempfile.TemporaryDirectory(prefix="hubkit-") as folder, _quiet():
        (Path(folder) / "config.json").write_bytes(config)
        try:
            loaded = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # each architecture's own config class raises what it likes
            raise _not_built(settings, error) from error
        if type(loaded) not in AutoModelForCausalLM._model_mapping or others_of(loaded):
            raise _not_text(loaded)
        try:
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(
                    loaded, dtype=getattr(loaded, "dtype", None) or torch.float32, trust_remote_code=False
                )
        except Exception as error:
            raise _unknown(error) or _not_built(settings, error) from error


def _unknown(error: Exception) -> UnknownError | None:
    """``error`` as one about the meta device alone; None for any other."""
    if "meta tensor" not in str(error):
        return None
    return UnknownError(f"this cannot be found out without the weights: {_clause(error)}")


def others_of(config: Any) -> tuple[str, ...]:
    """The parts of a multimodal model's ``config`` other than its text model: ('vision_config',)."""
    return tuple(
        name
        for name in getattr(config, "sub_configs", None) or {}
        if getattr(config, name, None) is not None and not name.startswith(("text", "decoder"))
    )


def _settings(config: bytes) -> dict[str, Any]:
    try:
        settings = load_json(config, SETTINGS)
    except JsonError as error:
        raise RefusedError(f"The base's config.json {error}.", hint="Use another base.") from error
    if not isinstance(settings, dict):
        raise RefusedError("The base's config.json is not a JSON object.", hint="Use another base.")
    for key in _LAYER_KEYS:
        if isinstance(number := settings.get(key), int) and number > _MOST_LAYERS:
            raise RefusedError(f"The base's config.json has {key}: {number}.", hint="Use another base.")
    return settings


def _not_built(settings: Mapping[str, Any], error: Exception) -> RefusedError:
    """Why transformers does not build a model of ``settings``."""
    name = settings.get("model_type")
    words = " ".join(str(error).split())
    if settings.get("auto_map") and ("custom code" in words or "trust_remote_code" in words):
        return RefusedError(
            f"The base needs code from its own repo ({name}), which hubkit never runs.",
            hint="Use a base that transformers supports itself.",
        )
    if not name:
        return RefusedError(
            "The base's config.json has no model_type.",
            hint="Use a base that transformers can load by its config.json.",
        )
    if isinstance(error, ImportError):
        return RefusedError(f"The base needs a package that is not installed: {words[:200]}", hint="Install it.")
    if "model type" in words and "does not recognize this architecture" in words:
        return RefusedError(
            f"The installed transformers does not know the base's model type {name!r}.",
            hint="Upgrade transformers, or use another base.",
        )
    return RefusedError(
        f"transformers cannot build the base from its config.json: {type(error).__name__}: {words[:200]}",
        hint="Use another base, or correct its config.json.",
    )


def _not_text(config: Any) -> RefusedError:
    others = [name.removesuffix("_config") for name in others_of(config)]
    if others:
        what = f"The base is a multimodal model ({config.model_type} with {' and '.join(others)})"
        return RefusedError(
            f"{what}; hubkit trains text models only.", hint="Use the text-only model of the same family as the base."
        )
    return RefusedError(
        f"The base is not a causal language model: its type is {config.model_type!r}.",
        hint="Use a model that AutoModelForCausalLM loads.",
    )


def describe(model: Any) -> ModelFacts:
    """The facts of ``model``, from the meta device or any other."""
    config = model.config.get_text_config()
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    parameters: dict[str, Shape] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            tied[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
            parameters[name] = tuple(parameter.shape)
    modules = {
        name: ModuleFacts(type(module).__name__, own)
        for name, module in model.named_modules()
        if (own := {key: tuple(item.shape) for key, item in module.named_parameters(recurse=False)})
    }
    quantized = getattr(model.config, "quantization_config", None)
    if quantized is not None and not isinstance(quantized, Mapping):
        quantized = vars(quantized)
    return ModelFacts(
        architecture=type(model).__name__,
        model_type=model.config.model_type,
        dtype=str(getattr(model.config, "dtype", None) or "float32").removeprefix("torch."),
        parameters=parameters,
        tied=tied,
        modules=modules,
        layers=_number(config, "num_hidden_layers"),
        hidden=_number(config, "hidden_size"),
        intermediate=_number(config, "intermediate_size", "n_inner", "ffn_dim"),
        vocabulary=_number(config, "vocab_size"),
        heads=(heads := _number(config, "num_attention_heads")),
        key_value_heads=_number(config, "num_key_value_heads") or heads,
        head_dim=_number(config, "head_dim") or _head_dim(config),
        positions=_number(config, "max_position_embeddings"),
        experts=_number(config, "num_local_experts", "num_experts", "n_routed_experts"),
        experts_per_token=_number(config, "num_experts_per_tok", "num_experts_per_token"),
        quantization=str(quantized.get("quant_method", "unknown")) if quantized else None,
        input_embeddings=_name_of(model, model.get_input_embeddings()),
        output_embeddings=_name_of(model, model.get_output_embeddings()),
        balances_experts=hasattr(config, "output_router_logits"),
    )


def _name_of(model: Any, wanted: Any) -> str | None:
    return next((name for name, module in model.named_modules() if module is wanted), None)


def _number(config: Any, *names: str) -> int | None:
    return next((value for name in names if type(value := getattr(config, name, None)) is int), None)


def _head_dim(config: Any) -> int | None:
    hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    return hidden // heads if hidden and heads else None


def resolve(config: bytes, lora: Mapping[str, Any]) -> AdapterFacts:
    """What PEFT makes of ``lora`` (keys of LoraConfig) on the model of ``config``.

    RefusedError with PEFT's own words where PEFT refuses it; UnknownError as for :func:`build`.
    """
    from peft import get_peft_model

    wanted = _lora_config({"task_type": "CAUSAL_LM", **lora})
    start, wanted.init_lora_weights = wanted.init_lora_weights, False  # how they start needs numbers
    model = build(config)
    unmatched = _unmatched(model, lora)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            wrapped = get_peft_model(model, wanted)
        except Exception as error:  # PEFT's tuners raise what they like
            raise _unknown(error) or RefusedError(f"PEFT refuses it: {_clause(error)}.") from error
    kept = replace(wrapped.peft_config["default"], init_lora_weights=start, base_model_name_or_path=None)
    trained = {name: tuple(item.shape) for name, item in wrapped.named_parameters() if item.requires_grad}
    in_full = tuple(
        names[id(item)] for item in wrapped.parameters() if item.requires_grad and id(item) in names
    ) + tuple(_saved(wrapped))
    return AdapterFacts(
        targets=tuple(_targets(wrapped)),
        trained=trained,
        in_full=tuple(dict.fromkeys(in_full)),
        unmatched=unmatched,
        settings=json.loads(json.dumps(kept.to_dict(), default=_plain)),
        warnings=tuple(dict.fromkeys(_clause(item.message) for item in caught if _about(item, lora))),
    )


def _plain(value: object) -> Any:
    """A value of a LoRA config that JSON does not have."""
    return (
        sorted(value)
        if isinstance(value, set | frozenset)
        else vars(value)
        if hasattr(value, "__dict__")
        else str(value)
    )


def _about(warning: warnings.WarningMessage, lora: Mapping[str, Any]) -> bool:
    """Whether ``warning`` is about what ``lora`` says, not about PEFT's own code or the patterns that it added."""
    if issubclass(warning.category, FutureWarning | DeprecationWarning):
        return False
    pattern = next((key for key in ("rank_pattern", "alpha_pattern") if key in str(warning.message)), None)
    return pattern is None or bool(lora.get(pattern))


def _lora_config(lora: Mapping[str, Any]) -> LoraConfig:
    from peft import LoraConfig

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return LoraConfig(**lora)
    except (TypeError, ValueError, ImportError) as error:
        raise RefusedError(f"PEFT refuses it: {_clause(error)}.") from error


_PREFIX = "base_model.model."


def _targets(wrapped: Any) -> Iterator[Target]:
    """The weights that got a LoRA pair, in the order of the model."""
    from peft.tuners.lora.layer import LoraLayer

    for name, module in wrapped.named_modules():
        if not isinstance(module, LoraLayer) or "default" not in module.r:
            continue
        parameter = getattr(module, "parameter_name", None) or "weight"
        own, layer = name.removeprefix(_PREFIX).replace(".base_layer", ""), module.get_base_layer()
        kind: TargetKind = "parameter" if hasattr(module, "parameter_name") else _kind(layer)
        yield Target(own, parameter, kind, tuple(getattr(layer, parameter).shape), module.r["default"])


def _kind(layer: Any) -> TargetKind:
    import torch
    from transformers.pytorch_utils import Conv1D

    known: tuple[tuple[type, TargetKind], ...] = (
        (torch.nn.Linear, "linear"),
        (Conv1D, "conv1d"),
        (torch.nn.Embedding, "embedding"),
    )
    return next((kind for type_, kind in known if isinstance(layer, type_)), "other")


def _saved(wrapped: Any) -> Iterator[str]:
    """The base's tensors of which the adapter holds a whole copy (``modules_to_save``)."""
    from peft.utils.other import ModulesToSaveWrapper

    for name, module in wrapped.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            for key, _ in module.original_module.named_parameters():
                yield f"{name.removeprefix(_PREFIX)}.{key}"


def _unmatched(model: Any, lora: Mapping[str, Any]) -> tuple[str, ...]:
    """The entries of lists in ``lora`` that match no module and no parameter of ``model``."""
    modules = [name for name, _ in model.named_modules() if name]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    missing: list[str] = []
    for key, among in (("target_modules", modules), ("modules_to_save", modules), ("target_parameters", parameters)):
        entries = lora.get(key)
        for entry in entries if isinstance(entries, list | tuple) else ():
            if not _ends(among, entry) and not (key == "target_modules" and _is_fused(model, str(entry))):
                missing.append(f"{key}: {entry}")
    return tuple(missing)


def _ends(names: Iterable[str], entry: Any) -> bool:
    return any(name == entry or name.endswith(f".{entry}") for name in names)


def _is_fused(model: Any, entry: str) -> bool:
    """Whether PEFT replaces the target ``entry`` by a fused parameter (``w1`` of Mixtral's experts)."""
    from peft.utils.transformers_weight_conversion import (
        convert_peft_config_for_transformers,
        get_model_conversion_mapping,
    )

    alone = _lora_config({"target_modules": [entry]})
    try:
        convert_peft_config_for_transformers(alone, model=model, conversions=get_model_conversion_mapping(model))
    except ValueError:  # "cannot convert w1 without w3": it knows the name
        return True
    return bool(alone.target_parameters)


def _clause(problem: object) -> str:
    """``problem`` on one line, without a stop at its end, at most 300 characters."""
    return " ".join(str(problem).split())[:300].rstrip(". ")


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' own warnings about a config are not shown: what matters of it is checked."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


@dataclass(frozen=True)
class Answer:
    """What :func:`look` found: the model, and the adapters by the names under which they were asked for.

    A problem stands for what could not be made; the model's ends the rest.
    """

    model: ModelFacts | None
    problem: str | None
    adapters: Mapping[str, AdapterFacts]
    problems: Mapping[str, str]


def look(config: bytes, loras: Mapping[str, Mapping[str, Any]]) -> Answer:
    """Build and resolve in this process, which imports torch, transformers and PEFT."""
    try:
        model = facts_of(config)
    except HubkitError as error:
        return Answer(None, error.message, {}, {})
    adapters, problems = {}, {}
    for name, lora in loras.items():
        try:
            adapters[name] = adapter_of(config, json.dumps(lora, sort_keys=True))
        except HubkitError as error:
            problems[name] = error.message
    return Answer(model, None, adapters, problems)


@lru_cache(16)
def facts_of(config: bytes) -> ModelFacts:
    """The facts of the model of ``config``, remembered."""
    return describe(build(config))


@lru_cache(64)
def adapter_of(config: bytes, lora: str) -> AdapterFacts:
    """The result of :func:`resolve` for ``lora`` as JSON, remembered."""
    return resolve(config, json.loads(lora))
