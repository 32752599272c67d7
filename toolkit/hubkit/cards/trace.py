"""From a number on a card back to the result file: what ``numbers.json`` promises, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hubkit.cards.measured import FORMATS, resolve_pointer
from hubkit.cards.metadata import index_numbers, read_block


def untraced(text: str, numbers: Sequence[Mapping[str, Any]], read: Callable[[str, str], Any]) -> Iterator[str]:
    """Each number of the card ``text`` that is not what its result file says, a sentence each.

    ``numbers`` is the card's list in ``numbers.json``; ``read(step, file)`` gives a result file as plain JSON.
    """
    for number in numbers:
        where = f"{number['step']}/{number['file']}#{number['pointer']}"
        try:
            value = resolve_pointer(read(number["step"], number["file"]), number["pointer"])
        except (KeyError, IndexError, TypeError, FileNotFoundError):
            yield f"{number['text']!r} should come from {where}, where there is no number."
            continue
        if value != number["value"] or FORMATS[number["format"]](value) != number["text"]:
            yield f"{number['text']!r} should come from {where}, where the value is {value!r}."
        offset = number["offset"]
        if offset is not None and text[offset : offset + len(number["text"])] != number["text"]:
            yield f"{number['text']!r} is not at character {offset} of the card."
    listed = sorted(float(number["text"]) for number in numbers if number["offset"] is None)
    if listed != sorted(float(value) for value in index_numbers(read_block(text) or {})):
        yield "The numbers in the metadata are not those that are listed."
