"""Two versions of a document compared by their keys: JSON settings, a card's front matter, the scores on it.

The documents may come from anybody: what cannot be read is reported, never raised.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.core.bounded_json import JsonError, load_json
from hubkit.core.errors import UsageError
from hubkit.core.front_matter import find_front_matter
from hubkit.core.yaml_text import parse_yaml

SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json", "adapter_config.json")
"""The names of files whose keys are compared, in whatever folder."""
SETS = frozenset(
    {"target_modules", "exclude_modules", "modules_to_save", "target_parameters", "layers_to_transform"}
    | {"tags", "datasets", "language", "metrics"}
)
"""Keys whose lists have no order: of an adapter's settings, and of a card's front matter."""
MOST_BYTES = 8 * 1024 * 1024
"""Larger documents are not read."""
_CARD_LINES = 20_000


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()
"""In place of the value of a key that is not there; None is a value."""


@dataclass(frozen=True)
class KeyChange:
    """A key, by its path with dots, whose value differs; ``before`` or ``after`` is ABSENT when it is not there."""

    key: str
    before: Any
    after: Any

    @property
    def as_sets(self) -> tuple[list[Any], list[Any], int] | None:
        """What was removed, what was added, and how many are the same; None for values that have an order."""
        if not _are_sets(self.key, self.before, self.after):
            return None
        old, new = set(self.before), set(self.after)
        removed = [item for item in dict.fromkeys(self.before) if item not in new]
        return removed, [item for item in dict.fromkeys(self.after) if item not in old], len(old) - len(removed)

    def to_json(self) -> dict[str, Any]:
        """``{key, before, after}``, without the side on which the key is absent; of sets ``added`` and ``removed``."""
        sides = {"before": self.before, "after": self.after}
        present = {name: value for name, value in sides.items() if value is not ABSENT}
        sets = self.as_sets
        differing = {"removed": sets[0], "added": sets[1]} if sets else {}
        return dict(_writable({"key": self.key, **present, **differing}))


def _writable(value: Any) -> Any:
    """``value`` as UTF-8 can write it: JSON may escape half of a character."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_writable(key): _writable(item) for key, item in value.items()}
    return [_writable(item) for item in value] if isinstance(value, list) else value


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[KeyChange, ...]:
    """The keys whose values differ, in the order of ``before``, then of ``after``.

    Lists are compared as one value, those of :data:`SETS` without their order.
    """
    old, new = dict(_leaves(before, "")), dict(_leaves(after, ""))
    return tuple(
        KeyChange(key, old.get(key, ABSENT), new.get(key, ABSENT))
        for key in dict.fromkeys([*old, *new])
        if not _equal(key, old.get(key, ABSENT), new.get(key, ABSENT))
    )


def _are_sets(key: str, *values: Any) -> bool:
    """Whether ``values`` of ``key`` are lists of names or numbers whose order says nothing."""
    return key.rpartition(".")[2] in SETS and all(
        isinstance(value, list) and all(type(item) in (str, int) for item in value) for value in values
    )


def _equal(key: str, one: Any, other: Any) -> bool:
    """Equal values of the same kind: 1, 1.0 and true are three values in JSON's eyes."""
    if _are_sets(key, one, other):
        return set(one) == set(other)
    return type(one) is type(other) and bool(one == other)


def _leaves(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def settings(raw: bytes) -> dict[str, Any] | None:
    """The JSON object in ``raw``; None when it is not one."""
    try:
        value = load_json(raw)
    except JsonError:
        return None
    return value if isinstance(value, dict) else None


def split_card(text: str) -> tuple[dict[str, Any] | None, str]:
    """The front matter of a card and the text below it; None for a front matter that cannot be read."""
    block = find_front_matter(text)
    if block is None:
        return {}, text
    body = text[block.end :]
    try:
        value, _ = parse_yaml(block.text, "README.md")
    except UsageError:
        return None, body
    return (value if isinstance(value, dict) else {}), body


def text_changes(before: str, after: str, names: tuple[str, str]) -> tuple[str, ...] | None:
    """A unified diff of two texts, without line ends; None when they are too long to be compared."""
    old, new = before.splitlines(), after.splitlines()
    if len(old) + len(new) > _CARD_LINES:
        return None
    return tuple(difflib.unified_diff(old, new, *names, lineterm="", n=2))


def scores(metadata: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a card's ``model-index`` by "data set: metric", anything malformed is ignored.

    Source: github.com/huggingface/hub-docs, modelcard.md, "model-index".
    """
    found: dict[str, float] = {}
    for model in _list(metadata.get("model-index")):
        for result in _list(_dict(model).get("results")):
            data = _dict(_dict(result).get("dataset"))
            place = [data.get("name") or data.get("type"), data.get("config"), data.get("split")]
            for metric in map(_dict, _list(_dict(result).get("metrics"))):
                value, name = metric.get("value"), metric.get("name") or metric.get("type")
                if isinstance(value, int | float) and not isinstance(value, bool):
                    found.setdefault(_label([*place, name], found), float(value))
    return found


def _label(parts: list[Any], taken: Mapping[str, float]) -> str:
    """The shortest label that is not taken: data set and metric; then with its configuration; then with its split."""
    name, config, split, metric = (str(part) if isinstance(part, str | int) else "" for part in parts)
    labels = [f"{name}: {metric}", f"{name} {config}: {metric}", f"{name} {config} {split}: {metric}"]
    return next((label for label in labels if label not in taken), labels[-1])


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
