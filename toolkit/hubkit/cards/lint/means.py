"""The means that an average may be: plain, geometric, weighted, of groups, and with other scales brought to 100.

Each has a name that is printed beside it. A weighted mean is only known where its weights are in the table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from hubkit.cards.lint.figures import Figure, Mean, Sum

_TEN, _HUNDRED = Decimal(10), Decimal(100)


class Part(NamedTuple):
    """One score: its name, the figure (None: the cell holds something else), its ``factor`` and ``weight``.

    ``factor`` brings a score out of 10 or out of 1 to those out of 100 beside it. ``weight`` is the number of
    questions, where the table has it.
    """

    name: str
    figure: Figure | None
    factor: Decimal = Decimal(1)
    weight: Figure | None = None


def plain(parts: Sequence[Part], text: str = "mean of the row") -> Mean | None:
    """The unweighted mean; None when there are none, or one is no figure."""
    return Sum.of(part.figure for part in parts).mean(text)


def others(parts: Sequence[Part]) -> Iterator[Mean]:
    """The means by all other rules; none where one of ``parts`` is no figure."""
    figures = [part.figure for part in parts if part.figure is not None]
    if len(figures) != len(parts) or len(parts) < 2:
        return
    rules = (_rescaled(parts, figures), _geometric(figures), _of_groups(parts, figures), _weighted(parts, figures))
    yield from (mean for mean in rules if mean)


def factors(lines: Sequence[Sequence[Figure | None]]) -> list[Decimal]:
    """For each column of ``lines`` what brings its scores to those out of 100; 1 where that cannot be told.

    Out of 10: no score above 10, one above 1, as MT-Bench has them. Out of 1: none above 1. Both only beside a column
    with scores above 10.
    """
    tops = [max((abs(figure.value) for figure in column if figure), default=0.0) for column in zip(*lines, strict=True)]
    if not any(top > 10 for top in tops):
        return [Decimal(1)] * len(tops)
    return [_HUNDRED if 0 < top <= 1 else _TEN if 1 < top <= 10 else Decimal(1) for top in tops]


def _rescaled(parts: Sequence[Part], figures: Sequence[Figure]) -> Mean | None:
    if all(part.factor == 1 for part in parts):
        return None
    total = Sum()
    for part, figure in zip(parts, figures, strict=True):
        total.add(Figure(figure.exact * part.factor, figure.decimals))
    return total.mean("mean with the scores out of 10 or 1 brought to 100")


def _geometric(figures: Sequence[Figure]) -> Mean | None:
    if any(figure.value <= 0 for figure in figures):
        return None
    value = math.exp(math.fsum(math.log(figure.value) for figure in figures) / len(figures))
    total = Sum.of(figures)
    return Mean("geometric mean", Decimal(value), total.fewest, total.most, total.largest)


def _of_groups(parts: Sequence[Part], figures: Sequence[Figure]) -> Mean | None:
    """The mean of the means of parts whose names begin with the same word: ``GSM Direct`` and ``GSM CoT``."""
    groups: dict[str, Sum] = {}
    for part, figure in zip(parts, figures, strict=True):
        word = re.split(r"[\s(\[:/]", part.name.strip().lower(), maxsplit=1)[0]
        groups.setdefault(word, Sum()).add(figure)
    means = [mean for group in groups.values() if (mean := group.mean())]
    if len(means) < 2 or len(means) == len(figures):
        return None
    total = Sum.of(figures)
    value = sum((mean.exact for mean in means), Decimal()) / len(means)
    return Mean("mean of the means of tasks of one name", value, total.fewest, total.most, total.largest)


def _weighted(parts: Sequence[Part], figures: Sequence[Figure]) -> Mean | None:
    weights = [part.weight.exact for part in parts if part.weight is not None and part.weight.value > 0]
    if len(weights) != len(figures):
        return None
    total = Sum.of(figures)
    value = sum((figure.exact * weight for figure, weight in zip(figures, weights, strict=True)), Decimal()) / sum(
        weights
    )
    return Mean("mean weighted by the number of questions", value, total.fewest, total.most, total.largest)
