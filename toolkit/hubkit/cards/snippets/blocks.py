"""The Python blocks of a card, found by a Markdown parser."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from markdown_it import MarkdownIt

from hubkit.cards.snippets.defined_names import defined, undefined

_PYTHON = frozenset({"python", "py", "python3", "pycon"})
_FRONT = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n.*?\n---[ \t]*(?=\r?\n|\Z)", re.DOTALL)
_PROMPT = re.compile(r"(?:>>>|\.\.\.)(?: |$)")
_NOTEBOOK = re.compile(r"^[ \t]*[!%]", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A Python block.

    ``number`` counts a card's Python blocks from 1, ``line`` is the line of the card on which its code begins.
    ``source`` is the code without the prompts of an interactive session. ``shell`` is the block of another language
    directly before it, which may start the server that it asks.
    """

    number: int
    line: int
    source: str
    shell: str = ""

    @property
    def for_notebook(self) -> bool:
        """Whether it has lines that only a notebook understands (``!pip install``)."""
        return not parses(self.source) and bool(_NOTEBOOK.search(self.source))

    @property
    def without_magic(self) -> str:
        """The code with those lines left empty."""
        return "\n".join("" if _NOTEBOOK.match(line) else line for line in self.source.split("\n"))


def extract(text: str) -> list[Block]:
    """The Python blocks of the card ``text``, in order."""
    found: list[Block] = []
    before = ""
    for token in MarkdownIt("commonmark").parse(without_front_matter(text)):
        if token.type != "fence" or token.map is None:
            continue
        word = token.info.strip().split(" ")[0].lower().strip("{}.")
        if word in _PYTHON:
            found.append(Block(len(found) + 1, token.map[0] + 2, _plain(token.content), before))
            before = ""
        else:
            before = token.content
    return found


def without_front_matter(text: str) -> str:
    """``text`` with the lines of its front matter left empty, so that the others keep their numbers."""
    head = _FRONT.match(text)
    return "\n" * head[0].count("\n") + text[head.end() :] if head else text


def _plain(source: str) -> str:
    """Code of an interactive session without its prompts; what it answered becomes empty lines."""
    lines = source.split("\n")
    if not any(line.startswith(">>> ") for line in lines):
        return source
    return "\n".join(line[4:] if _PROMPT.match(line) else "" for line in lines)


def parses(source: str) -> bool:
    """Whether ``source`` is Python."""
    return tree_of(source) is not None


def tree_of(source: str) -> ast.Module | None:
    """The syntax tree; None when ``source`` is not Python."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


@dataclass
class Imports:
    """What blocks import: names by module."""

    names: dict[str, set[str]] = field(default_factory=dict)

    def add(self, source: str) -> None:
        """Add what ``source`` imports, wherever in it."""
        for node in ast.walk(tree_of(source) or ast.Module([], [])):
            if isinstance(node, ast.Import):
                for item in node.names:
                    self.names.setdefault(item.name, set())
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                self.names.setdefault(node.module, set()).update(item.name for item in node.names)

    @property
    def roots(self) -> set[str]:
        """The top-level packages."""
        return {name.partition(".")[0] for name in self.names}


def with_what_it_needs(blocks: list[Block], place: int) -> list[Block]:
    """The block at ``place`` after the earlier ones whose names it uses, which readers have run before it."""
    wanted: Mapping[int, Block] = {place: blocks[place]}
    left = [place]
    while left:
        at = left.pop()
        for name in undefined(blocks[at].source):
            for earlier in range(at - 1, -1, -1):
                if name in defined(blocks[earlier].source):
                    if earlier not in wanted:
                        wanted = {**wanted, earlier: blocks[earlier]}
                        left.append(earlier)
                    break
    return [wanted[at] for at in sorted(wanted)]
