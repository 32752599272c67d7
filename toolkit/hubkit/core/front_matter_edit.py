"""One key of a card's front matter set, with every other character of the card left as it is."""

from __future__ import annotations

from typing import Any

import yaml

from hubkit.core.bounded_yaml import YamlError, compose_bounded, load_bounded
from hubkit.core.front_matter import find_front_matter


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
    end = "\r\n" if "\r\n" in card else "\n"
    found = find_front_matter(card, exact=True)
    if found is None:
        if find_front_matter(card) is not None or card.removeprefix("\ufeff").lstrip().startswith("---"):
            raise YamlError("the front matter is not closed by a line of three hyphens")
        mark = "\ufeff" if card.startswith("\ufeff") else ""
        return f"{mark}---{end}{key}: {value}{end}---{end}{card.removeprefix(mark)}"
    before = load_bounded(found.text)
    if before is not None and not isinstance(before, dict):
        raise YamlError("the front matter is not a mapping of keys")
    if before is not None and before.get(key) == value:
        return card
    block = _set(found.text, key, value, end)
    expected = {**(before or {}), key: value}
    if repr(load_bounded(block)) != repr(expected):  # as text: NaN differs from itself
        raise YamlError(f"{key!r} cannot be set without another change")
    return card[: found.start] + block + card[found.start + len(found.text) :]


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
