"""Numbers, and what is wrong with them, as the files of other programs hold them."""

from __future__ import annotations

import math
from typing import Any

from pydantic import ValidationError

KNOWN_FILES = (
    "Supported are hubkit's and lm-eval's results (JSON, or the folder of --output_path), lighteval's JSON, inspect's "
    "logs, records of Every Eval Ever, CSV, and tables as text."
)
"""The hint of an error about a file that is none of these."""


def why(error: Exception) -> str:
    """What is wrong with a file, in a few words: where in it, when a model refused it."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where + ': ' if where else ''}{first['msg']}"
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def finite(value: Any) -> float | None:
    """``value`` as a float, or None when it is no finite number (lm-eval writes 'N/A' and NaN)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        return None
    return number if math.isfinite(number) else None


def finite_text(text: str) -> float | None:
    """The number that ``text`` writes, or None when it writes no finite one."""
    try:
        return finite(float(text))
    except ValueError:
        return None


def parse_int(value: Any) -> int | None:
    """``value`` as a whole number, when it is written as one of at most 15 digits."""
    text = str(value)
    return int(text) if text.isdecimal() and len(text) <= 15 else None


_DOWNWARD = {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ppl", "loss", "brier_score"}
_DOWNWARD |= {"wer", "cer", "ter"}


def upward(metric: str) -> bool:
    """Whether more of ``metric`` is better, where a file does not say it."""
    return metric not in _DOWNWARD
