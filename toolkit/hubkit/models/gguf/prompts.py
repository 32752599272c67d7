"""Prompts to measure a GGUF file with, from a file of JSON lines that a person names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hubkit.core.bounded_json import JsonError, load_json
from hubkit.core.errors import UsageError
from hubkit.models.gguf.library import runtime

_EXAMPLE = 'Write one object a line: {"messages": [{"role": "user", "content": "..."}]}.'


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """The rows of ``path`` (:func:`read_rows`). Without llama-cpp-python there is nothing to ask: a UsageError."""
    runtime()
    return read_rows(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of ``path``; each ends in a user's turn. UsageError, naming the line, for anything else."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may hold other ends of lines
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the prompts {path}: {error}.", hint=_EXAMPLE) from error
    rows = [_row(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise UsageError(f"{path} has no prompts.", hint=_EXAMPLE)
    return rows


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        found = load_json(line.encode())
    except JsonError as error:
        raise UsageError(f"{place} {error}.", hint=_EXAMPLE) from error
    messages = found.get("messages") if isinstance(found, dict) else None
    if not isinstance(messages, list) or not messages:
        raise UsageError(f"{place} has no messages.", hint=_EXAMPLE)
    for item in messages:
        if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in ("role", "content")):
            raise UsageError(f"{place} has a message without a role or a content.", hint=_EXAMPLE)
    if messages[-1]["role"] != "user":
        raise UsageError(f"{place} does not end with the user's turn.", hint=_EXAMPLE)
    return {"messages": messages}
