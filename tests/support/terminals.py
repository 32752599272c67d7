"""A function run in a fork of this process, with its output on a terminal or in a pipe; and what may be in it."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

STYLE = re.compile(r"\x1b\[[0-9;]*m|\x1b\[(?:\?25[lh]|2K|1A)|\r")
"""What rich itself writes: colors, and what a live view needs."""


def steers(char: str) -> bool:
    """Whether ``char`` is of a kind that steers a terminal, breaks its lines, or hides."""
    return unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} and char not in "\n\t"


def steering(text: str, *, terminal: bool = False) -> list[str]:
    """The places in ``text`` that steer a terminal, without our own styling of one."""
    text = STYLE.sub("", text) if terminal else text
    return [text[max(0, at - 60) : at + 30] for at, char in enumerate(text) if steers(char)]


def run_forked(
    function: Callable[[], object], *, terminal: bool, answer: bytes = b"", seconds: float = 120.0
) -> tuple[int, str]:
    """Run ``function`` with standard output and error on one terminal (60 columns) or pipe: its status and output.

    ``answer`` is typed there, or is what standard input holds.
    """
    if terminal:
        pid, ours = pty.fork()
    else:
        (ours, theirs), (stdin, typed) = os.pipe(), os.pipe()
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if terminal:
                fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 60, 0, 0))
            else:
                for number, end in ((0, stdin), (1, theirs), (2, theirs)):
                    os.dup2(end, number)
                for end in (ours, theirs, stdin, typed):
                    os.close(end)
            sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
            try:
                function()
                code = 0
            except SystemExit as end_:
                code = end_.code if isinstance(end_.code, int) else int(bool(end_.code))
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    if terminal:
        typed = ours
    else:
        os.close(theirs)
        os.close(stdin)
    if answer:
        os.write(typed, answer)
    if not terminal:
        os.close(typed)
    try:
        written = _read_all(ours, pid, seconds)
    finally:
        os.close(ours)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode("utf-8")


def _read_all(end: int, pid: int, seconds: float) -> bytes:
    written, deadline = b"", time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([end], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"no end after {seconds:g} s: {written[-2000:]!r}")
        try:
            piece = os.read(end, 65536)
        except OSError:  # a terminal whose other end is closed
            return written
        if not piece:
            return written
        written += piece


class _Stderr:
    """Whatever ``sys.stderr`` is when something is written."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _log_to_present_stderr() -> None:
    """A library that this process imported before the fork logs to the stream of that time; a new process has none."""
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        for handler in getattr(logger, "handlers", ()):
            if type(handler) is logging.StreamHandler:
                handler.setStream(_Stderr())


def command_line(*args: str, folder: Path, environment: Mapping[str, str] | None = None) -> Callable[[], None]:
    """`hubkit args` as a new process would run it in ``folder``, for :func:`run_forked`."""

    def run() -> None:
        import hubkit.cli
        from hubkit.cli import options
        from hubkit.core.output import Output

        for name in ("CI", "NO_COLOR"):
            os.environ.pop(name, None)
        os.environ.update(TERM="xterm-256color", COLUMNS="60", **(environment or {}))
        os.chdir(folder)
        options._output = Output()
        _log_to_present_stderr()
        sys.argv = ["hubkit", *args]
        hubkit.cli.main()

    return run
