"""Read the small files of anybody's model: what is wrong with them becomes a finding, never an exception.

The values that are returned have the types of :data:`_TYPES`, so that no caller has to check them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from hubkit.checks.model.pointers import is_pointer
from hubkit.checks.rules import FRONT_MATTER, JSON, TOO_LARGE, VALUE_TYPE
from hubkit.checks.source import Source
from hubkit.core.bounded_json import LARGE, SETTINGS, JsonError, JsonLimitError, JsonLimits, load_json, too_large
from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.findings import Finding, Level
from hubkit.core.front_matter import find_front_matter
from hubkit.core.yaml_text import parse_yaml

Text = TypeVar("Text", str, str | None)

_NAMES: Mapping[type, str] = {str: "a string", int: "an integer", list: "a list", dict: "an object"}
_IDS = (int, list)
_TYPES: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "config.json": {
        "architectures": (list,),
        "vocab_size": (int,),
        "eos_token_id": _IDS,
        "quantization_config": (dict,),
    },
    "generation_config.json": {"eos_token_id": _IDS},
    "tokenizer_config.json": {
        "added_tokens_decoder": (dict,),
        "chat_template": (str, list),
        "eos_token": (str, dict),
        "pad_token": (str, dict),
    },
    "tokenizer.json": {"added_tokens": (list,), "model": (dict,)},
    "adapter_config.json": {"base_model_name_or_path": (str,), "revision": (str,)},
    "README.md": {"base_model": (str, list)},
}
"""The keys that the checks read, and the types that loaders accept for them. A null is the same as no key."""
_LIMITS: Mapping[str, JsonLimits] = dict.fromkeys(
    ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"), LARGE
)
"""Files that may be larger than other settings."""


def settings_of(source: Source, name: str, found: list[Finding]) -> dict[str, Any]:
    """The JSON object ``name``, without keys of a wrong type; empty when it is not there or is no JSON object.

    Empty also for a git-lfs pointer, which is reported once for all files.
    """
    entry = source.files().get(name)
    if entry is None:
        return {}
    limits = _LIMITS.get(name.rpartition("/")[2], SETTINGS)
    if problem := too_large(entry.size, limits):
        found.append(TOO_LARGE.finding(f"{name} {problem}.", file=name))
        return {}
    content = source.read(name)
    if is_pointer(content):
        return {}
    try:
        value = load_json(content, limits)
    except JsonError as error:
        rule = TOO_LARGE if isinstance(error, JsonLimitError) else JSON
        found.append(rule.finding(f"{name} {error}.", file=name))
        return {}
    if not isinstance(value, dict):
        found.append(JSON.finding(f"{name} is not a JSON object, but {short_repr(value)}.", file=name))
        return {}
    return _typed(value, name, found)


def text_of(source: Source, name: str, found: list[Finding]) -> str | None:
    """The text file ``name``; None when it is not there, too large, or a git-lfs pointer."""
    if name not in source.files():
        return None
    try:
        content = source.read(name)
    except RefusedError as error:
        found.append(TOO_LARGE.finding(error.message, error.hint, file=name))
        return None
    return None if is_pointer(content) else content.decode("utf-8", "replace")


def card_of(source: Source, found: list[Finding]) -> dict[str, Any] | None:
    """The front matter of README.md, its ``base_model`` a text or a list of texts; None when nobody can read it."""
    text = text_of(source, "README.md", found)
    if text is None:
        return None
    block = find_front_matter(text)
    if block is None:
        message = "The model card has no front matter: the Hub shows no license and no base model."
        found.append(_front_matter(message, level="warning"))
        return None
    try:
        value, _ = parse_yaml(block.text, "README.md", block.line)
    except UsageError as error:
        found.append(_front_matter(f"The card's front matter: {error.message}", error.hint))
        return None
    value = {} if value is None else value
    if not isinstance(value, dict):
        found.append(_front_matter("The card's front matter has no keys."))
        return None
    card = _typed(value, "README.md", found)
    bases = card.get("base_model")
    if isinstance(bases, list):
        card["base_model"] = [item for item in bases if isinstance(item, str)]
        if odd := [item for item in bases if not isinstance(item, str)]:
            message = f"README.md: base_model holds {short_repr(odd[0])}, not a string."
            found.append(VALUE_TYPE.finding(message, file="README.md"))
    return card


def _front_matter(message: str, hint: str | None = None, level: Level = "error") -> Finding:
    return FRONT_MATTER.finding(message, hint, level=level, file="README.md")


def _typed(value: Mapping[str, Any], name: str, found: list[Finding]) -> dict[str, Any]:
    types = _TYPES.get(name.rpartition("/")[2], {})
    kept = {}
    for key, item in value.items():
        if key not in types or type(item) in types[key]:
            kept[key] = item
        elif item is not None:
            expected = " or ".join(_NAMES[kind] for kind in types[key])
            found.append(VALUE_TYPE.finding(f"{name}: {key} is {short_repr(item)}, not {expected}.", file=name))
    return kept


def short_repr(value: object) -> str:
    """``value`` in a sentence, cut short; a number or a nest that Python will not write out is named by its type."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def plain(text: Text) -> Text:
    """``text`` as a terminal can be sent it: JSON may escape half of a character, which UTF-8 cannot write."""
    return text if text is None else text.encode("utf-8", "replace").decode()
