"""JSON from anybody: refused by its size before Python makes up to twenty times that of it.

A number of more than 4,300 digits, a nest without end and what is no JSON are the same error, a :class:`JsonError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hubkit.core.numbers import counted


@dataclass(frozen=True)
class JsonLimits:
    """The most bytes of a text, and the most of the signs ``, : [ {`` in it: there are no more values than these."""

    bytes: int
    signs: int


SETTINGS = JsonLimits(8 * 1024 * 1024, 500_000)
"""config.json and its like. The largest that are published name 21,000 classes in 2 MB."""
INDEX = JsonLimits(32 * 1024 * 1024, 2_000_000)
"""The index of shards. That of a model with 140,000 tensors has 14 MB."""
LARGE = JsonLimits(64 * 1024 * 1024, 5_000_000)
"""tokenizer.json, results, and any other file. A tokenizer of 262,000 tokens with its merges has 33 MB."""


class JsonError(ValueError):
    """A text is no JSON, or above a limit; the message continues a sentence that begins with its name."""


class JsonLimitError(JsonError):
    """A text is above a limit."""


def load_json(
    data: bytes, limits: JsonLimits = LARGE, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """The value of ``data``; ``pairs`` is ``object_pairs_hook`` of :func:`json.loads`. Raises JsonError."""
    if problem := too_large(len(data), limits):
        raise JsonLimitError(problem)
    if sum(map(data.count, (b",", b":", b"[", b"{"))) > limits.signs:
        raise JsonLimitError(f"has more than {counted(limits.signs, 'value')}")
    try:
        return json.loads(data, object_pairs_hook=pairs)
    except RecursionError:
        raise JsonError("is not valid JSON: nested too deeply") from None
    except ValueError as error:
        raise JsonError(f"is not valid JSON: {str(error)[:120]}") from None


def too_large(size: int, limits: JsonLimits) -> str | None:
    """Why a file of ``size`` bytes is not read; None when it is."""
    if size <= limits.bytes:
        return None
    return f"has {counted(size, 'byte')}; at most {counted(limits.bytes, 'byte')} are read"
