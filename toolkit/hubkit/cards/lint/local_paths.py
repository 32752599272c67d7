"""Paths of the author's own machine on a card."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hubkit.cards.lint.document import Document
from hubkit.checks.rules import LOCAL_PATH
from hubkit.checks.screening import local_paths
from hubkit.core.findings import Finding
from hubkit.core.front_matter import find_front_matter

_GENERIC = re.compile(
    r"(?<![\w.])(?:~|/(?:usr|opt|var|tmp|etc|dev))/\S*|(?:/root|/home/\w+)/\.cache/\S*|/path/to/\S*"
    r"|/(?:home|Users)/(?:[<{$\[%]|(?i:user|you|username|your(?:[-_]\w+|name|user\w*)?)\b)\S*"
    r"|[A-Za-z]:\\+Users\\+(?:[<{$\[%]|(?i:user|you|username|your(?:[-_]\w+|name|user\w*)?)\b)\S*"
    r"|(?<![\w/])/content/(?!drive/My ?Drive/\w)[^\s\"']*"
    r"|(?:-v|--volume)[ =][\"']?/(?:mnt|media|srv|storage|workspace)/\S*"
)
"""Places that every machine has, and those that stand for the reader's own, in the text of a card."""
_LONGEST = 2000
"""Characters of a line above which it is data, and not looked at."""


def find(document: Document) -> Iterator[Finding]:
    """Lines that name a path of the author's machine, in the front matter and in the text."""
    front = find_front_matter(document.text)
    last = document.text.count("\n", 0, front.end) if front else 0
    for number, line in enumerate(document.text.splitlines(), 1):
        words = line if number <= last else _GENERIC.sub("", line)
        in_front = number <= last and local_paths.in_yaml(words) is not None
        if in_front or (number > last and len(words) <= _LONGEST and local_paths.is_local_path(words)):
            yield LOCAL_PATH.finding(
                "The line contains a local path.",
                "Replace it with the repo on the Hub, or remove it.",
                file=document.path,
                line=number,
            )
