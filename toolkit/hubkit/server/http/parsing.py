"""Parsing what a client sent: numbers, JSON, path parameters. Anything invalid is a 400."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from hubkit.server.http.exceptions import HTTPException

# Half a character, written as an escape, is text that neither git nor a database can keep.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# Matches without backtracking, also a string that is not closed: one pass over any input.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_DEPTH = 100
_TOO_MANY = "The JSON may have {:,} values at most."


def parse_int(text: str | None, default: int, *, least: int = 0, most: int = 2**31) -> int:
    """``text`` as a number, moved into its bounds; ``default`` when absent, 400 when it is not a number."""
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise HTTPException(400, f"{text[:40]!r} is not a number.")
    return max(least, min(most, int(text)))


def parse_json(body: bytes, most_values: int = 20_000) -> Any:
    """``body`` as JSON; 400 when it is not JSON, has too many values, is nested too deeply or holds half a character.

    What it would cost is found before it is parsed: Python's parser stops all threads, and makes a hundred bytes of
    memory of each byte of ``[[],[],``.
    """
    _check_cost(body, most_values)
    try:
        text = body.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except ValueError as error:
        raise HTTPException(400, f"The body is not valid JSON: {error}.") from None


def _check_cost(body: bytes, most_values: int) -> None:
    if body.count(b'"') - body.count(b'\\"') > 4 * most_values:
        raise HTTPException(400, _TOO_MANY.format(most_values))
    # Without escapes it is much faster, and most of the large bodies hold Base64.
    skeleton = _STRING.sub(b"", body) if b"\\" in body else b"".join(body.split(b'"')[::2])
    if sum(skeleton.count(mark) for mark in (b",", b":", b"[", b"{")) > 2 * most_values:
        raise HTTPException(400, _TOO_MANY.format(most_values))
    depth = 0
    for bracket in _BRACKET.finditer(skeleton):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > _DEPTH:
            raise HTTPException(400, "The JSON is nested too deeply.")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("a number is too large")
    return value


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
