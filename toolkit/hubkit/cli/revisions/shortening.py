"""Values and lines shortened to the width of a terminal, so that what differs between two of them is seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from hubkit.core.printable import printable
from hubkit.publishing.revisions.documents import ABSENT, KeyChange

_LEAST = 12
"""Columns that are left of a text, however narrow the terminal is."""
_MOST = 20
"""Members of a set that are shown."""
_BEFORE = 15
"""Characters that are shown before the place where two lines begin to differ."""


def cut(text: str, room: int, start: int = 0) -> str:
    """``text`` on ``room`` columns: without its middle, or from ``start`` on."""
    room = max(room, _LEAST)
    if len(text) <= room:
        return text
    if not start:
        head = (room - 1) // 2
        return f"{text[:head]}…{text[head + 1 - room :]}"
    start = min(start, len(text) - room + 1)
    shown = f"…{text[start:]}"
    return shown if len(shown) <= room else f"{shown[: room - 1]}…"


def value_lines(change: KeyChange, width: int) -> Iterator[str]:
    """A key with what it was and what it is: on one line where that fits, and of sets what was added and removed."""
    key = printable(change.key)
    if sets := change.as_sets:
        removed, added, same = sets
        yield f"  {cut(key, width - 20)}: {same} the same"
        for mark, items in (("-", removed), ("+", added)):
            yield from (f"    {mark} {cut(printable(str(item)), width - 6)}" for item in items[:_MOST])
            if len(items) > _MOST:
                yield f"    {mark} and {len(items) - _MOST} more"
        return
    old, new = _text(change.before), _text(change.after)
    line = f"  {key}: {old} → {new}"
    if len(line) <= min(width, 120):
        yield line
        return
    yield f"  {cut(key, width - 3)}:"
    start = _start(old, new)
    yield f"    - {cut(old, min(width, 120) - 6, start)}"
    yield f"    + {cut(new, min(width, 120) - 6, start)}"


def beside(lines: Sequence[str], width: int) -> Iterator[str]:
    """The lines of a unified diff on ``width`` columns: a long line is shown from where its counterpart differs."""
    place = 0
    while place < len(lines):
        blocks = []
        for mark in "-+":
            end = place
            while end < len(lines) and lines[end].startswith(mark):
                end += 1
            blocks.append(lines[place:end])
            place = end
        if blocks == [[], []]:
            yield _from(lines[place], width, 0)
            place += 1
            continue
        pairs = list(zip_longest(*blocks, fillvalue=""))
        starts = [_start(old[1:], new[1:]) for old, new in pairs]
        for block in blocks:
            yield from (_from(line, width, start) for line, start in zip(block, starts, strict=False))


def _from(line: str, width: int, start: int) -> str:
    """A line of a diff with its mark; without a place where it differs, its beginning."""
    room = max(width, _LEAST)
    if len(line) <= room:
        return line
    if not start:
        return f"{line[: room - 1]}…"
    return f"{line[:1]}{cut(line[1:], room - 1, start)}"


def _start(old: str, new: str) -> int:
    """Where to begin showing two texts: a few words before the place where they begin to differ."""
    places = (place for place, (one, other) in enumerate(zip(old, new, strict=False)) if one != other)
    return max(0, next(places, min(len(old), len(new))) - _BEFORE)


def _text(value: Any) -> str:
    """A value on one line."""
    if value is ABSENT:
        return "–"
    try:
        return printable(json.dumps(value, ensure_ascii=False, default=str))
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
