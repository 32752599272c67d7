"""Text out of files of any size and encoding, piece by piece."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import IO

from hubkit.checks.screening import secrets

BLOCK = 1024 * 1024
_BINARY_LIMIT = 64 * 1024 * 1024
"""Bytes of a file that is no text in which secrets are looked for: what such formats say in words comes first."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(start: bytes) -> str:
    """UTF-16 and UTF-32 by their mark, or by every second byte being 0; else Latin-1.

    What is looked for is ASCII, so that Latin-1 reads it out of UTF-8, and out of binary files too.
    """
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    half = max(len(start) // 2, 1)
    zeros = start[0::2].count(0) / half, start[1::2].count(0) / half
    if max(zeros) > 0.6 and min(zeros) < 0.05:
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return "latin-1"


def pieces(file: IO[bytes], *, block: int = BLOCK) -> Iterator[tuple[str, int]]:
    """(text, lines before it) of ``file``, ``block`` bytes at a time; each begins with the end of the one before."""
    data = file.read(block)
    encoding = encoding_of(data[:4096])
    decode = codecs.getincrementaldecoder(encoding)("replace").decode
    binary = encoding == "latin-1" and b"\0" in data[:4096]
    kept, lines, done = "", 0, 0
    while data:
        text = kept + decode(data)
        yield text, lines
        kept = text[-secrets.REACH :]
        lines += text.count("\n", 0, len(text) - len(kept))
        done += len(data)
        data = b"" if binary and done >= _BINARY_LIMIT else file.read(block)


def secrets_in(file: IO[bytes], *, block: int = BLOCK) -> dict[str, int]:
    """The kinds of secrets in ``file``, each with the line (from 1) where it is met first."""
    found: dict[str, int] = {}
    for text, lines in pieces(file, block=block):
        for what, line in secrets.find(text):
            found[what] = min(found.get(what, lines + line + 1), lines + line + 1)
    return found
