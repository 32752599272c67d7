"""Text of others on its way to a terminal, a log or the log of a CI job: shown, and never obeyed.

Names, cards, configs, logs and answers of a Hub are written by strangers. :mod:`hubkit.core.output` passes everything
that it prints through this module, so that no caller can forget it.
"""

from __future__ import annotations

import re

MARK = "\N{REPLACEMENT CHARACTER}"
"""Stands for each character that is not shown."""
LONGEST_LINE = 4096
"""Characters of a line that are shown."""
_MARKS_IN_A_ROW = 4
"""Combining marks on one letter: Hebrew with all its points needs four, a flood covers the lines above and below."""

# Other than what str.isprintable() refuses: spaces of all widths and characters that are newer than Python's own
# Unicode tables are shown, fillers that look like nothing are not.
_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 (but tab and line feed), DEL, C1: among them ESC, CSI, OSC, CR
    "\xad\u034f\u061c\u070f\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # soft hyphen, joiners, fillers, selectors
    "\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f"  # zero width, separators of lines, bidi controls
    "\u3164\ufeff\uffa0\ufff0-\ufffb\ufdd0-\ufdef\ufffe\uffff"  # fillers, byte order mark, noncharacters
    "\ud800-\udfff\ue000-\uf8ff"  # halves of characters, private use
    "\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U0010ffff"  # tags, selectors, private use
    "]"
    # a zero-width joiner is shown between two emojis alone
    "|(?<![\u2190-\u2bff\ufe0f\U0001f000-\U0001faff])\u200d|\u200d(?![\u2190-\u2bff\U0001f000-\U0001faff])"
)
_CI_COMMAND = re.compile(r"(?m)^([^\S\n]*):(?=:)|#(?=#(?:vso|teamcity)?\[)")
"""GitHub obeys a line that begins with ``::`` and ``##[`` anywhere in one; Azure Pipelines ``##vso[``."""


def printable(text: str) -> str:
    """``text`` on one line, without what controls a terminal: each such character becomes U+FFFD. Tabs stay.

    Combining marks beyond four on a letter are left out, and what a line has beyond 4,096 characters.
    """
    return _shortened(_visible(text).replace("\n", MARK))


def printable_lines(text: str, *, cut: bool = True) -> str:
    """As :func:`printable`, with line ends kept; no line is a command to the CI job in whose log it ends up."""
    text = _visible(text.replace("\r\n", "\n"))
    if "::" in text or "##" in text:
        text = _CI_COMMAND.sub(lambda found: f"{found[0]} ", text)
    if cut and len(text) > LONGEST_LINE:
        text = "\n".join(map(_shortened, text.split("\n")))
    return text


def escaped_json(document: str) -> str:
    """A JSON document in which everything that :func:`printable_lines` would change is an escape of its string.

    Its values stay as they are, whatever program reads them.
    """
    document = _HIDDEN.sub(_escape, document)
    return re.sub(r"##(?=(?:vso|teamcity)?\[)", r"#\\u0023", document) if "##" in document else document


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2))


def _visible(text: str) -> str:
    text = _HIDDEN.sub(MARK, text)
    return text if text.isascii() else _without_floods(text)


def _without_floods(text: str) -> str:
    """``text`` with at most four combining marks in a row."""
    from unicodedata import category

    if len(text) <= _MARKS_IN_A_ROW:
        return text
    kept, row = [], 0
    for char in text:
        row = row + 1 if char > "\u02ff" and category(char) in {"Mn", "Me"} else 0
        if row <= _MARKS_IN_A_ROW:
            kept.append(char)
    return "".join(kept)


def _shortened(line: str) -> str:
    if len(line) <= LONGEST_LINE:
        return line
    return f"{line[:LONGEST_LINE]}... ({len(line) - LONGEST_LINE:,} more characters)"
