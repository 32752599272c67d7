"""YAML as people write it, read safely, with the line of each key.

``5e-5`` is a number, ``on`` and ``yes`` stay words, no key appears twice, and nothing is built but plain values.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from hubkit.core.bounded_yaml import BoundedLoader, YamlError, YamlLimitError, YamlLimits, load_bounded
from hubkit.core.errors import UsageError
from hubkit.core.numbers import counted

_MAX_BYTES = 1_000_000
_LIMITS = YamlLimits(characters=_MAX_BYTES, depth=30, aliases=100)


class _Loader(BoundedLoader):
    """The bounded loader, with the scalars of YAML 1.2 in place of the surprising ones of YAML 1.1."""


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

Lines = dict[tuple[str, ...], int]


def parse_yaml(text: str, name: str, first: int = 1) -> tuple[Any, Lines]:
    """``text`` as plain Python values, and the line of each path of keys; ``first`` is the line on which it begins.

    Raises UsageError for what is not YAML, for a key that appears twice or is no word, for nests and aliases without
    end, and for half a surrogate pair (``"\\ud800"``), which no file could hold.
    """
    if len(text) > _MAX_BYTES or len(text.encode("utf-8", "replace")) > _MAX_BYTES:
        raise UsageError(f"{name} is larger than {counted(_MAX_BYTES, 'byte')}.", hint="Shorten it.")
    lines: Lines = {(): first}
    try:
        return load_bounded(text, _Loader, _LIMITS, lambda node: _collect(node, (), lines, name, first)), lines
    except YamlError as error:
        where = name if error.line is None else f"{name}:{error.line + first - 1}"
        problem = error.problem if isinstance(error, YamlLimitError) else f"not valid YAML: {error.problem}"
        raise UsageError(f"{where}: {problem}.", hint="Fix that line and run the command again.") from error


def _collect(node: yaml.Node, path: tuple[str, ...], lines: Lines, name: str, first: int) -> None:
    lines.setdefault(path, node.start_mark.line + first)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + first
            if not isinstance(key, yaml.ScalarNode) or (key.tag != "tag:yaml.org,2002:str" and key.value != "<<"):
                raise UsageError(f"{name}:{line}: keys must be strings.", hint="Put it in quotes.")
            if key.value in seen:
                raise UsageError(f"{name}:{line}: the key {key.value!r} appears twice.", hint="Keep one of them.")
            seen.add(key.value)
            lines[(*path, key.value)] = line
            _collect(value, (*path, key.value), lines, name, first)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect(value, (*path, str(index)), lines, name, first)
