"""One key of a card's front matter set, with every other character of the card left as it is."""

from __future__ import annotations

import re
from typing import Any

import yaml

from hubkit.core.bounded_yaml import YamlError, compose_bounded, load_bounded
from hubkit.core.front_matter import FrontMatter, find_front_matter


def read_key(card: str, key: str) -> Any:
    """The value of ``key`` in the front matter of ``card``; None without one. YamlError when it cannot be read."""
    found = find_front_matter(card, exact=True)
    values = load_bounded(found.text) if found else None
    return values.get(key) if isinstance(values, dict) else None


def with_key(card: str, key: str, value: str) -> str:
    """``card`` with ``key: value`` in its front matter; the same text when it is there already.

    ``value`` must need no quotes in YAML. A card without front matter gets one. YamlError when the front matter is not
    a mapping in block style, or when another value would change: then nothing can be promised.
    """
    found = find_front_matter(card, exact=True)
    if found is None or card[found.start - 1 : found.start + 1] == "\r\n":  # one end of line, not two
        if (loose := find_front_matter(card)) is not None:
            return _begun(card, loose, f"{key}: {value}")
        if card.removeprefix("\ufeff").lstrip().startswith("---"):
            raise YamlError("the front matter is not closed by a line of three hyphens")
        end = _line_end(card)
        mark = "\ufeff" if card.startswith("\ufeff") else ""
        return f"{mark}---{end}{key}: {value}{end}---{end}{card.removeprefix(mark)}"
    end = _line_end(card[: found.start])
    before = load_bounded(found.text + end)  # with the end of its last line: it may be one of a block scalar
    if before is not None and not isinstance(before, dict):
        raise YamlError("the front matter is not a mapping of keys")
    if before is not None and before.get(key) == value:
        return card
    block = _set(found.text, key, value, end)
    expected = {**(before or {}), key: value}
    if repr(load_bounded(block)) != repr(expected):  # as text: NaN differs from itself
        raise YamlError(f"{key!r} cannot be set without another change")
    return card[: found.start] + block + card[found.start + len(found.text) :]


def _line_end(text: str) -> str:
    """How the first line of ``text`` ends."""
    first = re.search(r"\r\n|\r|\n", text)
    return first[0] if first else "\n"


def _begun(card: str, found: FrontMatter, line: str) -> str:
    """``card`` with ``line`` in the front matter ``found``, which has no line yet."""
    begun = f"{card[: found.start]}{line}{_line_end(card)}{card[found.start :].lstrip()}"
    if found.text.strip() or find_front_matter(begun, exact=True) is None:
        raise YamlError("the front matter does not begin with a line of three hyphens alone")
    return begun


def _set(block: str, key: str, value: str, end: str) -> str:
    """The YAML ``block`` with the scalar of ``key`` exchanged, or with one more line."""
    root = compose_bounded(block)
    if root is None:
        return f"{block}{end}{key}: {value}" if block.strip() else f"{key}: {value}"
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise YamlError("the front matter is written in braces")
    for name, node in root.value:
        if isinstance(name, yaml.ScalarNode) and name.value == key:
            start, stop = node.start_mark.index, node.end_mark.index
            old = block[start:stop]
            kept = old[len(old.rstrip()) :]  # the end mark of a block scalar is behind its last line
            gap = "" if start and block[start - 1].isspace() else " "
            return f"{block[:start]}{gap}{value}{kept}{block[stop:]}"
    return f"{block}{end}{key}: {value}"
