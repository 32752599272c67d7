"""The only module that prints. Data goes to stdout, talk and progress to stderr, and no token gets through.

Three modes: *human* (rich tables, a live view of the steps on a terminal, plain lines elsewhere), *json* (one
JSON document on stdout) and *quiet* (errors only). ``NO_COLOR``, ``CI`` and non-terminals are respected.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from hubkit.core.errors import HubkitError

Mode = Literal["human", "json", "quiet"]

_TOKEN = re.compile(
    r"(?:hf|api_org)_[A-Za-z0-9]{16,}\b|hf_(?:oauth|jwt)_[A-Za-z0-9._-]{16,}|(?i:bearer\s+)[A-Za-z0-9._~+/=-]{16,}"
)
_secrets: set[str] = set()
_UNBOUNDED = 10_000
"""Columns of what is no terminal: a file or a pipe gets whole lines."""


def hide(secret: str | None) -> None:
    """Never let ``secret`` out again, whatever its shape."""
    if secret and len(secret) >= 8:
        _secrets.add(secret)


def redact(text: str) -> str:
    """``text`` without tokens: those given to :func:`hide` and whatever has the shape of a Hub token."""
    for secret in _secrets:
        text = text.replace(secret, "[token]")
    return _TOKEN.sub("[token]", text)


class RedactingStream:
    """A text stream that redacts what is written to it. Its target can be changed while others hold it."""

    def __init__(self, target: TextIO) -> None:
        self.target = target

    def write(self, text: str) -> int:
        """Write ``text`` without its tokens; the count is that of the original, as callers expect."""
        self.target.write(redact(text))
        return len(text)

    def flush(self) -> None:
        """Flush the target."""
        self.target.flush()

    def isatty(self) -> bool:
        """Whether a person may be reading."""
        return self.target.isatty()

    def fileno(self) -> int:
        """The target's file descriptor."""
        return self.target.fileno()

    @property
    def encoding(self) -> str:
        """The target's encoding."""
        return self.target.encoding


def megabytes(size: float) -> str:
    """``size`` in bytes as people read it: '312 B', '1.4 MB', '14.5 GB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration(seconds: float) -> str:
    """``seconds`` as people read it: '0.4 s', '42 s', '3 min 05 s', '9 h 48 min'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def percent(share: float) -> str:
    """A share as a percentage with one decimal: '99.2 %'."""
    return f"{100 * share:.1f} %"


@dataclass
class _Line:
    state: Literal["waiting", "running", "done", "reused", "failed"] = "waiting"
    figure: str = ""
    share: float | None = None
    began: float = 0.0
    seconds: float = 0.0


@dataclass
class StepView:
    """The steps of a release as a person follows them. Made by :meth:`Output.steps`."""

    output: Output
    lines: dict[str, _Line]
    live: Live | None = None

    def start(self, step: str) -> None:
        """``step`` has begun."""
        self.lines[step] = _Line("running", began=time.monotonic())
        self._show(f"{step} …")

    def progress(self, step: str, figure: str, share: float | None) -> None:
        """``step`` is at ``figure``, the ``share`` (0 to 1) of it done."""
        line = self.lines[step]
        line.figure, line.share = figure, share
        self._show(None)

    def done(self, step: str, figure: str, seconds: float, *, reused: bool = False) -> None:
        """``step`` is finished, or was found finished."""
        self.lines[step] = _Line("reused" if reused else "done", figure, seconds=seconds)
        self._show(f"{step}: {'kept' if reused else duration(seconds)}{'  ' + figure if figure else ''}")

    def failed(self, step: str) -> None:
        """``step`` ended with an error."""
        line = self.lines[step]
        self.lines[step] = _Line("failed", line.figure, seconds=time.monotonic() - line.began)
        self._show(f"{step}: failed")

    def _shown(self) -> list[tuple[str, _Line]]:
        """The steps that fit the terminal: what is done goes first, then what waits."""
        room = max(3, self.output.talk.size.height - 2)
        lines = list(self.lines.items())
        begun = sum(line.state != "waiting" for _, line in lines)
        first = max(0, min(begun - 1 - room // 2, len(lines) - room))
        return lines[first : first + room]

    def _show(self, text: str | None) -> None:
        if self.live is not None:
            self.live.update(self)
        elif text is not None and self.output.mode == "human":
            self.output.say(text)

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        marks = {"waiting": "·", "done": "[green]✓[/]", "reused": "[dim]✓[/]", "failed": "[red]✗[/]"}
        for name, line in self._shown():
            running = line.state == "running"
            seconds = time.monotonic() - line.began if running else line.seconds
            mark: RenderableType = Spinner("dots") if running else Text.from_markup(marks[line.state])
            figure = line.figure if line.share is None or not running else f"{line.share:4.0%}  {line.figure}"
            took = {"waiting": "", "reused": "kept"}.get(line.state, duration(seconds))
            style = {"waiting": "dim", "reused": "dim", "running": "bold"}.get(line.state, "")
            table.add_row(mark, Text(name, style), Text(took, "dim", justify="right"), Text(figure))
        return Group(table)


def printable(text: str) -> str:
    """``text`` of a stranger's (a log, a name) without what would steer a terminal; tabs stay."""
    return "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


@dataclass
class Output:
    """Where a command speaks. One is made by the command line and handed down."""

    mode: Mode = "human"
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)

    def __post_init__(self) -> None:
        plain = bool(os.environ.get("NO_COLOR")) or None
        interactive = False if os.environ.get("CI") else None
        self.data = Console(
            file=RedactingStream(self.stdout),  # type: ignore[arg-type]  # a Console writes and flushes, no more
            width=None if self.stdout.isatty() else _UNBOUNDED,
            no_color=plain,
            soft_wrap=not self.stdout.isatty(),
            highlight=False,
        )
        self.talk = Console(
            file=RedactingStream(self.stderr),  # type: ignore[arg-type]
            no_color=plain,
            force_interactive=interactive,
            soft_wrap=not self.stderr.isatty(),
            highlight=False,
        )

    def say(self, text: str) -> None:
        """Talk to the person: a line on stderr, unless quiet or JSON."""
        if self.mode == "human":
            self.talk.print(Text(text))

    def warn(self, text: str) -> None:
        """Say what a person should know even so; on stderr unless quiet."""
        if self.mode != "quiet":
            self.talk.print(Text.assemble(("Note: ", "yellow"), text))

    def error(self, error: HubkitError) -> None:
        """Say on stderr what went wrong and what to do, in every mode; in JSON mode on stdout too."""
        if self.mode == "json":
            said = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
            self._write(json.dumps(said, ensure_ascii=False))
        self.talk.print(Text.assemble(("Error: ", "red"), error.message))
        if error.hint:
            self.talk.print(Text(error.hint))

    def result(self, value: Any, *shown: RenderableType) -> None:
        """The command's data on stdout: ``value`` as JSON when asked for, else what is ``shown``."""
        if self.mode == "json":
            self._write(json.dumps(value, indent=2, ensure_ascii=False, default=str))
        elif self.mode == "human":
            for item in shown:
                self.data.print(item)

    def text(self, text: str) -> None:
        """``text`` to stdout as it is (a card, a recipe), without colour or wrapping."""
        self._write(text.rstrip("\n"))

    def _write(self, text: str) -> None:
        stream = RedactingStream(self.stdout)
        stream.write(text + "\n")
        stream.flush()

    @contextmanager
    def steps(self, names: Sequence[str]) -> Iterator[StepView]:
        """Follow the steps ``names``: a live view on a terminal, a line for each elsewhere."""
        view = StepView(self, {name: _Line() for name in names})
        if self.mode == "human" and self.talk.is_terminal and self.talk.is_interactive:
            with Live(view, console=self.talk, refresh_per_second=8, vertical_overflow="visible") as live:
                view.live = live
                yield view
        else:
            yield view


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> Table:
    """A table of words for :meth:`Output.result`.

    Columns whose heads end in '#' are set flush right. On a narrow terminal words wrap, names and figures do not.
    """
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place, head in enumerate(heads):
        figures = head.endswith("#")
        made.add_column(
            head.rstrip("#"), justify="right" if figures else "left", no_wrap=figures or place < len(heads) - 2
        )
    for row in rows:
        made.add_row(*[Text(cell) for cell in row])
    return made
