"""What stands beside merged weights and decides what they answer: the settings of the model, and its tokenizer.

Of ``generation_config.json``, ``tokenizer_config.json`` and the chat template nothing is said here: a release makes
them of the recipe's template and the end-of-turn token, and `hubkit reproduce` makes them again.
"""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hubkit.models.chat.agreement import text_part
from hubkit.models.merging.companions import TOKENIZER_FILES, model_config, read_settings
from hubkit.models.merging.readable import config_for_all

_OF_TOKENS = frozenset({"eos_token_id", "pad_token_id", "dtype", "torch_dtype", "_name_or_path"})
"""Keys of config.json that a release sets for itself; its dtype is compared with the tensors."""
_SET_BY_RELEASE = frozenset({"tokenizer_config.json", "special_tokens_map.json"})
"""Files of the tokenizer in which a release sets template and padding token."""


def differences_beside(base: Path, folder: Path, dtype: str, changes: Mapping[str, Any]) -> Iterator[str]:
    """What of ``config.json`` and the tokenizer is not the base's; it decides what the same weights answer."""
    original = read_settings(base, "config.json")
    expected = _settings({**model_config(original, dtype, None), **changes})
    config = read_settings(folder, "config.json")
    published = _settings(config if _has_older_names(original, expected, config) else config_for_all(config))
    if config.get("torch_dtype") not in (None, dtype):
        yield f"config.json: torch_dtype is not {dtype}"
    for name in dict.fromkeys([*expected, *published]):
        if name not in published or name not in expected or published[name] != expected[name]:
            state = (
                "is missing" if name not in published else "is extra" if name not in expected else "is not the base's"
            )
            yield f"config.json: {name} {state}"
    for name in TOKENIZER_FILES:
        one, other = folder / name, base / name
        if name in _SET_BY_RELEASE or not one.is_file():
            continue
        if not other.is_file() or not filecmp.cmp(one, other, shallow=False):
            yield f"{name} is not the base's"


def _has_older_names(base: Mapping[str, Any], expected: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether ``config`` has a name of older transformers that a release adds; those of earlier versions have none."""
    if "torch_dtype" in config:
        return True
    part = text_part(expected) or ""
    both = (expected, base, config), tuple(each.get(part) or {} for each in (expected, base, config))
    return any(name in found for wanted, own, found in both for name in wanted if name not in own)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` without what a release sets, also in the part where the settings of its text model are."""
    kept = {name: value for name, value in config.items() if name not in _OF_TOKENS}
    if part := text_part(config):
        kept[part] = {name: value for name, value in config[part].items() if name not in _OF_TOKENS}
    return kept
