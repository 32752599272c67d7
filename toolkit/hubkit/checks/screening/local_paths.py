"""Paths of the author's machine, in the values of JSON and YAML and in the front matter of cards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_ROOTS = (
    "home|root|Users|mnt|media|Volumes|tmp|var|opt|usr|srv|workspace|workspaces|scratch|gpfs|lustre|fsx|nfs|ceph|cephfs"
    "|content|kaggle|dbfs|runpod-volume|teamspace|notebooks|storage|local|network-volume|raid|nvme"
)
_LOCAL_PATH = re.compile(
    r"(?<![\w.:/~%&?#@+-])(?:"
    rf"/(?:{_ROOTS})/[^\s/\"']"
    r"|~/[^\s\"']"
    r"|[A-Za-z]:(?:\\+|/(?!/))(?:[\w. ()-]+[\\/]|Users|\w+\.\w)"
    r"|\\\\\\?\\?[\w.-]+\\+[\w$.-]+\\"
    r")|file://",
    re.ASCII,
)
_PATH_KEY = re.compile(r"(?:.*[_-])?(?:name_or_path|path|paths|dir|folder|file|files|checkpoint)", re.IGNORECASE)
_NAME_KEY = re.compile(r".*name_or_path")
_ABSOLUTE = re.compile(r"/[^\s/]+/[^\s]|[A-Za-z]:[\\/]|\\\\")
# Possessive, and no run of backslashes is begun within: a line of a megabyte takes no longer than many short ones.
_YAML_KEY = re.compile(r"^[\s-]*+[\"']?([\w-]++)[\"']?\s*+:\s*+[\"']?([^\"'\n]+)", re.MULTILINE)
_ESCAPED_SLASH = re.compile(r"(?<!\\)\\++(?:u00|x)2[fF]")
_LONG = 2000
"""Characters of a value above which it is a text for people or a template, of which only the beginning is checked."""


def is_local_path(value: str, key: str = "") -> bool:
    """Whether ``value``, the value of ``key``, is a path on somebody's machine."""
    value = value.strip()
    if _PATH_KEY.fullmatch(key) and _ABSOLUTE.match(value):
        return True
    if _NAME_KEY.fullmatch(key) and value.startswith(("./", "../", ".\\", "/", "~")):
        return True
    if len(value) > _LONG or "\n" in value:
        return bool(_LOCAL_PATH.match(value))
    return bool(_LOCAL_PATH.search(value))


def in_json(value: Any) -> str | None:
    """The key under which a value that :func:`is_local_path` stands ('' for none); None when there is no such value.

    Keys of objects are checked too. The order is that of the file; objects may be nested to any depth.
    """
    for key, item in _strings(value):
        if is_local_path(item, key):
            return key
    return None


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    left: list[tuple[str, Any]] = [("", value)]
    while left:
        key, item = left.pop()
        if isinstance(item, str):
            yield key, item
        elif isinstance(item, dict):
            left += [(str(name), inner) for name, inner in reversed(item.items())]
            yield from (("", str(name)) for name in item)
        elif isinstance(item, list):
            left += [(key, inner) for inner in reversed(item)]


def in_yaml(text: str) -> int | None:
    """The line (from 1) of ``text`` with such a path, in a value, a key or a comment; None for none.

    The text is not parsed, so that invalid YAML, or a bomb of aliases, is checked in the same way.
    """
    for number, line in enumerate(text.splitlines(), 1):
        plain = _ESCAPED_SLASH.sub("/", line)
        named = _YAML_KEY.match(plain)
        if _LOCAL_PATH.search(plain) or (named and is_local_path(named[2], named[1])):
            return number
    return None
