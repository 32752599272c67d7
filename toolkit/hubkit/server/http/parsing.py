"""Parsing what a client sent: numbers, JSON, path parameters. Anything invalid is a 400."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from hubkit.server.http.exceptions import HTTPException

# Half a character, written as an escape, is text that neither git nor a database can keep.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_int(text: str | None, default: int, *, least: int = 0, most: int = 2**31) -> int:
    """``text`` as a number, moved into its bounds; ``default`` when absent, 400 when it is not a number."""
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise HTTPException(400, f"{text[:40]!r} is not a number.")
    return max(least, min(most, int(text)))


def parse_json(body: bytes) -> Any:
    """``body`` as JSON; 400 when it is not JSON, is nested too deeply or holds half a character."""
    try:
        text = body.decode("utf-8")
        value = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError:
        raise HTTPException(400, "The JSON is nested too deeply.") from None
    except ValueError as error:
        raise HTTPException(400, f"The body is not valid JSON: {error}.") from None


def decode_path_params(params: Mapping[str, str]) -> dict[str, str]:
    """Path parameters with their percent escapes decoded, once; 400 when they are not UTF-8."""
    try:
        decoded = {key: unquote(value, errors="strict") for key, value in params.items()}
    except UnicodeDecodeError:
        raise HTTPException(400, "The URL is not UTF-8.") from None
    if any("\0" in value for value in decoded.values()):
        raise HTTPException(400, "The URL contains a NUL character.")
    return decoded


def require_valid(problem_of: Callable[[str], str | None], value: str, status_code: int = 400) -> str:
    """``value`` when ``problem_of`` finds no problem with it; else ``status_code`` with that problem."""
    if problem := problem_of(value):
        raise HTTPException(status_code, f"{value[:100]!r} cannot be used: {problem}.")
    return value
