"""YAML as people write it, read safely, with the line of each key.

``5e-5`` is a number, ``on`` and ``yes`` stay words, no key appears twice, and nothing is built but plain values.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from hubkit.core.errors import UsageError
from hubkit.core.numbers import counted

_MAX_BYTES = 1_000_000
_MAX_ALIASES = 100
_MAX_DEPTH = 30


class _Loader(yaml.SafeLoader):
    """The safe loader, with the scalars of YAML 1.2 in place of the surprising ones of YAML 1.1."""


_RETIRED = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _RETIRED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|nan))$"
    ),
    list("-+0123456789."),
)

_HALF = re.compile("[\ud800-\udfff]")

Lines = dict[tuple[str, ...], int]


def parse_yaml(text: str, name: str) -> tuple[Any, Lines]:
    """``text`` as plain Python values, and the line (from 1) of each path of keys.

    Raises UsageError for what is not YAML, for a key that appears twice or is no word, for too many aliases, and for
    half a surrogate pair (``"\\ud800"``), which no file could hold.
    """
    if len(text.encode()) > _MAX_BYTES:
        raise UsageError(f"{name} is larger than a recipe can be ({counted(_MAX_BYTES, 'byte')}).")
    try:
        _refuse_bombs(text, name)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: Lines = {(): 1}
            if node is not None:
                _collect(node, (), lines, name)
            return (_plain(loader, node, name) if node is not None else None), lines
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or "not readable"
        raise UsageError(
            f"{where}: not valid YAML: {problem}.", hint="Fix that line and run the command again."
        ) from error


def _plain(loader: _Loader, node: yaml.Node, name: str) -> Any:
    """``node`` as plain values. UsageError where a tag promises what the text is not (``!!int x``)."""
    try:
        return loader.construct_document(node)
    except (ValueError, AttributeError, TypeError, OverflowError) as error:
        raise UsageError(f"{name}: not valid YAML: {error}.", hint="Remove the tag, or fix its value.") from error


def _refuse_bombs(text: str, name: str) -> None:
    """Refuse what would take for ever: nests and aliases without end. The pass over events takes no recursion."""
    aliases = depth = 0
    for event in yaml.parse(text, _Loader):
        aliases += isinstance(event, yaml.AliasEvent)
        if isinstance(event, yaml.ScalarEvent) and _HALF.search(event.value):
            where = f"{name}:{event.start_mark.line + 1}" if event.start_mark else name
            raise UsageError(f"{where}: invalid Unicode escape (lone surrogate).", hint="Write the character itself.")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if aliases > _MAX_ALIASES:
            raise UsageError(f"{name} has more than {_MAX_ALIASES} YAML aliases.", hint="Write the values out.")
        if depth > _MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise UsageError(f"{name}:{line}: nested more than {_MAX_DEPTH} deep.", hint="Reduce the nesting.")


def _collect(node: yaml.Node, path: tuple[str, ...], lines: Lines, name: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or (key.tag != "tag:yaml.org,2002:str" and key.value != "<<"):
                raise UsageError(f"{name}:{line}: keys must be strings.", hint="Put it in quotes.")
            if key.value in seen:
                raise UsageError(f"{name}:{line}: the key {key.value!r} appears twice.", hint="Keep one of them.")
            seen.add(key.value)
            lines[(*path, key.value)] = line
            _collect(value, (*path, key.value), lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect(value, (*path, str(index)), lines, name)
