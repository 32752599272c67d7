"""``.gitignore`` rules, for files that are offered over HTTP and never lie in a work tree."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=32)
def _rules(text: str) -> tuple[tuple[re.Pattern[str], bool, bool], ...]:
    rules = []
    for raw in text[:65536].splitlines()[:1000]:
        line = re.sub(r"(?<!\\)\s+$", "", raw)
        if not line or line.startswith("#"):
            continue
        keep = line.startswith("!")
        pattern = line.removeprefix("!").removeprefix("\\")
        folders_only = pattern.endswith("/")
        pattern = pattern.rstrip("/")
        anchored = "/" in pattern
        pattern = pattern.lstrip("/")
        if pattern and pattern.count("*") <= 20:
            start = "" if anchored else "(?:.*/)?"
            rules.append((re.compile(start + _regex(pattern) + r"\Z", re.DOTALL), keep, folders_only))
    return tuple(rules)


def _regex(pattern: str) -> str:
    out, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
            continue
        if pattern.startswith("/**", at) and at + 3 == len(pattern):
            out, at = out + "/.*", at + 3
            continue
        if char == "*":
            out += "[^/]*"
            while pattern.startswith("*", at + 1):
                at += 1
        elif char == "?":
            out += "[^/]"
        elif char == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out += "[" + ("^" + inside[1:] if inside[0] == "!" else inside) + "]"
            at = end
        else:
            out += re.escape(char)
        at += 1
    return out


def ignored(path: str, text: str) -> bool:
    """Whether the rules in ``text`` ignore the file ``path``; the last rule that fits decides, folder by folder."""
    try:
        rules = _rules(text)
    except re.error:
        return False
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        here, verdict = "/".join(parts[:end]), False
        for pattern, keep, folders_only in rules:
            if (not folders_only or end < len(parts)) and pattern.match(here):
                verdict = not keep
        if verdict:
            return True
    return False
