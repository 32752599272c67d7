"""Numbers on their way to a card. Each knows the result file it comes from; only the ``measured`` filter writes it.

A template is given :class:`Measured` objects in place of numbers. They cannot be printed, added or rounded there, and a
bare number is refused too, so a number that stands on a card was read from a file, and ``numbers.json`` says which.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

from hubkit.cards.escape import clean
from hubkit.core.errors import HubkitError
from hubkit.core.numbers import decimals


class CardError(HubkitError):
    """A template tried to print something that it may not print. A mistake in the template, never in a recipe."""


RENDERING: ContextVar[bool] = ContextVar("rendering", default=False)
"""Whether a template is being rendered, where nothing of a :class:`Measured` may be shown."""


class Measured:
    """One number of a result file: ``step`` made ``file``, and ``pointer`` (RFC 6901) finds the number in it."""

    __slots__ = ("_value", "file", "pointer", "step")

    def __init__(self, value: int | float, step: str, file: str, pointer: str) -> None:
        self._value = value
        self.step = step
        self.file = file
        self.pointer = pointer

    def __repr__(self) -> str:
        if RENDERING.get():
            raise bare(self)
        return f"<number at {self.step}/{self.file}#{self.pointer}>"

    def __str__(self) -> NoReturn:
        raise bare(self)

    def __format__(self, spec: str) -> NoReturn:
        raise bare(self)


def bare(number: Measured) -> CardError:
    """What is said of a number that a template prints by itself."""
    place = f"{number.step}/{number.file}#{number.pointer}"
    return CardError(f"<number at {place}> was printed without the filter `measured`")


def value_of(number: Measured) -> int | float:
    """The number itself; for Python code that decides what a card says, out of reach of the templates."""
    return number._value


class Number(NamedTuple):
    """One number as it stands on a card.

    ``text`` stands at the character ``offset`` of the card, or, when that is None, in the metadata under
    ``model-index``. It is ``FORMATS[format]`` of ``value``, which stands in ``file`` of ``step`` at ``pointer``.
    """

    text: str
    offset: int | None
    step: str
    file: str
    pointer: str
    value: int | float
    format: str

    def to_json(self) -> dict[str, Any]:
        """As ``numbers.json`` holds it."""
        return self._asdict()


def percent(value: float) -> str:
    """A share from 0 to 1 as '97.7 %'; 1 and 0 without decimals."""
    shown = decimals(float(Decimal(repr(float(value))) * 100), 1)
    return f"{shown.removesuffix('.0')} %"


def plain(value: float) -> str:
    """As short as it can be said exactly: 16, 0.1, 5e-05."""
    return str(value) if isinstance(value, int) else repr(float(value)).removesuffix(".0")


def duration(value: float) -> str:
    """Seconds as '41 s', '12 min' or '10.2 h'."""
    if value < 120:
        return f"{decimals(value, 0)} s"
    return f"{decimals(value / 60, 0)} min" if value < 7200 else f"{decimals(value / 3600, 1)} h"


def size(value: float) -> str:
    """Bytes as '512 B', '1.9 MB' or '14.5 GB' (powers of 1000, as the Hub shows them)."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= step:
            return f"{decimals(value / step, 1)} {unit}"
    return f"{plain(value)} B"


def parameters(value: float) -> str:
    """A count of parameters as '7.24 B', '1.0 M' or '12,345'."""
    if value >= 1e9:
        return f"{decimals(value / 1e9, 2)} B"
    return f"{decimals(value / 1e6, 2)} M" if value >= 1e6 else f"{value:,}"


def signed(value: float) -> str:
    """A difference of scores, with four decimals and its sign: '+0.0122', '-0.0061', '0.0000'."""
    shown = decimals(value, 4)
    return f"+{shown}" if float(shown) > 0 else shown.replace("-", "") if not float(shown) else shown


FORMATS: Mapping[str, Callable[[float], str]] = {
    "percent": percent,
    "score": lru_cache(maxsize=4096)(lambda value: decimals(value, 4)),  # each stands in two tables and the metadata
    "signed": signed,
    "hundred": lambda value: decimals(float(Decimal(repr(float(value))) * 100), 2),
    "short": lambda value: f"{value:.3g}",
    "count": lambda value: f"{value:,}",
    "whole": lambda value: f"{int(decimals(value, 0)):,}",
    "plain": plain,
    "duration": duration,
    "size": size,
    "parameters": parameters,
}
"""How numbers are written, by the name that a template gives to ``measured``."""


@contextmanager
def many_objects() -> Iterator[None]:
    """Pause the collector of garbage cycles, of which cards make none: it is half of the time of a large card."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def wrap(value: Any, step: str, file: str, pointer: str = "") -> Any:
    """``value`` (plain JSON) with every number replaced by a :class:`Measured` and every string made printable."""
    if type(value) is str:  # the kinds that are met most come first: a card's files hold a hundred thousand values
        return clean(value)
    if type(value) is float:
        return Measured(value, step, file, pointer)
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int | float):
        return Measured(value, step, file, pointer)
    if isinstance(value, Mapping):
        return {
            clean(str(key)): wrap(item, step, file, f"{pointer}/{_escaped(str(key))}") for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [wrap(item, step, file, f"{pointer}/{place}") for place, item in enumerate(value)]
    return clean(str(value))


def resolve_pointer(value: Any, pointer: str) -> Any:
    """What stands in ``value`` at ``pointer`` (RFC 6901). KeyError or IndexError when nothing does."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1") if "~" in key or "/" in key else key
