"""Words that should not be on a published card: numbers still to come, the author's folders, scores only told about."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from hubkit.lint.document import Document, Line
from hubkit.lint.finding import Fault
from hubkit.lint.scores import metrics_of
from hubkit.screening import places

_PLACEHOLDER = re.compile(
    r"\bT\.?B\.?[DA]\b\.?|\bTODO\b(?=\W*$|\s*:)|\bFIXME\b|\?\?\?+|\b[xX]{1,3}\.[xX]{1,4}\b|\b[xX]{2,}\s?%"
    r"|\[More Information Needed\]|\b(?:results|scores|numbers|benchmarks) coming soon\b"
)
_GENERIC = re.compile(
    r"(?<![\w.])(?:~|/(?:usr|opt|var|tmp|etc|dev))/\S*|(?:/root|/home/\w+)/\.cache/\S*|/path/to/\S*"
    r"|/home/(?:user|you|username)/\S*"
)
"""Places that every machine has, and those that stand for the reader's own, in the text of a card."""
_FELL = re.compile(
    r"\b(?:scores?|benchmarks?)\b[^.]{0,60}?"
    r"\b(?:lower(?:ed)?|dropp?(?:ed|s)?|fell|fall(?:en)?|decreased?|reduced|worse(?:ned)?|suffer(?:ed|s)?|regress(?:ed|es)?)\b"
    r"|\b(?:lower(?:ed|s|ing)|reduc(?:ed|es|ing)|decreas(?:ed|es|ing)|hurts?|costs?)\b[^.]{0,40}?\b(?:scores?|benchmarks?)\b",
    re.IGNORECASE,
)
_FIGURE = re.compile(r"\d+\.\d+|\d+\s?%")
_LONGEST = 2000
"""Characters of a line above which it is data, and not looked at."""


def find(document: Document) -> Iterator[Fault]:
    """Placeholders, local paths, and scores that are told about and not shown."""
    yield from _placeholders(document)
    yield from _paths(document)
    yield from _told(document)


def _placeholders(document: Document) -> Iterator[Fault]:
    cells = [Line(row.line, table.section, " ".join(row.cells)) for table in document.tables for row in table.rows]
    seen: set[int] = set()
    for line in (*document.prose, *cells):
        found = _PLACEHOLDER.search(line.text)
        if found and line.line not in seen:
            seen.add(line.line)
            yield Fault(
                "placeholder", document.path, line.line, f"{found[0].strip()!r} stands for something still to come.",
                "Write what was measured, or leave the row out until it is.",
            )  # fmt: skip


def _paths(document: Document) -> Iterator[Fault]:
    front = places.front_matter(document.text)
    last = front.count("\n") + 2 if front is not None else 0
    for number, line in enumerate(document.text.splitlines(), 1):
        words = line if number <= last else _GENERIC.sub("", line)
        in_front = number <= last and places.in_yaml(words) is not None
        if in_front or (number > last and len(words) <= _LONGEST and places.is_place(words)):
            yield Fault(
                "local-path", document.path, number, "The line names a place on the author's own machine.",
                "Name the repo on the Hub in its place, or leave it out.",
            )  # fmt: skip


def _told(document: Document) -> Iterator[Fault]:
    """A sentence that says that scores fell, on a card that has no two scores to compare."""
    tasks = Counter(frozenset(metrics_of(table)) for table in document.tables)
    twice = any(held and times > 1 for held, times in tasks.items())
    if twice or any(_compares(table.heads) for table in document.tables):
        return
    for text, line in _paragraphs(document):
        if _FELL.search(text) and not len(_FIGURE.findall(text)) > 1:
            yield Fault(
                "scores-not-shown", document.path, line,
                "The card says that scores fell, and shows no other scores to compare with.",
                "Show the scores of both in one table, each with its branch.",
            )  # fmt: skip
            return


def _paragraphs(document: Document) -> Iterator[tuple[str, int]]:
    """Lines that follow each other, as one text."""
    held: list[Line] = []
    for line in document.prose:
        if held and line.line != held[-1].line + 1:
            yield " ".join(item.text for item in held), held[0].line
            held = []
        held.append(line)
    if held:
        yield " ".join(item.text for item in held), held[0].line


_COLUMN = re.compile(
    r"task|tasks|version|metric|metrics|value|stderr|±|filter|n-shot|examples|shots|suite|benchmark|", re.IGNORECASE
)


def _compares(heads: tuple[str, ...]) -> bool:
    """Whether a table has columns of two models' scores."""
    words = [head for head in heads if not _COLUMN.fullmatch(head)]
    tasks = any(head.lower() in {"task", "tasks", "suite", "benchmark"} for head in heads)
    scored = any(re.search(r"average|score|eval", head, re.IGNORECASE) for head in words)
    return len(words) > 1 and (tasks or scored)
