"""The log of an app: a file of JSON lines that is kept below 4 MiB, and its end."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

_LOG_HALF = 2 * 2**20
_LINE = 16_384


def log_line(text: str) -> str:
    """One line of a log: JSON with ``timestamp`` (UTC, ``Z``) and ``data``, which ends in a newline."""
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    return json.dumps({"timestamp": moment, "data": text.rstrip("\n") + "\n"})


def log_tail(log: Path, lines: int = 100) -> list[str]:
    """The last ``lines`` that an app wrote, without their newlines; empty when there is no log yet."""
    found: list[str] = []
    for path in (older(log), log):
        with contextlib.suppress(FileNotFoundError):
            found += path.read_text(encoding="utf-8", errors="replace").splitlines()
    texts = []
    for line in found[-lines:]:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            texts.append(str(json.loads(line)["data"]).rstrip("\n"))
    return texts


def older(log: Path) -> Path:
    """Where the older half of a log lies, once there is one."""
    return log.with_name(log.name + ".1")


class Log:
    """A log that drops its older half when it is full."""

    def __init__(self, path: Path, hide: Iterable[str]) -> None:
        self._hide = sorted(hide, key=len, reverse=True)
        self._handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=_LOG_HALF, backupCount=1, encoding="utf-8"
        )  # fmt: skip

    def write(self, text: str) -> None:
        """Add one line, without the texts to hide."""
        for hidden in self._hide:
            text = text.replace(hidden, "***")
        self._handler.emit(logging.makeLogRecord({"msg": log_line(text)}))


def copy_lines(output: IO[str], log: Log) -> None:
    """Each line into the log. A progress bar's carriage returns end lines too; an endless line is cut."""
    while line := output.readline(_LINE):
        log.write(line)
