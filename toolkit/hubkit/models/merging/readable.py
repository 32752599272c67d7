"""Settings of a model written so that older readers read them as today's do: transformers 4, PEFT from 0.4 on.

transformers 5 saves some settings under new names alone, and transformers 4 then takes its defaults without a word:
another rotary base, hence other answers. An old name is written only where transformers 5 still reads the same: for
some architectures it takes the old name for the only one. PEFT before 0.14 refuses an adapter_config.json with a key
that it does not know. What each reader does was measured: docs/readers.md.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from hubkit.models.chat.agreement import text_part

_OLD_FORM_TYPES = frozenset({"linear", "dynamic"})
"""Scalings that transformers before 4.45 knows: as `type` and `factor`, with nothing else beside them."""
_WHOLE, _WINDOW = "full_attention", "sliding_attention"
_TWO_KINDS = frozenset({"gemma3", "gemma3_text", "gemma3n_text"})
"""Architectures whose two kinds of layers transformers 4 knows as rope_theta and rope_local_base_freq."""
_GPT_NEOX = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
_NOT_COMPARED = frozenset({"dtype", "torch_dtype", "_name_or_path", "transformers_version"})
_FIRST_PEFT_KEYS = frozenset(
    {
        "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights", "lora_alpha",
        "lora_dropout", "modules_to_save", "peft_type", "r", "revision", "target_modules", "task_type",
    }
)  # fmt: skip
"""Keys that PEFT has had since 0.4: programs that read the file themselves, such as vLLM, expect some of them."""


def config_for_all(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` (config.json) with the old names of dtype and rotary embedding beside the new ones.

    What it already has under an old name is kept. An old name with which the installed transformers would read other
    settings is left out, and so are all of them for an architecture that it does not know.
    """
    made = dict(config)
    if isinstance(dtype := made.get("dtype"), str):
        made.setdefault("torch_dtype", dtype)
    added: list[tuple[str | None, str, Any]] = [(None, *item) for item in _rotary(made).items() if item[0] not in made]
    if part := text_part(made):
        added += [(part, *item) for item in _rotary(made[part]).items() if item[0] not in made[part]]
    if not added or _reads_alike(made, whole := _with(made, added)):
        return whole if added else made
    for one in added:
        if _reads_alike(made, more := _with(made, [one])):
            made = more
    return made


def _with(config: Mapping[str, Any], added: list[tuple[str | None, str, Any]]) -> dict[str, Any]:
    made = dict(config)
    for part, name, value in added:
        if part is None:
            made[name] = value
        else:
            made[part] = {**made[part], name: value}
    return made


def _reads_alike(config: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    """Whether the installed transformers reads of ``made`` every setting that it reads of ``config``."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # its warnings about the settings are the same when the model is loaded
    try:
        kind = CONFIG_MAPPING[config["model_type"]]
        before, after = (
            json.loads(kind.from_dict(copy.deepcopy(dict(each))).to_json_string(use_diff=False))
            for each in (config, made)
        )
    except Exception:  # each class checks its settings in its own way; what cannot be read cannot be compared
        return False
    finally:
        logging.set_verbosity(level)
    return _kept(before, after)


def _kept(before: Any, after: Any) -> bool:
    """Whether ``after`` has all of ``before``, and the rotary settings exactly."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return bool(before == after)
    return all(
        _without_type(value) == _without_type(after.get(name))
        if name == "rope_parameters"
        else _kept(value, after.get(name))
        for name, value in before.items()
        if name not in _NOT_COMPARED
    )


def _without_type(rope: Any) -> Any:
    """``rope`` without `type`, the older name of `rope_type`, which some classes keep beside it."""
    if not isinstance(rope, dict):
        return rope
    return {name: _without_type(value) for name, value in rope.items() if name != "type"}


def _rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the rotary embedding under the names of transformers 4, from `rope_parameters`."""
    found = config.get("rope_parameters")
    if not isinstance(found, Mapping) or not found:
        return {}
    kind = config.get("model_type")
    made: dict[str, Any] = {}
    if any(isinstance(value, Mapping) for value in found.values()):
        if kind not in _TWO_KINDS or not all(isinstance(found.get(name), Mapping) for name in (_WHOLE, _WINDOW)):
            return {}  # other kinds of layers: each architecture had names of its own
        if isinstance(theta := found[_WINDOW].get("rope_theta"), int | float):
            made["rope_local_base_freq"] = theta
        found = found[_WHOLE]
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in found:
            made[_GPT_NEOX[name] if kind == "gpt_neox" else name] = found[name]
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
    names as the same. Where there are both, it reads the list of the new name, unless that is empty.
    """
    made = dict(settings)
    if made.get("tokenizer_class") == "TokenizersBackend":
        made["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(made.get("extra_special_tokens"), list):
        extra = made.pop("extra_special_tokens")
        if extra or "additional_special_tokens" not in made:
            made["additional_special_tokens"] = extra
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
