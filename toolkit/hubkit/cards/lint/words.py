"""Words that should not be on a published card: numbers still to come, the author's folders, scores only told about."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from hubkit.cards.lint.document import Document, Line
from hubkit.cards.lint.finding import Fault
from hubkit.cards.lint.scores import metrics_of
from hubkit.checks.screening import places

_PLACEHOLDER = re.compile(
    r"\bT\.?B\.?[DA]\b\.?|(?<![\w-])tbd(?![\w-])|\bTODO\b(?=\W*$|\s*:)|\bFIXME\b|(?:^|[:=]\s*)\?\?\?+(?=\W*$)"
    r"|(?<![\w.])[xX]{1,3}\.[xX]{1,4}\b(?!\.\w)|\b[xX]{2,}\s?%"
    r"|\[More Information Needed\]|\b(?i:results|scores|numbers|benchmarks)(?: are)? (?i:coming soon)\b"
)
_EMPTY = re.compile(r"\W*(?:XX+|pending|coming soon)\W*", re.IGNORECASE)
"""A cell that is still to be filled, in a column of figures."""
_FIGURES = re.compile(r"\W*\d+(?:\.\d+)?\s*(?:%|±.*)?\W*")
_GENERIC = re.compile(
    r"(?<![\w.])(?:~|/(?:usr|opt|var|tmp|etc|dev))/\S*|(?:/root|/home/\w+)/\.cache/\S*|/path/to/\S*"
    r"|/(?:home|Users)/(?:[<{$\[%]|(?i:user|you|username|your(?:[-_]\w+|name|user\w*)?)\b)\S*"
    r"|[A-Za-z]:\\+Users\\+(?:[<{$\[%]|(?i:user|you|username|your(?:[-_]\w+|name|user\w*)?)\b)\S*"
    r"|(?<![\w/])/content/(?!drive/My ?Drive/\w)[^\s\"']*"
    r"|(?:-v|--volume)[ =][\"']?/(?:mnt|media|srv|storage|workspace)/\S*"
)
"""Places that every machine has, and those that stand for the reader's own, in the text of a card."""
_OTHER = r"(?:\s+[\w-]+){0,2}\s+(?:latency|memory|vram|throughput|time|price|consumption|usage|footprint|temperature)\b"
"""What else is lowered than scores."""
_THINGS = r"\s+(?:hardware|machines?|servers?|set-?ups?|prompts?|time)\b"
"""What a benchmark has beside scores."""
_FELL = re.compile(
    rf"\b(?:scores?|benchmarks?)\b(?!{_THINGS})[^.]{{0,60}}?"
    r"\b(?:lower(?:ed)?|dropp?(?:ed|s)?|fell|fall(?:en)?|decreased?|reduced|worse(?:ned)?|suffer(?:ed|s)?|regress(?:ed|es)?)"
    rf"\b(?!{_OTHER})"
    rf"|\b(?:lower(?:ed|s|ing)|reduc(?:ed|es|ing)|decreas(?:ed|es|ing)|hurts?|costs?|expense of)\b(?!{_OTHER})"
    rf"[^.]{{0,40}}?\b(?:scores?|benchmarks?)\b(?!{_THINGS})",
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
    cells = [
        Line(row.line, table.section, cell) for table in document.tables for row in table.rows for cell in row.cells
    ]
    seen: set[int] = set()
    for line in (*document.prose, *cells):
        found = _PLACEHOLDER.search(line.text)
        if found and line.line not in seen:
            seen.add(line.line)
            yield Fault(
                "placeholder", document.path, line.line,
                f"{found[0].strip(' :=')!r} stands for something still to come.",
                "Write what was measured, or leave the row out until it is.",
            )  # fmt: skip
    for line in _to_be_filled(document):
        if line.line not in seen:
            seen.add(line.line)
            yield Fault(
                "placeholder", document.path, line.line, f"{line.text!r} stands for something still to come.",
                "Write what was measured, or leave the row out until it is.",
            )  # fmt: skip


def _to_be_filled(document: Document) -> Iterator[Line]:
    """Cells that say 'pending', in a column that has figures too."""
    for table in document.tables:
        columns = {at for row in table.rows for at, cell in enumerate(row.cells) if _FIGURES.fullmatch(cell)}
        for row in table.rows:
            for at, cell in enumerate(row.cells):
                if at in columns and _EMPTY.fullmatch(cell):
                    yield Line(row.line, table.section, cell)


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
