"""Following the log of a Space while it is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

from hubkit.core.processes.logs import older


class LogReader:
    """Reads a log that grows, and that is replaced when it is full or a new run begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = [file for name in (older(path), path) if (file := _open(name))]
        self._rest = ""

    def read(self) -> list[str]:
        """The complete lines that were written since the last call."""
        if not self._files and (first := _open(self._path)):
            self._files = [first]
        text = ""
        while self._files:
            text += self._files[0].read()
            if len(self._files) == 1:
                if _is_same_file(self._files[0], self._path) or not (following := _open(self._path)):
                    break
                self._files.append(following)
                text += self._files[0].read()  # what was written just before it was replaced
            self._files.pop(0).close()
        *lines, self._rest = (self._rest + text).split("\n")
        return [line for line in lines if line.startswith("{")]

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def _open(path: Path) -> TextIO | None:
    try:
        return path.open(encoding="utf-8", errors="replace", newline="\n")
    except FileNotFoundError:
        return None


def _is_same_file(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return True
