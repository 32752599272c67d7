"""``.gitignore`` rules, for files that are uploaded over HTTP and are never in a work tree.

The rules are untrusted, so the time to match them must be bounded by the lengths alone: each part of a path
is matched by itself (``fnmatch`` writes expressions that never go back), and ``**`` is a set of places reached.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from functools import lru_cache

_TEXT, _RULES, _LINE, _PARTS = 65_536, 1000, 1024, 64
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True)
class _Rule:
    """One line: the parts of its pattern (None: any number of folders), and what it does with a path that matches."""

    parts: tuple[re.Pattern[str] | None, ...]
    keep: bool
    folders_only: bool

    def _reach(self, places: set[int]) -> set[int]:
        """``places`` and those behind them that are reached when ``**`` matches no folder."""
        reached = set(places)
        for place in places:
            while place < len(self.parts) and self.parts[place] is None:
                place += 1
                reached.add(place)
        return reached

    def fits(self, parts: list[str]) -> list[bool]:
        """For each beginning of the path (its first part, its first two, ...) whether the pattern matches all of it."""
        places, verdicts = self._reach({0}), []
        for part in parts:
            ahead: set[int] = set()
            for place in places:
                if place < len(self.parts):
                    pattern = self.parts[place]
                    if pattern is None:
                        ahead.add(place)
                    elif pattern.match(part):
                        ahead.add(place + 1)
            places = self._reach(ahead)
            verdicts.append(len(self.parts) in places)
        return verdicts


@lru_cache(maxsize=32)
def _rules(text: str) -> tuple[_Rule, ...]:
    rules = (_rule(line) for line in text[:_TEXT].splitlines()[:_RULES] if len(line) <= _LINE)
    return tuple(rule for rule in rules if rule)


def _rule(raw: str) -> _Rule | None:
    line = raw.rstrip()
    if (len(line) - len(line.rstrip("\\"))) % 2 and len(raw) > len(line):
        line += raw[len(line)]  # a space after a backslash belongs to the name
    if not line or line.startswith("#"):
        return None
    pattern = line.removeprefix("!")
    names = pattern.rstrip("/").lstrip("/").split("/")
    if names == [""] or len(names) > _PARTS:
        return None
    if "/" not in pattern.rstrip("/"):
        names.insert(0, "**")
    elif names[-1] == "**":
        names.insert(-1, "*")  # the files below a folder, not the folder itself
    try:
        parts = tuple(None if name == "**" else _part(name) for name in names)
    except re.error:
        return None
    return _Rule(parts, line.startswith("!"), pattern.endswith("/"))


def _part(name: str) -> re.Pattern[str]:
    def literal(found: re.Match[str]) -> str:
        return f"[{found[1]}]" if found[1] in "*?[" else found[1]

    return re.compile(fnmatch.translate(_ESCAPED.sub(literal, name).replace("[^", "[!")))


def ignored(path: str, text: str) -> bool:
    """Whether the rules in ``text`` ignore the file ``path``; the last rule that fits decides, folder by folder."""
    parts = path.split("/")
    verdicts = [False] * len(parts)
    for rule in _rules(text):
        for at, fits in enumerate(rule.fits(parts)):
            if fits and (not rule.folders_only or at + 1 < len(parts)):
                verdicts[at] = not rule.keep
    return any(verdicts)
