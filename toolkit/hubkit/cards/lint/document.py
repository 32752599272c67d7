"""A card, taken apart by a Markdown parser: front matter, tables, code, links, prose, each with its line.

Tables are found inside code fences too: the printed tables of lm-evaluation-harness are mostly pasted so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import unescape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, reference
from markdown_it.token import Token

from hubkit.cards.metadata import read_block
from hubkit.cards.snippets.blocks import Block, extract, without_front_matter
from hubkit.core.bounded_yaml import YamlError
from hubkit.core.html_tables import TAG, HtmlTable, html_tables, without_comments

_RULED = re.compile(r"^[ \t]*\|.*\|[ \t]*\n[ \t]*\|[-:| ]+\|", re.MULTILINE)
_PIPE = re.compile(r"(?<!\\)\|")
_TARGET = re.compile(r"\s(src|href)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>\"']+))", re.IGNORECASE)
_LONGEST_TAG = 4000
"""Characters of a tag above which it holds a picture itself, and names no file."""
_LABEL = 80
"""Characters up to which a paragraph directly before a table is its title."""
_CODE = frozenset(
    {
        "python",
        "py",
        "python3",
        "pycon",
        "json",
        "yaml",
        "yml",
        "sh",
        "bash",
        "shell",
        "console",
        "jinja",
        "diff",
        "sql",
    }
)


@dataclass(frozen=True)
class Row:
    """A row of a table: its line, and the text of its cells without emphasis."""

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table. ``section`` numbers the headings before it, ``labels`` are what may be its title, nearest first.

    ``damaged``: a row has more cells than there are heads, as when lines ran together, so that some are not seen.
    """

    line: int
    section: int
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    labels: tuple[str, ...]
    damaged: bool = False

    @property
    def last(self) -> int:
        """Its last line."""
        return max((row.line for row in self.rows), default=self.line + 1)


@dataclass(frozen=True)
class Fence:
    """A block of code; ``line`` is that of its first line of code."""

    line: int
    language: str
    content: str


@dataclass(frozen=True)
class Link:
    """A link or a picture."""

    line: int
    target: str
    picture: bool


@dataclass(frozen=True)
class Line:
    """A line of prose, without code."""

    line: int
    section: int
    text: str


@dataclass
class Document:
    """A card in parts. ``metadata`` is empty when there is none, or none that can be read."""

    path: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    fences: list[Fence] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    prose: list[Line] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)
    headings: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, text: str, path: str = "README.md") -> Document:
        """Take ``text`` apart; never fails."""
        found = cls(path, text, blocks=extract(text))
        try:
            found.metadata = read_block(text.removeprefix("\ufeff")) or {}
        except YamlError:
            found.metadata = {}
        body = without_front_matter(text)
        reader = _Reader(found)
        reader.read(body, 0)
        reader.read_html(body)
        return found

    def line_of(self, key: str) -> int:
        """The line of a key of the front matter; 1 when it is not there."""
        if key not in self.keys:
            self.keys[key] = self._line_of(key)
        return self.keys[key]

    def _line_of(self, key: str) -> int:
        fences = 0
        for number, line in enumerate(self.text.removeprefix("\ufeff").splitlines(), 1):
            if re.match(rf"[\"']?{re.escape(key)}[\"']?\s*:", line):
                return number
            fences += line.rstrip() == "---"
            if fences > 1:
                break
        return 1


def _of_html(table: HtmlTable, section: int, title: str) -> Table:
    head, *rows = table.rows
    odd = table.nested or any(len(row.cells) > len(head.cells) for row in rows)
    labels = tuple(label for label in (table.caption, title) if label)
    return Table(table.line, section, head.cells, tuple(Row(row.line, row.cells) for row in rows), labels, odd)


def words_of(token: Token) -> str:
    """The text of an inline token without emphasis, with single spaces."""
    kinds = {"text", "text_special", "code_inline"}
    parts = [child.content if child.type in kinds else " " for child in token.children or []
             if child.type in kinds or child.type in {"softbreak", "hardbreak"}]  # fmt: skip
    return " ".join("".join(parts).split())


def _reference(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The definition of a link, which a footnote of GitHub's Markdown (``[^1]: 5-shot``) is not."""
    if state.src.startswith("[^", state.bMarks[start] + state.tShift[start]):
        return False
    return reference(state, start, end, silent)


def _parser() -> MarkdownIt:
    made = MarkdownIt("commonmark").enable("table")
    made.block.ruler.at("reference", _reference)
    return made


class _Reader:
    """Goes through the tokens once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.section = 0
        self.heading = ""
        self.before = ""
        self.lines: list[str] = []
        self.inside = False
        self.titles: list[tuple[int, int, str]] = []
        self.code: list[tuple[int, int]] = []

    def read(self, text: str, offset: int) -> None:
        """Add what is in ``text``, the line 1 of which is the line ``offset`` + 1 of the card."""
        tokens = _parser().parse(text)
        around, self.lines = self.lines, text.splitlines()
        index = 0
        while index < len(tokens):
            token = tokens[index]
            line = offset + (token.map[0] if token.map else 0) + 1
            if token.type == "table_open":
                index = self._table(tokens, index, offset)
                self.before = ""
            elif token.type == "heading_open":
                self.section += 1
                self.heading, self.before = words_of(tokens[index + 1]), ""
                self.titles.append((line, self.section, self.heading))
                self.document.headings.add(line)
            elif token.type in {"fence", "code_block"}:
                if token.map and not self.inside:
                    self.code.append((token.map[0], token.map[1]))
                self._fence(token, line + (token.type == "fence"))
            elif token.type == "html_block":
                self._html(token.content, line)
            elif token.type == "inline":
                self._inline(token, line)
                self.before = words_of(token)
            index += 1
        self.lines = around

    def read_html(self, text: str) -> None:
        """Add the tables that ``text`` writes as HTML, outside its blocks of code; after :meth:`read`."""
        if "<table" not in text.lower():
            return
        lines = text.split("\n")
        for start, end in self.code:
            lines[start:end] = [""] * len(lines[start:end])
        for table in html_tables("\n".join(lines)):
            above = [(section, title) for line, section, title in self.titles if line <= table.line]
            section, title = above[-1] if above else (0, "")
            self.document.tables.append(_of_html(table, section, title))
        self.document.tables.sort(key=lambda table: table.line)

    def _table(self, tokens: Sequence[Token], index: int, offset: int) -> int:
        start, row_line = index, 0
        rows: list[Row] = []
        cells: list[str] = []
        while tokens[index].type != "table_close":
            token = tokens[index]
            if token.type == "tr_open":
                cells, row_line = [], offset + (token.map[0] if token.map else 0) + 1
            elif token.type == "inline":
                cells.append(words_of(token))
                self._links(token, row_line)
            elif token.type == "tr_close":
                rows.append(Row(row_line, tuple(cells)))
            index += 1
        line = offset + ((tokens[start].map or [0])[0]) + 1
        titles = [self.before] if len(self.before) <= _LABEL else []
        labels = tuple(label for label in (*titles, self.heading) if label)
        heads, lines = rows[0].cells, self.lines
        damaged = any(_PIPE.subn("", lines[row.line - offset - 1])[1] > len(heads) + 1 for row in rows[1:])
        self.document.tables.append(Table(line, self.section, heads, tuple(rows[1:]), labels, damaged))
        return index

    def _fence(self, token: Token, line: int) -> None:
        language = token.info.strip().split(" ")[0].lower()
        self.document.fences.append(Fence(line, language, token.content))
        content = token.content
        if token.info.lstrip().startswith("|"):  # the table begins where the fence does
            content, line = f"{token.info}\n{content}", line - 1
        if language not in _CODE and not self.inside and _RULED.search(content):
            self._inside(content, line)

    def _inside(self, content: str, line: int) -> None:
        """The tables of a fence, and what stands between them; no heading is in there, only a '#'."""
        fences = len(self.document.fences)
        lines = [re.sub(r"^\s*#+\s*|^\s+(?=\|)", "", item) for item in content.split("\n")]
        self.inside = True  # once: a fence in a fence in a fence would be read as often as it is deep
        self.read("\n".join(lines), line - 1)
        self.inside = False
        del self.document.fences[fences:]

    def _html(self, content: str, line: int) -> None:
        words, links = _markup(content)
        self.document.links += [Link(line + at, target, picture) for at, target, picture in links]
        if words:
            self.before = words
            self.document.prose.append(Line(line, self.section, self.before))

    def _inline(self, token: Token, line: int) -> None:
        self._links(token, line)
        text, at = "", line
        for child in token.children or []:
            if child.type in {"softbreak", "hardbreak"}:
                self.document.prose.append(Line(at, self.section, " ".join(text.split())))
                text, at = "", at + 1
            elif child.type in {"text", "text_special"}:
                text += child.content
        self.document.prose.append(Line(at, self.section, " ".join(text.split())))

    def _links(self, token: Token, line: int) -> None:
        for child in _deep(token.children or []):
            if child.type in {"softbreak", "hardbreak"}:
                line += 1
            target = child.attrGet("href") if child.type == "link_open" else child.attrGet("src")
            if child.type in {"link_open", "image"} and target is not None:
                self.document.links.append(Link(line, str(target), child.type == "image"))
            elif child.type == "html_inline":
                self.document.links += [Link(line + at, to, picture) for at, to, picture in _markup(child.content)[1]]


def _deep(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        if token.type != "image":
            yield from _deep(token.children or [])


def _markup(content: str) -> tuple[str, list[tuple[int, str, bool]]]:
    """The words of a piece of HTML, and its links with the line from 0 and whether it is a picture.

    Not by html.parser, which takes the square of the time for tags that never end. No tag is longer than here from one
    '<' to the next, so that each character is looked at a few times at most.
    """
    content = without_comments(content)
    links: list[tuple[int, str, bool]] = []
    words: list[str] = []
    line = end = 0
    for tag in TAG.finditer(content):
        words.append(content[end : tag.start()])
        line += content.count("\n", end, tag.start())
        name = re.match(r"<(img|a)\s", tag[0], re.IGNORECASE)
        if name and len(tag[0]) <= _LONGEST_TAG:
            wanted = {"img": "src", "a": "href"}[name[1].lower()]
            found = (unescape(item[2] or item[3] or item[4] or "")
                     for item in _TARGET.finditer(tag[0]) if item[1].lower() == wanted)  # fmt: skip
            links += [(line, target, wanted == "src") for target in found if target]
        line += tag[0].count("\n")
        end = tag.end()
    words.append(content[end:])
    return " ".join(unescape("".join(words)).split()), links
