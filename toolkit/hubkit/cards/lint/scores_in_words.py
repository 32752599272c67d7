"""Scores that are compared in words and not shown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from hubkit.cards.lint.document import Document, Line
from hubkit.cards.lint.harness_tables import metrics_of
from hubkit.cards.lint.rules import SCORES_NOT_SHOWN
from hubkit.core.findings import Finding

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


def find(document: Document) -> Iterator[Finding]:
    """A sentence that says that scores fell, on a card that has no two scores to compare."""
    tasks = Counter(frozenset(metrics_of(table)) for table in document.tables)
    twice = any(held and times > 1 for held, times in tasks.items())
    if twice or any(_compares(table.heads) for table in document.tables):
        return
    for text, line in _paragraphs(document):
        if _FELL.search(text) and not len(_FIGURE.findall(text)) > 1:
            yield SCORES_NOT_SHOWN.finding(
                "The card says that scores fell, but shows no scores to compare with.",
                "Show the scores of both in one table, each with its branch.",
                file=document.path,
                line=line,
            )
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
