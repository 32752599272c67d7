"""How numbers are written, one function for each kind: on the terminal, on cards, on pages and in the Space.

Rules for all of them:

- Half rounds away from zero, from the shortest decimal form of the value, as a person does who checks a table by hand.
  (Binary floats would write the published average of AGIEval, 3.5364 / 8 = 0.44205, as 0.4420.)
- Thousands are separated by a comma, decimals by a point; a plain space (never a non-breaking one) comes before a unit.
- A value of None is written as ``NOT_MEASURED``.

Imports the standard library alone: the Space's build copies this file beside the app, as ``number_format.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import lru_cache, wraps

NOT_MEASURED = "not measured"
_SHORT_COMMIT = 12


@lru_cache(maxsize=4096)  # each score of a card is written in two tables and in the metadata
def decimals(value: float, places: int) -> str:
    """``value`` with exactly ``places`` decimals and no separators: decimals(0.44205, 4) == '0.4421'."""
    precision = Context(prec=400 + places)  # a float has at most 309 digits before the point
    rounded = _decimal(value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, precision)
    return str(abs(rounded) if rounded.is_zero() else rounded)


def _or_not_measured(write: Callable[[float], str]) -> Callable[[float | None], str]:
    @wraps(write)
    def written(value: float | None) -> str:
        return NOT_MEASURED if value is None else write(value)

    return written


@_or_not_measured
def share(value: float) -> str:
    """A share from 0 to 1 in percent, one decimal: '97.7 %'. Exactly 0 and 1 are '0 %' and '100 %'.

    So '100 %' means all, and '100.0 %' means nearly all.
    """
    if value in (0, 1):
        return f"{100 * int(value)} %"
    return f"{decimals(_hundred_times(value), 1)} %"


@_or_not_measured
def score(value: float) -> str:
    """The value of a metric, or its standard error, four decimals: '0.4421'."""
    return decimals(value, 4)


@_or_not_measured
def score_of_hundred(value: float) -> str:
    """The value of a metric as leaderboards show it, times 100, two decimals: '44.21'."""
    return decimals(_hundred_times(value), 2)


@_or_not_measured
def signed(value: float) -> str:
    """A difference between two scores, four decimals, with its sign: '+0.0122', '-0.0061', '0.0000'."""
    written = decimals(value, 4)
    return f"+{written}" if float(written) > 0 else written


@_or_not_measured
def count(value: float) -> str:
    """A count, as a whole number: '7', '12,345'."""
    return f"{int(decimals(value, 0)):,}"


def counted(value: int, noun: str, plural: str | None = None) -> str:
    """A count of things, with their name: '1 file', '1,234 files'; ``plural`` is for other than ``noun`` + 's'."""
    return f"{count(value)} {noun if value == 1 else plural or noun + 's'}"


@_or_not_measured
def parameters(value: float) -> str:
    """A count of parameters: '12,345', '1.05 M', '7.24 B'."""
    for unit, step in (("B", 10**9), ("M", 10**6)):
        if value >= step:
            return f"{decimals(value / step, 2)} {unit}"
    return count(value)


@_or_not_measured
def size(value: float) -> str:
    """Bytes in powers of 1000, as the Hub shows them, one decimal: '512 B', '1.9 MB', '14.5 GB', '1.2 TB'."""
    if value < 1000:
        return f"{decimals(value, 0)} B"
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        written = decimals(value, 1)
        if float(written) < 1000 or unit == "TB":
            break
    return f"{written} {unit}"


@_or_not_measured
def rough_size(value: float) -> str:
    """An estimate of bytes, two or three digits: '776 MB', '1.3 GB', '22 GB'."""
    exact_size, _, unit = size(value).partition(" ")
    return f"{decimals(float(exact_size), 0)} {unit}" if float(exact_size) >= 10 else f"{exact_size} {unit}"


@_or_not_measured
def duration(value: float) -> str:
    """Seconds as people say them: '0.4 s', '42 s', '3 min 05 s', '9 h 48 min'."""
    if float(decimals(value, 1)) < 10:
        return f"{decimals(value, 1)} s"
    seconds = int(decimals(value, 0))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    minutes = int(decimals(value / 60, 0))
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


@_or_not_measured
def rough_duration(value: float) -> str:
    """An estimate of seconds, two digits at most: '0 s', '42 s', '12 min', '4.2 h', '38 h', '3.1 days', '5 years'."""
    for unit, step, until in (("s", 1, 60), ("min", 60, 60), ("h", 3600, 48)):
        places = 1 if unit == "h" and value < 9.95 * step else 0
        written = decimals(value / step, places)
        if float(written) < until:
            return f"{written} {unit}"
    days = value / 86400
    if days >= 730:
        return f"{decimals(days / 365, 0)} years"
    return f"{decimals(days, 1 if days < 9.95 else 0)} days"


@_or_not_measured
def seconds(value: float) -> str:
    """A limit or a waiting time, exactly as it was set: '2 s', '0.5 s', '7,200 s'."""
    return f"{count(value) if value == int(value) else exact(value)} s"


@_or_not_measured
def token_rate(value: float) -> str:
    """Tokens per second, with one decimal below 10: '3.1 tokens/s', '1,234 tokens/s'."""
    one_decimal = decimals(value, 1)
    return f"{one_decimal if float(one_decimal) < 10 else count(value)} tokens/s"


@_or_not_measured
def loss(value: float) -> str:
    """A loss, three decimals: '0.693'."""
    return decimals(value, 3)


@_or_not_measured
def short(value: float) -> str:
    """Three significant digits, for numbers of any size: '0.000213', '2.13e-05', '1.2'."""
    return f"{value:.3g}"


@_or_not_measured
def exact(value: float) -> str:
    """All digits that the value has and no separators, as program code takes it: '1024', '0.1', '5e-05'."""
    return str(value) if isinstance(value, int) else repr(float(value)).removesuffix(".0")


def short_commit(commit: str | None) -> str:
    """The first 12 digits of a commit; hubkit accepts them wherever it asks for a commit."""
    return NOT_MEASURED if commit is None else commit[:_SHORT_COMMIT]


def _hundred_times(value: float) -> float:
    """100 * ``value`` in decimals: 100 * 0.285 is 28.499999999999996 in binary floats."""
    return float(_decimal(value) * 100)


def _decimal(value: float) -> Decimal:
    """``value`` in its shortest decimal form."""
    return Decimal(value) if isinstance(value, int) else Decimal(repr(float(value)))
