"""The steps of a command, followed as they run: a live view on a terminal, a line for each event elsewhere.

On a terminal the line of a finished step is printed once and scrolls up with everything else. Only what is below it is
drawn again and again: the running step, how far it is, how long it will still take, and the command as a whole. These
lines are at most 79 columns long, so that a window that is made narrower, down to 80 columns, wraps none of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TextIO

from hubkit.core.numbers import counted, duration, rough_duration, share
from hubkit.core.numbers import seconds as whole_seconds
from hubkit.core.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

_WIDEST = 79
_BAR = 24
_LEAST_SECONDS = 3.0
"""Seconds of steady progress before the time to come is estimated."""
_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMGT]?B|s|min|h)(?:\W|$))")
_NAMES = 24
"""Columns that names of steps are aligned to, at most."""


@dataclass
class Pace:
    """How fast a step advances, from its reports of one kind of work: 'step 3/150' and 'step 4/150' are one kind."""

    kind: str = ""
    first: tuple[float, float] = (0.0, 0.0)
    last: tuple[float, float] = (0.0, 0.0)

    def report(self, text: str, done: float, now: float) -> None:
        """At ``now`` the share ``done`` (0 to 1) of the step is done, and it reports ``text``."""
        kind = re.sub(r"[\d.,]+|[kMGT]?B\b", "", text)
        if kind != self.kind or done < self.last[0]:
            self.kind, self.first = kind, (done, now)
        self.last = (done, now)

    def to_come(self, now: float) -> float | None:
        """Seconds until the step is done; None before the pace is known."""
        done, seconds = self.last[0] - self.first[0], self.last[1] - self.first[1]
        if done <= 0 or seconds < _LEAST_SECONDS:
            return None
        return max(0.0, (1 - self.last[0]) * seconds / done - (now - self.last[1]))


@dataclass
class _Running:
    step: str
    began: float
    figure: str = ""
    share: float | None = None
    pace: Pace = field(default_factory=Pace)


class Printer(Protocol):
    """What a view needs of :class:`hubkit.core.output.Output`, which imports this module."""

    stderr: TextIO

    @property
    def talk(self) -> Console:
        """The console of stderr."""

    def say(self, text: str) -> None:
        """Print a message on stderr, in human mode only."""

    def warn(self, text: str) -> None:
        """Print a note on stderr, unless quiet."""


@dataclass
class StepView:
    """The steps of a command, with the progress of each. Created by :meth:`Output.steps`.

    ``shown`` are the steps whose line was printed already, by a view before: a line is not printed twice.
    """

    output: Printer
    steps: Sequence[str]
    shown: set[str] = field(default_factory=set)
    live: Live | None = None
    began: float = field(default_factory=time.monotonic)
    _running: _Running | None = None
    _finished: set[str] = field(default_factory=set)
    _up_to_date: list[str] = field(default_factory=list)
    _printed: bool = False

    def start(self, step: str) -> None:
        """``step`` starts."""
        self._fold()
        self._running = _Running(step, time.monotonic())
        if self.live is None and step not in self.shown:
            self._say(f"{step} …")

    def progress(self, step: str, figure: str, share: float | None) -> None:
        """``step`` has reached ``figure``; ``share`` (0 to 1) of it is done."""
        if self._running is None or self._running.step != step:
            self._running = _Running(step, time.monotonic())
        self._running.figure, self._running.share = printable(figure), share
        if share is not None:
            self._running.pace.report(figure, share, time.monotonic())

    def done(self, step: str, figure: str, seconds: float, *, reused: bool = False) -> None:
        """``step`` is finished; ``reused``: an earlier run finished it, and its artifact is up to date."""
        figure, again = printable(figure), step in self.shown
        self._running = None
        self._finished.add(step)
        self.shown.add(step)
        if again:
            return
        if self.live is None:
            self._say(f"{step}: {'up to date' if reused else duration(seconds)}{'  ' + figure if figure else ''}")
        elif reused:
            self._up_to_date.append(step)
        else:
            self._fold()
            self._print("✓", "green", step, duration(seconds), figure)

    def failed(self, step: str, *, interrupted: bool = False) -> None:
        """``step`` ended with an error; ``interrupted``: a person or another process ended it."""
        running, self._running = self._running, None
        what = "interrupted" if interrupted else "failed"
        if self.live is None:
            self._say(f"{step}: {what}")
            return
        self._fold()
        took = duration(time.monotonic() - running.began) if running else ""
        self._print("✗", "yellow" if interrupted else "red", step, took, what)

    def close(self) -> None:
        """No step follows: print what is still to be printed, and a blank line before what comes."""
        self._running = None
        self._fold()
        if self._printed:
            self.output.talk.print()

    def _say(self, text: str) -> None:
        self.output.say(text)

    def _fold(self) -> None:
        """Print the steps that are up to date, all in one line."""
        names, self._up_to_date = self._up_to_date, []
        if names:
            self._print("✓", "dim", f"{counted(len(names), 'step')} up to date", "", ", ".join(names), dim=True)

    def _name_width(self) -> int:
        return min(_NAMES, max(map(len, self.steps)))

    def _print(self, mark: str, style: str, step: str, took: str, figure: str, *, dim: bool = False) -> None:
        """A line that stays, above what is drawn again; a long figure goes on below where it begins."""
        from textwrap import wrap

        from rich.text import Text

        self._printed = True
        head = f"{step:<{self._name_width()}} {took:>10}  " if took else f"{step}  "
        indent = min(len(head) + 2, 30)
        room = max(20, self.output.talk.width - 1)
        figure = _UNIT.sub("\N{NO-BREAK SPACE}", figure)  # a number stays beside its unit
        pieces = wrap(figure, room, initial_indent=" " * (len(head) + 2), subsequent_indent=" " * indent) or [""]
        pieces = [piece.replace("\N{NO-BREAK SPACE}", " ") for piece in pieces]
        first = pieces[0][len(head) + 2 :]
        line = Text.assemble((f"{self._mark(mark)} ", style), (head.rstrip() if not first else head, "dim" * dim))
        line.append("\n".join([first, *pieces[1:]]), "dim" * dim)
        self.output.talk.print(line, no_wrap=True, overflow="ignore", crop=False)

    def _mark(self, mark: str) -> str:
        """``mark``, or an ASCII character where the terminal has no other."""
        return mark if "utf" in (self.output.stderr.encoding or "").lower() else {"✓": "+", "✗": "x"}.get(mark, "-")

    def __rich_console__(self, console: object, options: object) -> Iterator[Text]:
        for line in self._lines(time.monotonic()):
            line.no_wrap = True
            line.truncate(max(1, min(self.output.talk.width - 1, _WIDEST)), overflow="ellipsis")
            yield line

    def _lines(self, now: float) -> Iterator[Text]:
        from rich.text import Text

        running = self._running
        if running is not None:
            spinner = self._mark("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int(now * 8) % 10])
            line = Text.assemble((f"{spinner} ", "cyan"), (f"{running.step:<{self._name_width()}}", "bold"))
            line.append(f" {_so_far(now - running.began):>10}")
            if (to_come := running.pace.to_come(now)) is not None:
                line.append(f", about {rough_duration(to_come)} to come")
            yield line
            yield Text.assemble("  ", *self._progress(running))
        if len(self.steps) < 2:
            return
        count = f"{len(self._finished)} of {counted(len(self.steps), 'step')} done"
        yield Text(f"  {count}, {_so_far(now - self.began)} so far", "dim")

    def _progress(self, running: _Running) -> Iterator[tuple[str, str]]:
        """How far the running step is: a bar, the share, its figure."""
        if running.share is not None:
            full = round(_BAR * min(1.0, max(0.0, running.share)))
            done, left = ("━", "─") if self._mark("━") == "━" else ("=", ".")
            yield done * full, "green"
            yield left * (_BAR - full), "dim"
            yield f" {share(running.share):>6}  ", ""
        yield running.figure, "dim" if running.share is None else ""


def _so_far(elapsed: float) -> str:
    """Seconds that go on: '4 s', '3 min 05 s'."""
    return whole_seconds(int(elapsed)) if elapsed < 10 else duration(int(elapsed))
