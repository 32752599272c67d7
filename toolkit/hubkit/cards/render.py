"""A card from a context: Jinja in its immutable sandbox, strict about undefined names, bare numbers and raw strings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hubkit.cards import escape
from hubkit.cards.measured import FORMATS, CardError, Measured, Number, value_of
from hubkit.cards.metadata import front_matter
from hubkit.files import resource_dir

MODEL_CARD, ADAPTER_CARD = "README.md", "adapter-README.md"
TEMPLATES = {MODEL_CARD: "model.md.jinja", ADAPTER_CARD: "adapter.md.jinja"}
_MARK = re.compile("\x00([nf])([0-9]+)\x00")
_EMPTY = re.compile(r"<!-- hubkit:begin (\S+) -->\n+<!-- hubkit:end \1 -->\n*")


@dataclass(frozen=True)
class Rendered:
    """A card, its metadata as plain values, and every number that stands on it."""

    text: str
    metadata: Mapping[str, Any]
    numbers: tuple[Number, ...]


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, in which a measured number has no attributes."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse every attribute of a :class:`Measured`, and what the sandbox refuses."""
        return not isinstance(obj, Measured) and super().is_safe_attribute(obj, attr, value)


class _Recorder:
    """The ``measured`` filters of one rendering. A number is written as a mark, and as text when all is rendered."""

    def __init__(self) -> None:
        self.seen: list[tuple[Measured, str]] = []
        self.blocks: list[str] = []

    def measured(self, number: Any, form: str) -> escape.Safe:
        """``{{ rate | measured("percent") }}``; None is written as 'missing', never as a number."""
        if number is None:
            return escape.Safe("missing")
        if not isinstance(number, Measured):
            raise CardError(f"the filter `measured` was given {type(number).__name__}, not a measured number")
        if form not in FORMATS:
            raise CardError(f"there is no format {form!r}; there are {', '.join(FORMATS)}")
        self.seen.append((number, form))
        return escape.Safe(f"\x00n{len(self.seen) - 1}\x00")

    def share(self, form: Any) -> escape.Safe:
        """A stop rate with how many of how many, and its interval; 'missing' when it was not measured."""
        if form is None:
            return escape.Safe("missing")
        said = {name: self.measured(form[name], "percent") for name in ("rate", "low", "high")}
        counts = {name: self.measured(form[name], "count") for name in ("stopped", "prompts")}
        of = f"{counts['stopped']} of {counts['prompts']}"
        return escape.Safe(f"{said['rate']} ({of}; {said['low']} to {said['high']})")

    def score(self, cell: Any) -> escape.Safe:
        """A benchmark value with its standard error, where there is one; 'missing' when it was not measured."""
        if cell is None:
            return escape.Safe("missing")
        value = self.measured(cell["value"], "score")
        error = cell.get("stderr")
        return escape.Safe(f"{value} ± {self.measured(error, 'score')}") if error is not None else value

    def fenced(self, text: str, language: str = "text") -> escape.Safe:
        """``text`` as a fenced block, kept apart so that nothing touches its empty lines."""
        self.blocks.append(escape.fenced(text, language))
        return escape.Safe(f"\x00f{len(self.blocks) - 1}\x00")

    def shown(self, value: Any) -> escape.Safe:
        """Any value of a settings file: numbers as measured, words as code, lists and mappings by their parts."""
        if isinstance(value, Measured):
            return self.measured(value, "plain")
        if isinstance(value, bool) or value is None:
            return escape.cell({True: "true", False: "false", None: "none"}[value])
        if isinstance(value, Mapping):
            return escape.Safe(", ".join(f"{escape.cell(key)} {self.shown(item)}" for key, item in value.items()))
        if isinstance(value, list):
            return escape.Safe(", ".join(self.shown(item) for item in value))
        return escape.cell(str(value))

    def finish(self, text: str, start: int) -> tuple[str, list[Number]]:
        """``text`` with the marks written out, and the numbers with their places (``start`` is added to each)."""
        parts: list[str] = []
        numbers: list[Number] = []
        length, last = start, 0
        for mark in _MARK.finditer(text):
            before, place = text[last : mark.start()], int(mark[2])
            length += len(before)
            if mark[1] == "f":
                said = self.blocks[place]
            else:
                found, form = self.seen[place]
                value = value_of(found)
                said = FORMATS[form](value)
                numbers.append(Number(said, length, found.step, found.file, found.pointer, value, form))
            parts += [before, said]
            length, last = length + len(said), mark.end()
        return "".join([*parts, text[last:]]), numbers


def _finalize(value: Any) -> Any:
    """What a template prints must have passed a filter of ours: no bare number, no raw string."""
    if isinstance(value, escape.Safe):
        return value
    if isinstance(value, Undefined):
        return str(value)  # raises, naming what is undefined
    if isinstance(value, Measured):
        raise CardError(f"{value!r} was printed without the filter `measured`")
    raise CardError(f"a bare {type(value).__name__} was printed: {str(value)[:80]!r}")


_RECORDER: ContextVar[_Recorder] = ContextVar("recorder")


def _recording(name: str) -> Callable[..., escape.Safe]:
    def filtered(*args: Any) -> escape.Safe:
        said: escape.Safe = getattr(_RECORDER.get(), name)(*args)
        return said

    return filtered


@cache
def environment(templates: Path) -> ImmutableSandboxedEnvironment:
    """The sandbox for the templates in the folder ``templates``, with our filters and no others. Compiled once."""
    made = _Environment(
        loader=FileSystemLoader(templates),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalize,
    )
    recorded = ("measured", "shown", "share", "score", "fenced")
    escaped = (
        "md", "sentence", "paragraphs", "code", "cell", "python", "shell", "html", "path", "link", "branch_url",
    )  # fmt: skip
    made.filters = {
        **{name: _recording(name) for name in recorded},
        **{name: getattr(escape, name) for name in escaped},
    }
    made.globals = {}
    return made


def unwrapped(body: str) -> str:
    """``body`` with each paragraph on one line, no two empty lines in a row and no empty region.

    Templates are wrapped for those who edit them. Tables, lists, headings, HTML and fenced blocks stay as they are.
    """
    lines: list[str] = []
    fenced = joins = False
    for line in body.split("\n"):
        fence = line.startswith("```")
        prose = not (fenced or fence or not line.strip() or line[0] in "|-#<! " or line.startswith("\x00f"))
        if prose and joins:
            lines[-1] = f"{lines[-1].rstrip()} {line.lstrip()}"
        elif line.strip() or fenced or (lines and lines[-1]):
            lines.append(line if line.strip() else "")
        fenced = fenced != fence
        joins = prose
    return _EMPTY.sub("", "\n".join(lines)).strip() + "\n"


@cache
def _templates() -> Path:
    return resource_dir("card_templates")


def render_card(context: Mapping[str, Any], which: str = MODEL_CARD, *, templates: Path | None = None) -> Rendered:
    """The card ``which`` (``MODEL_CARD`` or ``ADAPTER_CARD``) of ``context`` (see :func:`hubkit.cards.build_context`).

    Raises CardError, or Jinja's UndefinedError and SecurityError, when a template is wrong.
    """
    if which != MODEL_CARD:
        context = {**context, "pictures": dict.fromkeys(context["pictures"])}
    recorder = _Recorder()
    token = _RECORDER.set(recorder)
    try:
        body = environment(templates or _templates()).get_template(TEMPLATES[which]).render(context)
    finally:
        _RECORDER.reset(token)
    block, metadata, in_metadata = front_matter(context["metadata"][which])
    head = f"---\n{block}\n---\n\n"
    text, numbers = recorder.finish(unwrapped(body), len(head))
    return Rendered(head + text, metadata, (*in_metadata, *numbers))
