"""Read the small files of anybody's model: what is wrong with them becomes a finding, never an exception.

The values that are returned have the types of :data:`_TYPES`, so that no caller has to check them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from hubkit.checks.rules import FRONT_MATTER, JSON, TOO_LARGE, VALUE_TYPE
from hubkit.checks.source import Source
from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.findings import Finding, Level
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


def settings_of(source: Source, name: str, found: list[Finding]) -> dict[str, Any]:
    """The JSON object ``name``, without keys of a wrong type; empty when it is not there or is no JSON object."""
    if name not in source.files():
        return {}
    try:
        value = json.loads(source.read(name))
    except (ValueError, RecursionError, RefusedError) as error:
        found.append(JSON.finding(f"{name} is not valid JSON: {str(error)[:120]}.", file=name))
        return {}
    if not isinstance(value, dict):
        found.append(JSON.finding(f"{name} is not a JSON object, but {short_repr(value)}.", file=name))
        return {}
    return _typed(value, name, found)


def text_of(source: Source, name: str, found: list[Finding]) -> str | None:
    """The text file ``name``; None when it is not there or too large."""
    if name not in source.files():
        return None
    try:
        return source.read(name).decode("utf-8", "replace")
    except RefusedError as error:
        found.append(TOO_LARGE.finding(error.message, error.hint, file=name))
        return None


def card_of(source: Source, found: list[Finding]) -> dict[str, Any] | None:
    """The front matter of README.md, its ``base_model`` a text or a list of texts; None when nobody can read it."""
    text = text_of(source, "README.md", found)
    if text is None:
        return None
    lines = text.lstrip("\ufeff").splitlines()
    close = lines.index("---", 1) if lines[:1] == ["---"] and "---" in lines[1:] else 0
    if not close:
        message = "The model card has no front matter: the Hub shows no license and no base model."
        found.append(_front_matter(message, level="warning"))
        return None
    try:
        value, _ = parse_yaml("\n".join(lines[1:close]), "README.md")
    except UsageError as error:
        found.append(_front_matter(f"The card's front matter: {error.message}", error.hint))
        return None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # PyYAML's own constructors, given a tag and a value that do not belong together (!!int x).
        found.append(_front_matter(f"The card's front matter cannot be read: {type(error).__name__}."))
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
