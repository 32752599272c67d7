"""Settings of a model written so that older readers read them as today's do: transformers 4, PEFT from 0.4 on.

transformers 5 saves some settings under new names alone, and transformers 4 then takes its defaults without a word:
another rotary base, hence other answers. PEFT before 0.14 refuses an adapter_config.json with a key that it does not
know. What each reader does was measured: docs/readers.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubkit.models.chat.agreement import text_part

_OLD_FORM_TYPES = frozenset({"linear", "dynamic"})
"""Scalings that transformers before 4.45 knows: as `type` and `factor`, with nothing else beside them."""
_WHOLE, _WINDOW = "full_attention", "sliding_attention"
_FIRST_PEFT_KEYS = frozenset(
    {
        "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights", "lora_alpha",
        "lora_dropout", "modules_to_save", "peft_type", "r", "revision", "target_modules", "task_type",
    }
)  # fmt: skip
"""Keys that PEFT has had since 0.4: programs that read the file themselves, such as vLLM, expect some of them."""


def config_for_all(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` (config.json) with the old names of dtype and rotary embedding beside the new ones.

    What it already has under an old name is kept. Done twice, it is the same.
    """
    made = dict(config)
    if isinstance(dtype := made.get("dtype"), str):
        made.setdefault("torch_dtype", dtype)
    made |= {name: value for name, value in _rotary(made).items() if name not in made}
    if part := text_part(made):
        made[part] = {**_rotary(made[part]), **made[part]}
    return made


def _rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the rotary embedding under the names of transformers 4, from `rope_parameters`."""
    found = config.get("rope_parameters")
    if not isinstance(found, Mapping) or not found:
        return {}
    made: dict[str, Any] = {}
    if isinstance(found.get(_WHOLE), Mapping) and isinstance(found.get(_WINDOW), Mapping):
        if isinstance(theta := found[_WINDOW].get("rope_theta"), int | float):
            made["rope_local_base_freq"] = theta
        found = found[_WHOLE]
    if any(isinstance(value, Mapping) for value in found.values()):
        return {}  # other kinds of layers: each architecture had names of its own
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in found:
            made[name] = found[name]
    if scaling := _scaling(config, found):
        made["rope_scaling"] = scaling
    return made


def _scaling(config: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Any] | None:
    """`rope_scaling` of transformers 4; None where nothing is scaled, or where it would be read otherwise."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    kept = {key: value for key, value in rope.items() if key not in {"rope_theta", "partial_rotary_factor", "type"}}
    if kind in _OLD_FORM_TYPES and set(kept) <= {"rope_type", "factor"}:
        return {"type": kind, "factor": kept.get("factor")}
    if kind != "longrope":
        return {**kept, "rope_type": kind}
    original = kept.get("original_max_position_embeddings")
    if config.get("model_type") == "phi3" and original in (None, config.get("original_max_position_embeddings")):
        return {"type": kind, "short_factor": kept.get("short_factor"), "long_factor": kept.get("long_factor")}
    return None


def tokenizer_for_all(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` (tokenizer_config.json) without what transformers 4 cannot load.

    The class `TokenizersBackend` and a list of `extra_special_tokens` are of transformers 5, which reads their older
    names as the same.
    """
    made = dict(settings)
    if made.get("tokenizer_class") == "TokenizersBackend":
        made["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(made.get("extra_special_tokens"), list) and "additional_special_tokens" not in made:
        made["additional_special_tokens"] = made.pop("extra_special_tokens")
    return made


def adapter_for_all(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` (adapter_config.json) without the keys that are at PEFT's ``defaults``, save those of PEFT 0.4.

    PEFT from 0.6 to 0.13 refuses a file with a key that it does not know, whatever its value. ``peft_version`` is such
    a key and is left out, too: the manifest of a release names the libraries.
    """
    return {
        key: value
        for key, value in settings.items()
        if key in _FIRST_PEFT_KEYS or (key != "peft_version" and (key not in defaults or value != defaults[key]))
    }


def peft_defaults(kind: Any) -> dict[str, Any]:
    """What ``kind``, a class of PEFT's configurations such as LoraConfig, has for each key, as JSON holds it."""
    found = kind().to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in found.items()}
