"""Checks ``numbers.json``: each number on a card equals the value in its result file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hubkit.cards.measured import FORMATS, resolve_pointer
from hubkit.cards.metadata import index_numbers, read_block


def untraced(text: str, numbers: Sequence[Mapping[str, Any]], read: Callable[[str, str], Any]) -> Iterator[str]:
    """Each number of the card ``text`` that differs from its result file, a sentence each.

    ``numbers`` is the card's list in ``numbers.json``; ``read(step, file)`` gives a result file as plain JSON.
    """
    for number in numbers:
        where = f"{number['step']}/{number['file']}#{number['pointer']}"
        try:
            value = resolve_pointer(read(number["step"], number["file"]), number["pointer"])
        except (KeyError, IndexError, TypeError, FileNotFoundError):
            yield f"{number['text']!r} claims {where}, which does not exist."
            continue
        if value != number["value"] or FORMATS[number["format"]](value) != number["text"]:
            yield f"{number['text']!r} claims {where}, but the value there is {value!r}."
        offset = number["offset"]
        if offset is not None and text[offset : offset + len(number["text"])] != number["text"]:
            yield f"{number['text']!r} is not at character {offset} of the card."
    listed = sorted(float(number["text"]) for number in numbers if number["offset"] is None)
    if listed != sorted(float(value) for value in index_numbers(read_block(text) or {})):
        yield "The numbers in the metadata differ from those in numbers.json."
