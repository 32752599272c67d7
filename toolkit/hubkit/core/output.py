"""The only module that prints. Results go to stdout, messages and progress to stderr, and tokens are redacted.

Whatever is printed is made visible first (:mod:`hubkit.core.printable`): a caller may pass text of strangers as it is.

Three modes: *human* (rich tables, a live view of the steps on a terminal, plain lines elsewhere), *json* (one
JSON document on stdout) and *quiet* (errors only). ``NO_COLOR``, ``CI`` and non-terminals are respected.

rich is imported only where something is laid out for a terminal or in a table: it takes longer to import than a
command such as `hubkit hub status` takes to run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TextIO

from hubkit.core.errors import HubkitError
from hubkit.core.printable import escaped_json, printable, printable_lines
from hubkit.core.step_view import StepView

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

Mode = Literal["human", "json", "quiet"]

_TOKEN = re.compile(
    r"(?:hf|api_org)_[A-Za-z0-9]{16,}\b|hf_(?:oauth|jwt)_[A-Za-z0-9._-]{16,}|(?i:bearer\s+)[A-Za-z0-9._~+/=-]{16,}"
)
_secrets: set[str] = set()
_UNBOUNDED = 10_000
"""Columns where stdout is not a terminal: lines in a file or a pipe are never wrapped."""


def hide(secret: str | None) -> None:
    """Redact ``secret`` from everything that is printed from now on, whatever its shape."""
    if secret and len(secret) >= 8:
        _secrets.add(secret)


def redact(text: str) -> str:
    """``text`` without tokens: those given to :func:`hide`, and everything that looks like a Hub token."""
    for secret in _secrets:
        text = text.replace(secret, "[token]")
    return _TOKEN.sub("[token]", text)


class RedactingStream:
    """A text stream that redacts what is written to it. Its target can be replaced while others use the stream."""

    def __init__(self, target: TextIO) -> None:
        self.target = target

    def write(self, text: str) -> int:
        """Write ``text`` without its tokens; return the length of the original, as callers expect."""
        text, length = redact(text), len(text)
        try:
            self.target.write(text)
        except UnicodeEncodeError:  # half of a character, or a terminal that is not in UTF-8
            encoding = self.target.encoding
            self.target.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return length

    def flush(self) -> None:
        """Flush the target."""
        self.target.flush()

    def isatty(self) -> bool:
        """Whether the target is a terminal."""
        return self.target.isatty()

    def fileno(self) -> int:
        """The target's file descriptor."""
        return self.target.fileno()

    @property
    def encoding(self) -> str:
        """The target's encoding."""
        return self.target.encoding


class PlainStream(RedactingStream):
    """A stream for what other libraries print: no token, and nothing that controls a terminal. A progress bar's
    carriage returns end lines."""

    def write(self, text: str) -> int:
        """Write ``text`` as lines of visible characters."""
        super().write(printable_lines(text.replace("\r\n", "\n").replace("\r", "\n"), cut=False))
        return len(text)

    @property
    def buffer(self) -> BinaryIO:
        """For bytes, which click writes where a shell reads completions."""
        return self.target.buffer


def show_plainly() -> None:
    """From now on, what libraries print by themselves (warnings, logs, tracebacks) goes through a PlainStream."""
    sys.stdout, sys.stderr = PlainStream(_own(sys.stdout)), PlainStream(_own(sys.stderr))


def _own(stream: TextIO | PlainStream) -> TextIO:
    """The stream behind a PlainStream: :class:`Output` writes colors, and cleans by itself."""
    return stream.target if isinstance(stream, PlainStream) else stream


@dataclass
class Output:
    """Where a command prints. The command line creates one and passes it down."""

    mode: Mode = "human"
    stdout: TextIO = field(default_factory=lambda: _own(sys.stdout))
    stderr: TextIO = field(default_factory=lambda: _own(sys.stderr))

    @cached_property
    def data(self) -> Console:
        """The console of stdout, for results."""
        from hubkit.core.consoles import CleanConsole

        return CleanConsole(
            file=RedactingStream(self.stdout),  # type: ignore[arg-type]  # a Console writes and flushes, no more
            width=None if self.stdout.isatty() else _UNBOUNDED,
            no_color=bool(os.environ.get("NO_COLOR")) or None,
            soft_wrap=not self.stdout.isatty(),
            highlight=False,
        )

    @cached_property
    def talk(self) -> Console:
        """The console of stderr, for messages and progress."""
        from hubkit.core.consoles import CleanConsole

        return CleanConsole(
            file=RedactingStream(self.stderr),  # type: ignore[arg-type]
            no_color=bool(os.environ.get("NO_COLOR")) or None,
            force_interactive=False if os.environ.get("CI") else None,
            soft_wrap=not self.stderr.isatty(),
            highlight=False,
        )

    def say(self, text: str) -> None:
        """Print a message on stderr, in human mode only."""
        if self.mode == "human":
            self._message(text)

    def warn(self, text: str) -> None:
        """Print a note on stderr, unless quiet."""
        if self.mode != "quiet":
            self._message(text, "Note: ", "yellow")

    def error(self, error: HubkitError) -> None:
        """Print on stderr what went wrong and what to do next, in every mode; in JSON mode on stdout too."""
        if self.mode == "json":
            value = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
            self._write(self.stdout, escaped_json(json.dumps(value, ensure_ascii=False)))
        self._message(error.message, "Error: ", "red")
        if error.hint:
            self._message(error.hint)

    def result(self, value: Any, *shown: RenderableType) -> None:
        """Print a command's result on stdout: ``value`` in JSON mode, ``shown`` in human mode (str: plain text)."""
        if self.mode == "json":
            document = json.dumps(value, indent=2, ensure_ascii=False, default=str)
            self._write(self.stdout, escaped_json(document))
        elif self.mode == "human":
            for item in shown:
                self._show(item)

    def new_token(self, token: str, value: Any) -> None:
        """Print a token that was created just now, ``value`` in JSON mode: the only output that is not redacted."""
        text = json.dumps({**value, "token": token}, indent=2, ensure_ascii=True) if self.mode == "json" else token
        self.stdout.write(printable_lines(text, cut=False) + "\n")
        self.stdout.flush()

    def _show(self, item: RenderableType) -> None:
        """Print a part of a result on stdout."""
        if not isinstance(item, str):
            self.data.print(item)
        elif _fits(self.stdout, text := printable_lines(item)):
            self._write(self.stdout, text)
        else:
            self.data.print(redact(text), markup=False, emoji=False)

    def line(self, value: Any, text: str) -> None:
        """Print one line of a result that goes on (a log) on stdout: ``value`` as JSON in JSON mode, else ``text``."""
        as_json = self.mode == "json"
        line = escaped_json(json.dumps(value, ensure_ascii=False)) if as_json else printable_lines(printable(text))
        self._write(self.stdout, line)

    def text(self, text: str) -> None:
        """Print a document (a card, a script) on stdout without color or wrapping; a file gets it unchanged."""
        text = text.rstrip("\n")
        self._write(self.stdout, text if _is_file(self.stdout) else printable_lines(text, cut=False))

    def _message(self, text: str, head: str = "", style: str = "") -> None:
        """A line on stderr that begins with ``head`` in the color ``style``."""
        text = printable_lines(text)
        colored = bool(head) and self.stderr.isatty() and not os.environ.get("NO_COLOR")
        # Below a live view only its own console may print.
        if not colored and "talk" not in self.__dict__ and _fits(self.stderr, head + text):
            self._write(self.stderr, head + text)
            return
        from rich.text import Text

        self.talk.print(Text.assemble((head, style), redact(text)))

    def _write(self, stream: TextIO, text: str) -> None:
        redacting = RedactingStream(stream)
        redacting.write(text + "\n")
        redacting.flush()

    def heading(self, text: str) -> None:
        """Print on stderr, in bold and folded at words, what a command is about to do."""
        if self.mode != "human":
            return
        if not self.stderr.isatty():
            self.say(text)
            return
        from rich.text import Text

        self.talk.print(Text(redact(text) + "\n", "bold"))

    @contextmanager
    def steps(self, names: Sequence[str], shown: set[str] | None = None) -> Iterator[StepView]:
        """Follow the steps ``names``: a live view on a terminal, a line for each step elsewhere.

        ``shown`` are steps that a view before has printed; those of this view are added.
        """
        view = StepView(self, names, set() if shown is None else shown)
        if self.mode == "human" and self.stderr.isatty() and self.talk.is_terminal and self.talk.is_interactive:
            from rich.live import Live

            with Live(view, console=self.talk, refresh_per_second=8, transient=True, vertical_overflow="crop") as live:
                view.live = live
                try:
                    yield view
                finally:
                    view.close()
        else:
            yield view


def _is_file(stream: TextIO) -> bool:
    """Whether ``stream`` writes to a file on disk: no terminal and no log shows what is written there."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def _fits(stream: TextIO, text: str) -> bool:
    """Whether ``text`` needs no word wrapping on ``stream``: it is no terminal, or every line fits its width."""
    if not stream.isatty():
        return True
    width = shutil.get_terminal_size().columns
    return all(len(line) < width for line in text.splitlines())


def table(heads: Sequence[str], rows: Iterable[Sequence[str | Text]], *, title: str | None = None) -> Table:
    """A table of words for :meth:`Output.result`.

    Columns whose heads end in '#' are aligned to the right. On a narrow terminal words wrap, names and numbers do not.
    """
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place, head in enumerate(heads):
        figures = head.endswith("#")
        grid.add_column(
            printable(head.rstrip("#")),
            justify="right" if figures else "left",
            no_wrap=figures or place < len(heads) - 2,
        )
    for row in rows:
        grid.add_row(*[Text(printable(cell)) if isinstance(cell, str) else cell for cell in row])
    return grid
