"""A command on a terminal of a given size: what a person has read there when it ended, and at every moment before."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyte

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


@dataclass(frozen=True)
class Recording:
    """The pieces that a command wrote, and the size of the terminal (columns, rows) at each; its exit code."""

    pieces: Sequence[tuple[bytes, tuple[int, int]]]
    code: int

    @property
    def text(self) -> str:
        """What the command left on the terminal, from the first line on."""
        screen, stream = self._terminal(wide=False)
        for piece, size in self.pieces:
            _resized(screen, size)
            stream.feed(piece)
        return "\n".join([*_lines(screen, screen.history.top), *_visible(screen)]).rstrip() + "\n"

    @property
    def raw(self) -> bytes:
        """All that was written."""
        return b"".join(piece for piece, _ in self.pieces)

    def problems(self) -> list[str]:
        """Lines longer than the terminal, lines that were on the screen twice at any moment, and a hidden cursor."""
        found: dict[str, None] = {}
        (screen, stream), (wide, wide_stream) = self._terminal(wide=False), self._terminal(wide=True)
        for piece, size in self.pieces:
            _resized(screen, size)
            wide.dirty.clear()
            stream.feed(piece)
            wide_stream.feed(piece)
            for row in wide.dirty:
                line = _text(wide.buffer[row], wide.columns) if row < wide.lines else ""
                found |= {f"wraps at {size[0]}: {line}": None} if len(line) > size[0] else {}
            found |= dict.fromkeys(_twice(_visible(screen)))
        found |= dict.fromkeys(_twice(self.text.splitlines()))
        if self.raw.count(b"\x1b[?25l") != self.raw.count(b"\x1b[?25h"):
            found["the cursor is hidden"] = None
        return list(found)

    def _terminal(self, *, wide: bool) -> tuple[Any, Any]:
        """A terminal, and its input; ``wide``: one on which nothing ever wraps."""
        columns, rows = self.pieces[0][1]
        screen = pyte.HistoryScreen(400 if wide else columns, rows, history=10_000)
        return screen, pyte.ByteStream(screen)


def _resized(screen: Any, size: tuple[int, int]) -> None:
    if size != (screen.columns, screen.lines):
        screen.resize(lines=size[1], columns=size[0])


def _visible(screen: Any) -> list[str]:
    return _lines(screen, [screen.buffer[row] for row in range(screen.lines)])


def _lines(screen: Any, rows: Any) -> list[str]:
    return [_text(row, screen.columns) for row in rows]


def _text(row: Any, columns: int) -> str:
    """The text of a row of pyte, which holds the cells that were written to."""
    return "".join(
        row[column].data if column in row else " " for column in range(min(columns, max(row, default=-1) + 1))
    ).rstrip()


def _twice(lines: Sequence[str]) -> list[str]:
    texts = Counter(line.strip().lstrip(_SPINNER) for line in lines if len(line.strip()) > 12)
    return [f"{number} times: {line}" for line, number in texts.items() if number > 1]


def recorded(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    columns: int,
    rows: int = 30,
    when: Callable[[bytes, psutil.Process, int], None] = lambda written, process, end: None,
    cwd: Path | None = None,
) -> Recording:
    """Run ``command`` on a terminal. ``when`` is called with all that was written so far, after each piece of it.

    It may type into the terminal (``end``), resize it (:func:`resize`) or send signals.
    """
    pid, end = pty.fork()
    if pid == 0:
        try:
            resize(1, columns, rows)
            os.chdir(cwd or ".")
            os.execvpe(command[0], list(command), dict(environment))
        finally:
            os._exit(127)
    pieces: list[tuple[bytes, tuple[int, int]]] = []
    written = b""
    process = psutil.Process(pid)
    while True:
        try:
            piece = os.read(end, 65536)
        except OSError:  # the command has ended
            break
        if not piece:
            break
        pieces.append((piece, _size(end)))
        written += piece
        when(written, process, end)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(end)
    return Recording(pieces, code)


def resize(end: int, columns: int, rows: int) -> None:
    """Give the terminal another size; its programs are told."""
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _size(end: int) -> tuple[int, int]:
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(end, termios.TIOCGWINSZ, bytes(8)))
    return columns, rows
