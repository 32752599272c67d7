"""A LoRA adapter as PEFT saves it: its settings, and what it changes of its base, by the base's tensor names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubkit.core.bounded_json import SETTINGS, load_json
from hubkit.core.errors import RefusedError
from hubkit.models.merging.changes import Change, LowRank, ReplacedTensor, as_rows
from hubkit.models.tensors import Header, Tensor, read_header

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PARTS = re.compile(r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B)")
_TELLS_NOTHING = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    }
)
"""Keys of adapter_config.json that do not change what the saved tensors mean."""
_UNDERSTOOD = frozenset(
    {
        "alpha_pattern",
        "bias",
        "fan_in_fan_out",
        "init_lora_weights",
        "lora_alpha",
        "modules_to_save",
        "peft_type",
        "r",
        "rank_pattern",
        "use_rslora",
    }
)


@dataclass(frozen=True)
class Adapter:
    """``changes`` by the base's tensor name (a name that the base lacks is a new tensor, made from ``origin``);
    ``settings`` as in adapter_config.json; ``config``: what the merged model has otherwise in its config.json."""

    folder: Path
    settings: Mapping[str, Any]
    header: Header
    changes: Mapping[str, Change]
    config: Mapping[str, Any] = field(default_factory=dict)

    def load(self, name: str, start: int = 0, stop: int | None = None, *, device: str = "cpu") -> Any:
        """The adapter's tensor ``name`` in float32; of a part of its rows (see ``changes``) a matrix of these."""
        import torch

        tensor = self.header.tensors[name]
        rows, width = as_rows(tensor.shape)
        stop = rows if stop is None else min(stop, rows)
        row = tensor.size // rows if rows else 0
        with (self.folder / WEIGHTS).open("rb") as file:
            file.seek(tensor.start + start * row)
            body = bytearray(file.read((stop - start) * row))
        shape = tensor.shape if (start, stop) == (0, rows) else (stop - start, width)
        return torch.frombuffer(body, dtype=torch_dtype(tensor.dtype)).reshape(shape).to(device).float()


def torch_dtype(name: str) -> Any:
    """torch's dtype for safetensors' name of a float dtype; RefusedError for any other."""
    import torch

    known = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if name not in known:
        raise RefusedError(
            f"Weights in {name} cannot be merged.", hint="Use the model in float32, float16 or bfloat16."
        )
    return known[name]


def read_adapter(folder: Path) -> Adapter:
    """The adapter in ``folder``.

    Raises RefusedError when it is not a LoRA adapter in safetensors, or uses a feature that changes the meaning
    of its tensors in a way that is not understood here (DoRA, replicated layers, ...).
    """
    try:
        settings = load_json((folder / CONFIG).read_bytes(), SETTINGS)
    except (OSError, ValueError) as error:
        raise RefusedError(f"There is no readable {CONFIG} in {folder.name}: {error}.") from error
    if not (folder / WEIGHTS).is_file():
        raise RefusedError(f"There is no {WEIGHTS} in {folder.name}.", hint="Save the adapter as safetensors.")
    if problem := unmergeable(settings):
        raise RefusedError(
            f"This adapter cannot be merged here: {problem}.",
            hint="Merge it with PEFT's merge_and_unload, or train without this option.",
        )
    header = read_header(folder / WEIGHTS)
    return Adapter(folder, settings, header, _changes(settings, header))


def unmergeable(settings: Mapping[str, Any]) -> str | None:
    """Why an adapter with these ``settings`` (of adapter_config.json) cannot be merged here; None when it can."""
    if settings.get("peft_type") != "LORA":
        return f"it is a {settings.get('peft_type')} adapter, not LoRA"
    if settings.get("bias", "none") != "none":
        return f"it trains biases (bias: {settings['bias']})"
    if settings.get("init_lora_weights", True) not in {True, False, "gaussian", "eva", "orthogonal"}:
        return f"init_lora_weights: {settings['init_lora_weights']} changes the base's own weights"
    unknown = sorted(key for key, value in settings.items() if value and key not in _TELLS_NOTHING | _UNDERSTOOD)
    return f"it uses {unknown[0]}" if unknown else None


def _changes(settings: Mapping[str, Any], header: Header) -> dict[str, Change]:
    saved = tuple(settings.get("modules_to_save") or ())
    pairs: dict[str, dict[str, str]] = {}
    found: dict[str, Change] = {}
    for name in header.tensors:
        own = name.removeprefix(_PREFIX)
        parts = _PARTS.fullmatch(own)
        if parts:
            pairs.setdefault(parts["module"], {})[parts["part"].split(".")[0]] = name
        elif own.endswith(".base_layer.weight"):
            continue  # PEFT saves the frozen embedding along when the adapter sits on it
        elif saved and any(own[: dot.start()].endswith(saved) for dot in re.finditer(r"\.", own)):
            found[own] = ReplacedTensor(own.rpartition(".")[0], name, header.tensors[name].shape)
        else:
            raise RefusedError(f"The adapter's tensor {name!r} has an unsupported type.")
    for module, parts_of in pairs.items():
        found[f"{module}.weight"] = _low_rank(module, parts_of, settings, header)
    if not found:
        raise RefusedError("The adapter contains no tensors.", hint="It was saved without training.")
    return found


def _low_rank(module: str, parts: Mapping[str, str], settings: Mapping[str, Any], header: Header) -> LowRank:
    embedding = "lora_embedding_A" in parts
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    if set(parts) != set(names):
        raise RefusedError(f"The adapter has only {', '.join(sorted(parts))} for {module}.")
    a, b = (header.tensors[parts[name]] for name in names)
    rank = _of_pattern(settings.get("rank_pattern"), module, settings["r"])
    alpha = _of_pattern(settings.get("alpha_pattern"), module, settings["lora_alpha"])
    if len(a.shape) != 2 or len(b.shape) != 2 or not a.shape[0] == b.shape[1] == rank:
        raise RefusedError(f"The adapter's tensors for {module} have shapes {a.shape} and {b.shape}, not rank {rank}.")
    scaling = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
    transposed = embedding or bool(settings.get("fan_in_fan_out"))
    (_, into), (out, _) = a.shape, b.shape
    shape = (into, out) if transposed else (out, into)
    return LowRank(module, parts[names[0]], parts[names[1]], scaling, transposed, shape)


def _of_pattern(pattern: Mapping[str, Any] | None, module: str, otherwise: float) -> Any:
    """The value for ``module``: the first key that matches its end (``peft.utils.get_pattern_key``)."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def fit(adapter: Adapter, base: Mapping[str, Tensor], config: Mapping[str, Any]) -> Adapter:
    """``adapter`` with its changes by the names of ``base``, the base's tensors, whose config.json is ``config``.

    Raises RefusedError when it does not fit. When input and output embeddings are one tensor, a change to one would
    change the other too; it is refused.
    """
    heads = any(name.rsplit(".", 2)[-2:] in (["lm_head", "weight"], ["embed_out", "weight"]) for name in base)
    tied = config.get("tie_word_embeddings", not heads)
    for name, change in adapter.changes.items():
        there = base.get(name)
        if there is None:
            raise RefusedError(
                f"The adapter changes {name}, which the base does not have.",
                hint="It was trained on another base, or this architecture's files use other names.",
            )
        if tied and change.module.rpartition(".")[2] in {"lm_head", "embed_tokens", "embed_in", "embed_out", "wte"}:
            raise RefusedError(
                f"The adapter changes {change.module}, but this base ties its input and output embeddings.",
                hint="Merge it with PEFT, or leave the embeddings out of target_modules and modules_to_save.",
            )
        if change.shape != there.shape:
            raise RefusedError(
                f"The adapter's change to {name} has the shape {change.shape}, the base's tensor {there.shape}.",
                hint="It was trained on another base, or on one whose embeddings were resized.",
            )
    return adapter
