"""Numbers as a card writes them, and their means with what rounding allows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal

_NUMBER = re.compile(r"^[^\w.+-]*(?:±\s*)?([+-]?\d+(?:\.\d+)?)\s*(?:%|±.*|\(.*\))?\W*$")
_LONGEST = 60
"""Characters above which a cell is no figure."""
_EXACT = Context(prec=4 * _LONGEST)
"""Digits enough for any figure: the usual 28 are too few for some that a card can state."""


@dataclass(frozen=True)
class Figure:
    """A number as it is written."""

    exact: Decimal
    decimals: int

    @classmethod
    def of(cls, text: str) -> Figure | None:
        """The figure in a cell; None when it holds something else."""
        found = _NUMBER.match(text) if len(text) <= _LONGEST else None
        return cls(Decimal(found[1]), len(found[1].partition(".")[2])) if found else None

    @property
    def value(self) -> float:
        """The number."""
        return float(self.exact)

    def is_mean(self, mean: Mean) -> bool:
        """Whether this is ``mean``, allowing for rounding of both; percent and shares are the same."""
        rounding = 0.5 * 10.0**-mean.fewest
        return any(
            abs(self.value - mean.value * scale) <= 10.0**-self.decimals + rounding * scale
            for scale in (1.0, 100.0, 0.01)
        )


@dataclass(frozen=True)
class Mean:
    """A mean of figures, and by which rule.

    Of the figures it keeps the fewest and the most decimals, and the largest: comparing it with a number needs no
    second pass over a long table.
    """

    text: str
    exact: Decimal
    fewest: int
    most: int
    largest: float

    @property
    def value(self) -> float:
        """The number."""
        return float(self.exact)

    def shown(self, decimals: int, *, percent: bool = False) -> str:
        """The mean as people round it: a half goes up."""
        value = self.exact * 100 if percent else self.exact
        return str(value.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP, _EXACT))


@dataclass
class Sum:
    """Figures added up; ``strange`` counts what was none."""

    total: Decimal = Decimal()
    count: int = 0
    strange: int = 0
    fewest: int = _LONGEST
    most: int = 0
    largest: float = -math.inf

    @classmethod
    def of(cls, parts: Iterable[Figure | None]) -> Sum:
        """All of ``parts``."""
        made = cls()
        for part in parts:
            made.add(part)
        return made

    def add(self, part: Figure | None) -> None:
        """One more."""
        if part is None:
            self.strange += 1
            return
        self.total += part.exact
        self.count += 1
        self.fewest, self.most = min(self.fewest, part.decimals), max(self.most, part.decimals)
        self.largest = max(self.largest, part.value)

    def mean(self, text: str = "") -> Mean | None:
        """Their mean; None when there are none, or something strange is among them."""
        if not self.count or self.strange:
            return None
        return Mean(text, self.total / self.count, self.fewest, self.most, self.largest)
