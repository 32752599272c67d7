"""The YAML block at the head of a README: read safely, checked as the Hub checks it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

from hubkit.core.bounded_yaml import DoubleKeyError, YamlError, YamlLimits, load_bounded
from hubkit.core.card_metadata import MetadataProblem, metadata_problems
from hubkit.core.front_matter import FrontMatter, find_front_matter
from hubkit.core.space_metadata import space_problems

_SIZE_LIMIT = 200_000
_NODE_LIMIT = 20_000
_DEPTH_LIMIT = 50
_LIMITS = YamlLimits(characters=_SIZE_LIMIT, depth=_DEPTH_LIMIT)

_OF_DATASETS = ("license", "language", "tags")
"""Keys of a dataset's card that have the same rules as a model's."""


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


def _block(text: str, *, exact: bool = False) -> FrontMatter | None:
    return find_front_matter(text[: _SIZE_LIMIT + 1000], exact=exact)


def front_matter(text: str) -> str | None:
    """The YAML text between the two ``---`` lines at the head, or None."""
    block = _block(text)
    return block.text if block else None


def body(text: str) -> str:
    """The README without the block at its head; of a block that is not closed, without the lines up to an empty one."""
    if block := _block(text):
        return text[block.end :]
    return re.sub(r"\A\ufeff?---[ \t]*\r?\n(?=[\w-]+:)(?:[^\r\n]+(?:\r?\n|\Z))*", "", text)


def read(text: str, *, exact: bool = False) -> dict[str, Any]:
    """The metadata of a README; empty when it has none. Raises MetadataError.

    ``exact``: only a block that the Hub takes for one; else also one with blanks after its first dashes.
    """
    block = _block(text, exact=exact)
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


def check(text: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings for the README of a repo of type ``kind``, as the Hub words them.

    The rules are those that lint and `hubkit space deploy` apply (:mod:`hubkit.core.card_metadata`).
    """
    try:
        data = read(text, exact=True)
    except MetadataError as error:
        return [f"YAML metadata error: {error}"], []
    if not data:
        return [], ["empty or missing yaml metadata in repo card"]
    problems = list(_problems(data, kind))
    errors = [item.hub for item in problems if item.level == "error" and item.hub]
    return errors, [item.hub for item in problems if item.level == "warning" and item.hub]


def _problems(data: dict[str, Any], kind: str) -> Iterable[MetadataProblem]:
    if kind == "space":
        return space_problems(data)
    return metadata_problems(data if kind == "model" else {key: data[key] for key in _OF_DATASETS if key in data})
