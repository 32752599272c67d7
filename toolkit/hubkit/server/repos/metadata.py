"""The YAML block at the head of a README: read safely, checked as the Hub checks it."""

from __future__ import annotations

import json
import math
import re
from datetime import date, datetime
from typing import Any

from hubkit.core.bounded_yaml import DoubleKeyError, YamlError, YamlLimits, load_bounded
from hubkit.core.front_matter import FrontMatter, find_front_matter
from hubkit.core.licenses import license_identifiers

_SIZE_LIMIT = 200_000
_NODE_LIMIT = 20_000
_DEPTH_LIMIT = 50
_LIMITS = YamlLimits(characters=_SIZE_LIMIT, depth=_DEPTH_LIMIT)

_SPACE_SDKS = ("gradio", "docker", "static", "streamlit")
_COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


class MetadataError(ValueError):
    """The metadata is not YAML that the Hub accepts."""


def _plain(value: Any, budget: list[int], depth: int = 0) -> Any:
    """``value`` as JSON can carry it; a bomb of aliases or nesting runs out of budget and is refused."""
    budget[0] -= 1
    if budget[0] < 0 or depth > _DEPTH_LIMIT:
        raise MetadataError("the metadata is too large or too deeply nested")
    if isinstance(value, dict):
        return {str(key): _plain(item, budget, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item, budget, depth + 1) for item in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        raise MetadataError("the metadata contains binary data")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _block(text: str) -> FrontMatter | None:
    return find_front_matter(text[: _SIZE_LIMIT + 1000])


def front_matter(text: str) -> str | None:
    """The YAML text between the two ``---`` lines at the head, or None."""
    block = _block(text)
    return block.text if block else None


def body(text: str) -> str:
    """The README without the block at its head; of a block that is not closed, without the lines up to an empty one."""
    if block := _block(text):
        return text[block.end :]
    return re.sub(r"\A\ufeff?---[ \t]*\r?\n(?=[\w-]+:)(?:[^\r\n]+(?:\r?\n|\Z))*", "", text)


def read(text: str) -> dict[str, Any]:
    """The metadata of a README; empty when it has none. Raises MetadataError."""
    block = _block(text)
    if block is None:
        return {}
    try:
        value = load_bounded(block.text, limits=_LIMITS)
    except YamlError as error:
        raise MetadataError(_where(error)) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MetadataError("the metadata must be a mapping of keys to values")
    metadata = plain(value)
    assert isinstance(metadata, dict)
    return metadata


def plain(value: Any) -> Any:
    """``value`` as JSON. MetadataError for what JSON or UTF-8 cannot hold, and for bombs of aliases or nesting."""
    try:
        result = _plain(value, [_NODE_LIMIT])
        json.dumps(result, allow_nan=False, ensure_ascii=False).encode()
    except MetadataError:
        raise
    except Exception as error:  # half a character, a number of too many digits
        raise MetadataError(_unreadable(error)) from None
    return result


def _unreadable(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "the metadata is too large or too deeply nested"
    return f"a value cannot be read ({type(error).__name__})"


def _where(error: YamlError) -> str:
    problem = "duplicated mapping key" if isinstance(error, DoubleKeyError) else error.problem
    return f"{problem} ({error.line}:{error.column})" if error.line else problem


def _strings(value: Any) -> list[str]:
    return (
        [value]
        if isinstance(value, str)
        else [item for item in value if isinstance(item, str)]
        if isinstance(value, list)
        else []
    )


def check(text: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings for the README of a repo of type ``kind``, as the Hub words them."""
    try:
        data = read(text)
    except MetadataError as error:
        return [f"YAML metadata error: {error}"], []
    if not data:
        return [], ["empty or missing yaml metadata in repo card"]
    errors: list[str] = []
    choices = {"license": license_identifiers()}
    if kind == "space":
        choices |= {"sdk": _SPACE_SDKS, "colorFrom": _COLORS, "colorTo": _COLORS}
    for key, allowed in choices.items():
        given = data.get(key)
        if given is not None and (not _strings(given) or any(item not in allowed for item in _strings(given))):
            errors.append(f'"{key}" must be one of [{", ".join(allowed)}]')
    for key in ("tags", "datasets", "base_model", "language", "metrics"):
        given = data.get(key)
        if given is not None and not isinstance(given, str | list):
            errors.append(f'"{key}" must be an array')
    for key in ("library_name", "pipeline_tag", "license_name", "title", "emoji"):
        if data.get(key) is not None and not isinstance(data[key], str):
            errors.append(f'"{key}" must be a string')
    index = data.get("model-index")
    if index is not None:
        errors += _index_errors(index)
    return errors, []


def _index_errors(index: Any) -> list[str]:
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for at, model in enumerate(index):
        where = f"model-index[{at}]"
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            errors.append(f'"{where}.name" is required')
            continue
        results = model.get("results")
        if not isinstance(results, list):
            errors.append(f'"{where}.results" must be an array')
            continue
        for number, result in enumerate(results):
            place = f"{where}.results[{number}]"
            if not isinstance(result, dict):
                errors.append(f'"{place}" must be of type object')
                continue
            for key, kind in (("task", dict), ("dataset", dict), ("metrics", list)):
                if not isinstance(result.get(key), kind):
                    errors.append(f'"{place}.{key}" is required')
    return errors
