"""The YAML block at the head of a README, found in one place for every reader of cards."""

from __future__ import annotations

import re
from dataclasses import dataclass

# huggingface_hub.repocard, REGEX_YAML_BLOCK, which is that of the Hub's server; a test compares them.
_EXACT = re.compile(r"\ufeff?\s*---(?:\r\n|\r|\n)([\S\s]*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|\Z)")
_LOOSE = re.compile(r"\ufeff?\s*---[ \t]*(?:\r\n|\r|\n)([\S\s]*?)(?:(?<=[\r\n])|\r\n|\r|\n)---[ \t]*(?:\r\n|\n|\Z)")


@dataclass(frozen=True)
class FrontMatter:
    """``text`` without its ``---`` lines, the ``line`` where it begins, and the ``end`` of all of it in the card.

    ``start`` is where ``text`` begins, in characters.
    """

    text: str
    line: int
    end: int
    start: int = 0


def find_front_matter(card: str, *, exact: bool = False) -> FrontMatter | None:
    """The front matter of ``card``; None when it does not begin with any, or with one that is never closed.

    ``exact``: what the Hub takes for it. Without, also one without a line, or with blanks after its first dashes.
    """
    found = (_EXACT if exact else _LOOSE).match(card)
    if not found:
        return None
    start = found.start(1)
    return FrontMatter(found[1], 1 + card.count("\n", 0, start), found.end(), start)
