"""Tables that Markdown text holds as HTML, with their lines. Cells are plain text; spans are written out.

Not by html.parser, which takes the square of the time for tags that never end. No tag is longer than here from one '<'
to the next, so that each character is looked at a few times at most.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape

TAG = re.compile(r"<[/!?]?[A-Za-z](?:[^<>\"']|\"[^\"<]*\"|'[^'<]*')*>")
_NAME = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*)")
_SPAN = re.compile(r"\b(col|row)span\s*=\s*[\"']?(\d{1,3})", re.IGNORECASE)
_WIDEST, _LONGEST = 60, 2000
"""Columns and rows above which a table is none of scores; what lies beyond is not kept."""


@dataclass(frozen=True)
class HtmlRow:
    """A row with its line, from 1."""

    line: int
    cells: tuple[str, ...]


@dataclass
class HtmlTable:
    """A table. ``rows`` includes the header; ``nested`` tells that another table lay in it, which is not kept."""

    line: int
    caption: str = ""
    rows: list[HtmlRow] = field(default_factory=list)
    nested: bool = False


def html_tables(text: str) -> list[HtmlTable]:
    """The tables in ``text`` that are closed and have two rows of two cells at least."""
    found = []
    for table in _tables(without_comments(text)):
        wide = [row for row in table.rows if len(row.cells) > 1]
        if len(wide) > 1:
            found.append(table)
    return found


def without_comments(content: str) -> str:
    """HTML with the line ends alone of its comments; one that is never closed goes to the end."""
    kept, at = [], 0
    while (start := content.find("<!--", at)) >= 0:
        end = content.find("-->", start + 4)
        stop = len(content) if end < 0 else end + 3
        kept += [content[at:start], "\n" * content.count("\n", start, stop)]
        at = stop
    return "".join([*kept, content[at:]])


def _tables(text: str) -> Iterator[HtmlTable]:
    line, end, depth = 1, 0, 0
    builder: _Builder | None = None
    for tag in TAG.finditer(text):
        named = _NAME.match(tag[0])
        if builder:
            builder.text(text[end : tag.start()])
        line += text.count("\n", end, tag.start())
        end = tag.start()
        if named and named[2].lower() == "table":
            depth = max(0, depth + (-1 if named[1] else 1))
            if builder is None and depth == 1:
                builder = _Builder(HtmlTable(line))
            elif builder and depth == 0:
                builder.close_row()
                yield builder.table
                builder = None
            elif builder:
                builder.table.nested = True
        elif builder and named and depth == 1:
            builder.tag(named[2].lower(), bool(named[1]), tag[0], line)
        end = tag.end()
        line += tag[0].count("\n")


class _Builder:
    """Takes tags and text of one table in order."""

    def __init__(self, table: HtmlTable) -> None:
        self.table = table
        self.line = 0
        self.cells: list[str] | None = None
        self.words: list[str] | None = None
        self.spans = (1, 1)
        self.below: dict[int, tuple[int, str]] = {}
        self.caption = False

    def text(self, words: str) -> None:
        if self.words is not None:
            self.words.append(words)

    def tag(self, name: str, closes: bool, tag: str, line: int) -> None:
        if name in {"td", "th"}:
            self._close_cell()
            if not closes:
                if self.cells is None:
                    self._open_row(line)
                spans = {key.lower(): int(value) for key, value in _SPAN.findall(tag)}
                self.words, self.spans = [], (spans.get("col", 1), spans.get("row", 1))
        elif name == "tr":
            self.close_row()
            if not closes:
                self._open_row(line)
        elif name == "caption":
            if closes and self.caption:
                self.table.caption = _plain(self.words)
            self.caption, self.words = not closes, None if closes else []
        elif self.words is not None and name in {"br", "p", "div", "li"}:
            self.words.append(" ")

    def _open_row(self, line: int) -> None:
        self.cells, self.line = [], line

    def _from_above(self) -> None:
        """Cells of earlier rows that reach into this one, at this place."""
        assert self.cells is not None
        while (held := self.below.get(len(self.cells))) and len(self.cells) < _WIDEST:
            place = len(self.cells)
            self.below[place] = (held[0] - 1, held[1])
            if held[0] <= 1:
                del self.below[place]
            self.cells.append(held[1])

    def _close_cell(self) -> None:
        if self.words is None or self.cells is None or self.caption:
            return
        text, (wide, high) = _plain(self.words), self.spans
        self.words = None
        for _ in range(max(1, min(wide, _WIDEST))):
            self._from_above()
            if len(self.cells) >= _WIDEST:
                return
            if high > 1:
                self.below[len(self.cells)] = (high - 1, text)
            self.cells.append(text)

    def close_row(self) -> None:
        self._close_cell()
        if self.cells is not None:
            self._from_above()
            if self.cells and len(self.table.rows) < _LONGEST:
                self.table.rows.append(HtmlRow(self.line, tuple(self.cells)))
        self.cells = self.words = None


def _plain(words: list[str] | None) -> str:
    text = unescape("".join(words or []))
    return " ".join(re.sub(r"(?<!\w)[*_`]{1,3}|[*_`]{1,3}(?!\w)", "", text).split())
