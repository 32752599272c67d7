"""Numbers for a card. Each knows the result file that it comes from; only the ``measured`` filter prints it.

A template gets :class:`Measured` objects in place of numbers. They cannot be printed, added or rounded there, and a
bare number is refused too. So each number on a card was read from a file, and ``numbers.json`` names that file.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

from hubkit.cards.escape import clean
from hubkit.core import numbers
from hubkit.core.errors import HubkitError


class CardError(HubkitError):
    """A template tried to print something that it may not print. A mistake in the template, never in a recipe."""


RENDERING: ContextVar[bool] = ContextVar("rendering", default=False)
"""Whether a template is being rendered; a :class:`Measured` must not be printed then."""


class Measured:
    """One number of a result file: ``step`` wrote ``file``, and ``pointer`` (RFC 6901) locates the number in it."""

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
    """The error for a number that a template prints without the filter."""
    place = f"{number.step}/{number.file}#{number.pointer}"
    return CardError(f"<number at {place}> was printed without the filter `measured`")


def value_of(number: Measured) -> int | float:
    """The number itself, for Python code that decides what a card reports; templates cannot reach it."""
    return number._value


class Number(NamedTuple):
    """One number on a card.

    ``text`` is at the character ``offset`` of the card or, if that is None, in the metadata under ``model-index``.
    It is ``FORMATS[format]`` of ``value``, which is in ``file`` of ``step`` at ``pointer``.
    """

    text: str
    offset: int | None
    step: str
    file: str
    pointer: str
    value: int | float
    format: str

    def to_json(self) -> dict[str, Any]:
        """As stored in ``numbers.json``."""
        return self._asdict()


FORMATS: Mapping[str, Callable[[float], str]] = {
    "percent": numbers.share,
    "score": lru_cache(maxsize=4096)(numbers.score),  # each is written in two tables and in the metadata
    "signed": numbers.signed,
    "hundred": numbers.score_of_hundred,
    "short": numbers.short,
    "count": numbers.count,
    "plain": numbers.exact,
    "duration": numbers.duration,
    "size": numbers.size,
    "parameters": numbers.parameters,
    "token_rate": numbers.token_rate,
    "loss": numbers.loss,
    "whole": numbers.count,  # only in the numbers.json of earlier releases
}
"""How numbers are written, by the name that a template gives to ``measured``."""


@contextmanager
def many_objects() -> Iterator[None]:
    """Pause garbage collection: cards create no reference cycles, and it takes half of the time of a large card."""
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
    """The value in ``value`` at ``pointer`` (RFC 6901). KeyError or IndexError if there is none."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1") if "~" in key or "/" in key else key
