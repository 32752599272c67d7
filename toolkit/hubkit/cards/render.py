"""Renders cards: Jinja's immutable sandbox, which refuses undefined names, bare numbers and raw strings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    FileSystemLoader,
    FunctionLoader,
    PrefixLoader,
    StrictUndefined,
    TemplateError,
    TemplateSyntaxError,
    Undefined,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hubkit.cards import escape
from hubkit.cards.edits import without_stray_markers
from hubkit.cards.measured import FORMATS, RENDERING, CardError, Measured, Number, bare, many_objects, value_of
from hubkit.cards.metadata import front_matter
from hubkit.core.errors import UsageError
from hubkit.core.files import resource_dir
from hubkit.core.numbers import NOT_MEASURED
from hubkit.recipe.models import Recipe

MODEL_CARD, ADAPTER_CARD, GGUF_CARD = "README.md", "adapter-README.md", "gguf/README.md"
SPACE_CARD, DATASET_CARD = "space-README.md", "dataset-README.md"
TEMPLATES = {
    MODEL_CARD: "model.md.jinja",
    ADAPTER_CARD: "adapter.md.jinja",
    GGUF_CARD: "gguf.md.jinja",
    SPACE_CARD: "space.md.jinja",
    DATASET_CARD: "dataset.md.jinja",
}
TEMPLATE_PREFIX = "hubkit"
"""The prefix of hubkit's templates in a recipe's own: ``{% extends "hubkit/model.md.jinja" %}``."""
_OF_TEMPLATES = (TemplateError, CardError, RecursionError)
_MISTAKES = (*_OF_TEMPLATES, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)
"""What a mistake in a template raises; the first ones are raised by nothing else."""
_MARK = re.compile("\x00([nf])([0-9]+)\x00")
_BEGIN = re.compile(r"(<!-- hubkit:begin \S+ -->\n)\n")
_EMPTY = re.compile(r"<!-- hubkit:begin (\S+) -->\n+<!-- hubkit:end \1 -->\n*")


@dataclass(frozen=True)
class Rendered:
    """A card, its metadata as plain values, and every number on it."""

    text: str
    metadata: Mapping[str, Any]
    numbers: tuple[Number, ...]


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, in which a measured number has no attributes, and what was rendered once may be printed again."""

    @staticmethod
    def concat(parts: Iterable[str]) -> escape.Safe:
        """The pieces of a block, a macro or a template (`super()`, `caller()`): each has passed a filter already."""
        return escape.Safe("".join(parts))

    def preprocess(self, source: str, name: str | None = None, filename: str | None = None) -> str:
        """Refuse a template that holds the character of which our marks are made."""
        source = super().preprocess(source, name, filename)
        if "\x00" in source:
            line = source.count("\n", 0, source.index("\x00")) + 1
            raise TemplateSyntaxError("it holds a NUL character", line, name, filename)
        return source

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse every attribute of a :class:`Measured`, and what the sandbox refuses."""
        return not isinstance(obj, Measured) and super().is_safe_attribute(obj, attr, value)


class _Recorder:
    """The ``measured`` filters of one rendering. A number is written as a mark, and as text when all is rendered."""

    def __init__(self) -> None:
        self.seen: list[tuple[Measured, str]] = []
        self.blocks: list[str] = []

    def measured(self, number: Any, form: str) -> escape.Safe:
        """``{{ rate | measured("percent") }}``; None is written as 'not measured'."""
        if number is None:
            return escape.Safe(NOT_MEASURED)
        if not isinstance(number, Measured):
            raise CardError(f"the filter `measured` was given {type(number).__name__}, not a measured number")
        if form not in FORMATS:
            raise CardError(f"there is no format {form!r}; there are {', '.join(FORMATS)}")
        self.seen.append((number, form))
        return escape.Safe(f"\x00n{len(self.seen) - 1}\x00")

    def share(self, form: Any) -> escape.Safe:
        """A stop rate with how many of how many, and its interval; 'not measured' if there is none."""
        if form is None:
            return escape.Safe(NOT_MEASURED)
        said = {name: self.measured(form[name], "percent") for name in ("rate", "low", "high")}
        counts = {name: self.measured(form[name], "count") for name in ("stopped", "prompts")}
        of = f"{counts['stopped']} of {counts['prompts']}"
        return escape.Safe(f"{said['rate']} ({of}; {said['low']} to {said['high']})")

    def ending(self, form: Any) -> escape.Safe:
        """How many answers of a stop rate ended, in words: '3 of 128 answers stop'."""
        if form is None:
            return escape.Safe(NOT_MEASURED)
        prompts = self.measured(form["prompts"], "count")
        if not value_of(form["stopped"]):
            return escape.Safe(f"none of {prompts} answers stops")
        if value_of(form["stopped"]) == value_of(form["prompts"]):
            return escape.Safe(f"all {prompts} answers stop")
        return escape.Safe(f"{self.measured(form['stopped'], 'count')} of {prompts} answers stop")

    def score(self, cell: Any) -> escape.Safe:
        """A benchmark value with its standard error, where there is one; 'not measured' if there is none."""
        if cell is None:
            return escape.Safe(NOT_MEASURED)
        value = self.measured(cell["value"], "score")
        error = cell.get("stderr")
        return escape.Safe(f"{value} ± {self.measured(error, 'score')}") if error is not None else value

    def classic(self, metric: Any) -> escape.Safe:
        """A metric as the cells Value, ± and Stderr of the classic table."""
        if metric is None:
            return escape.Safe(f"{NOT_MEASURED} | | ")
        value, error = self.measured(metric["value"], "score"), metric["stderr"]
        return escape.Safe(f"{value} | ± | {self.measured(error, 'score')}" if error is not None else f"{value} | | ")

    def fenced(self, text: str, language: str = "text") -> escape.Safe:
        """``text`` as a fenced block, kept apart so that nothing touches its empty lines."""
        self.blocks.append(escape.fenced(_words("fenced", text), _words("fenced", language)))
        return escape.Safe(f"\x00f{len(self.blocks) - 1}\x00")

    def shown(self, value: Any) -> escape.Safe:
        """Any value of a settings file: numbers as measured, words as code, lists and mappings by their parts."""
        if isinstance(value, Measured):
            return self.measured(value, "plain")
        if isinstance(value, bool) or value is None:
            return escape.cell({True: "true", False: "false", None: "none"}[value])
        if isinstance(value, Mapping):
            said = (f"{escape.cell(_words('shown', key))} {self.shown(item)}" for key, item in value.items())
            return escape.Safe(", ".join(said))
        if isinstance(value, list):
            return escape.Safe(", ".join(self.shown(item) for item in value))
        return escape.cell(_words("shown", value))

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
        raise bare(value)
    raise CardError(f"a bare {type(value).__name__} was printed: {str(value)[:80]!r}")


def _words(name: str, value: Any) -> str:
    """``value``, which the filter ``name`` was given, if it is text without a number's mark. CardError when not."""
    if isinstance(value, Undefined):
        return str(value)  # raises, naming what is undefined
    if isinstance(value, Measured):
        raise bare(value)
    if not isinstance(value, str):
        raise CardError(f"the filter `{name}` was given {type(value).__name__}, not text")
    if "\x00" in value:
        raise CardError(f"the filter `{name}` received the output of another filter; apply one filter per value")
    return value


def _escaping(name: str) -> Callable[..., escape.Safe]:
    function = getattr(escape, name)

    def filtered(value: Any, *more: Any) -> escape.Safe:
        if more or type(value) is not str or "\x00" in value:  # tables say many thousands of words
            value, more = _words(name, value), tuple(_words(name, item) for item in more)
        said: escape.Safe = function(value, *more)
        return said

    return filtered


_RECORDER: ContextVar[_Recorder] = ContextVar("recorder")


def _recording(name: str) -> Callable[..., escape.Safe]:
    def filtered(*args: Any) -> escape.Safe:
        said: escape.Safe = getattr(_RECORDER.get(), name)(*args)
        return said

    return filtered


@cache
def environment(templates: Path, own: Path | None = None) -> ImmutableSandboxedEnvironment:
    """The sandbox for the templates in the folder ``templates``, with our filters and no others. Compiled once.

    ``own`` is a recipe's: a folder of templates that are found before ours, or one file, the model card's.
    """
    ours = FileSystemLoader(templates)
    loaders: list[BaseLoader] = [ours, PrefixLoader({TEMPLATE_PREFIX: ours})]
    if own is not None:
        loaders.insert(0, FileSystemLoader(own) if own.is_dir() else _one_file(own))
    made = _Environment(
        loader=ChoiceLoader(loaders),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalize,
    )
    recorded = ("measured", "shown", "share", "ending", "score", "classic", "fenced")
    escaped = (
        "md", "sentence", "paragraphs", "code", "cell", "python", "shell", "html", "path", "link", "branch_url",
        "repo_url", "file_url", "place", "excerpt", "variant_link", "model_link", "dataset_link", "space_url",
    )  # fmt: skip
    made.filters = {
        **{name: _recording(name) for name in recorded},
        **{name: _escaping(name) for name in escaped},
    }
    made.globals = {}
    return made


def own_templates(recipe: Recipe, folder: Path) -> Path | None:
    """The recipe's own templates, which ``card.template`` names; its files stand in ``folder``.

    UsageError when there are none of that name.
    """
    return None if recipe.card.template is None else template_of(recipe, folder / recipe.card.template)


def template_of(recipe: Recipe, path: Path) -> Path:
    """``path``, where the recipe's own templates are. UsageError when there is nothing."""
    if not path.exists():
        raise UsageError(
            f"There is no card template {recipe.card.template!r} next to the recipe.",
            hint="Set `card.template` to a Jinja file or to a folder of Jinja files.",
        )
    return path


def _one_file(path: Path) -> BaseLoader:
    """The file ``path`` as the template of the model card."""

    def load(name: str) -> tuple[str, str, Callable[[], bool]] | None:
        if name != TEMPLATES[MODEL_CARD]:
            return None
        made = path.stat().st_mtime_ns
        return path.read_text(encoding="utf-8"), str(path), lambda: path.stat().st_mtime_ns == made

    return FunctionLoader(load)


def unwrapped(body: str) -> str:
    """``body`` with each paragraph on one line, no two empty lines in a row and no empty region.

    Templates are wrapped for those who edit them. Tables, lists, headings, quotes, HTML and fenced blocks stay as they
    are.
    """
    lines: list[str] = []
    fenced = joins = False
    for line in body.split("\n"):
        fence = line.startswith("```")
        prose = not (fenced or fence or not line.strip() or line[0] in "|-#<!> " or line.startswith("\x00f"))
        if prose and joins:
            lines[-1] = f"{lines[-1].rstrip()} {line.lstrip()}"
        elif line.strip() or fenced or (lines and lines[-1]):
            lines.append(line if line.strip() else "")
        fenced = fenced != fence
        joins = prose
    return _BEGIN.sub(r"\1", _EMPTY.sub("", "\n".join(lines))).strip() + "\n"


@cache
def _templates() -> Path:
    return resource_dir("card_templates")


@many_objects()
def render_card(
    context: Mapping[str, Any], which: str = MODEL_CARD, *, templates: Path | None = None, own: Path | None = None
) -> Rendered:
    """The card ``which`` (``MODEL_CARD``, ``ADAPTER_CARD`` or ``GGUF_CARD``) of ``context``.

    That is what :func:`hubkit.cards.template_context.build_context` returns.
    ``own`` are a recipe's templates (see :func:`environment`); UsageError when one is wrong. A mistake in ours raises
    CardError, or Jinja's UndefinedError and SecurityError.
    """
    body, recorder = _body(context, which, templates or _templates(), own)
    block, metadata, in_metadata = front_matter(context["metadata"][which])
    head = f"---\n{block}\n---\n\n"
    text, numbers = recorder.finish(body, len(head))
    return Rendered(head + text, metadata, (*in_metadata, *numbers))


def render_body(context: Mapping[str, Any], which: str, start: int) -> tuple[str, list[Number]]:
    """The text of the card ``which`` without metadata, and its numbers, their places counted from ``start``."""
    body, recorder = _body(context, which, _templates(), None)
    return recorder.finish(body, start)


def _body(context: Mapping[str, Any], which: str, templates: Path, own: Path | None) -> tuple[str, _Recorder]:
    if which != MODEL_CARD:
        context = {**context, "pictures": dict.fromkeys(context.get("pictures", {}))}
    recorder = _Recorder()
    token, shown = _RECORDER.set(recorder), RENDERING.set(True)
    try:
        body = unwrapped(environment(templates, own).get_template(TEMPLATES[which]).render(context))
    except _MISTAKES as error:
        if own is None or (not isinstance(error, _OF_TEMPLATES) and not _is_own(error, own)):
            raise
        line = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise UsageError(
            f"The recipe's card template {own.name}{line}: {' '.join(str(error).split())}",
            hint='Print numbers with `| measured("...")` and text with `| md` or `| code`.',
        ) from error
    finally:
        _RECORDER.reset(token)
        RENDERING.reset(shown)
    return (body if own is None else without_stray_markers(body)), recorder


def _is_own(error: BaseException, own: Path) -> bool:
    """Whether ``error`` was raised while a template of ``own`` was rendered."""
    found, trace = False, error.__traceback__
    while trace is not None:
        found = found or Path(trace.tb_frame.f_code.co_filename).is_relative_to(own)
        trace = trace.tb_next
    return found
