"""Curves drawn with letters: braille dots where the terminal can show them, stars elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hubkit.core.numbers import share, short

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a braille letter, by row and column of its dots."""
_FULL = 0xFF
"""All of them: a curve of one point would hardly be seen."""
_LABEL = 7
"""Columns of the labels on the left: '100 %', '-0.0312', '1.2e-05'."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Plot:
    """One curve: its name, its ``points`` (x, y), the x where it will end, and whether y is a share from 0 to 1."""

    title: str
    points: Points
    until: float
    is_share: bool = False

    def lines(self, width: int, height: int, *, braille: bool = True) -> list[str]:
        """The curve in ``height`` lines, below a line with its name and last value; each is ``width`` columns wide."""
        low, high = self._range()
        columns = max(4, width - _LABEL - 2)
        rows = _rows(self.points, self.until, (low, high), columns, height, braille=braille)
        last = self._number(self.points[-1][1])
        room = max(4, width - len(last) - 2)
        title = self.title if len(self.title) <= room else f"{self.title[: room - 1]}…"
        head = f"{title}  {last}"
        labels = [""] * height
        labels[0], labels[-1] = self._number(high), self._number(low)
        body = [f"{label[:_LABEL]:>{_LABEL}} ┤{row}" for label, row in zip(labels, rows, strict=True)]
        if not braille:
            body = [line.replace("┤", "|") for line in body]
        return [line[:width].ljust(width) for line in (head, *body)]

    def _range(self) -> tuple[float, float]:
        if self.is_share:
            return 0.0, 1.0
        values = [value for _, value in self.points]
        low, high = min(values), max(values)
        if low == high:
            margin = abs(low) / 10 or 1.0
            return low - margin, high + margin
        return low, high

    def _number(self, value: float) -> str:
        return share(value) if self.is_share else short(value)


def _rows(
    points: Points, until: float, between: tuple[float, float], columns: int, height: int, *, braille: bool
) -> list[str]:
    across, down = (2, 4) if braille else (1, 1)
    wide, high = columns * across, height * down
    start, end = 0.0, max(until, points[-1][0], 1.0)
    low, span = between[0], between[1] - between[0]

    def place(x: float, y: float) -> tuple[int, int]:
        share_of_height = min(1.0, max(0.0, (y - low) / span))
        return round((x - start) / (end - start) * (wide - 1)), round((1 - share_of_height) * (high - 1))

    dots = {place(*points[0])}
    for first, second in pairwise(points):
        dots |= _line(place(*first), place(*second))
    if not braille:
        return ["".join("*" if (x, y) in dots else " " for x in range(columns)) for y in range(height)]
    cells = [[0] * columns for _ in range(height)]
    for x, y in dots:
        cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2] if len(points) > 1 else _FULL
    return ["".join(chr(0x2800 + bits) if bits else " " for bits in row) for row in cells]


def _line(first: tuple[int, int], second: tuple[int, int]) -> set[tuple[int, int]]:
    """The dots of a straight line."""
    (x0, y0), (x1, y1) = first, second
    steps = max(abs(x1 - x0), abs(y1 - y0), 1)
    return {(round(x0 + (x1 - x0) * n / steps), round(y0 + (y1 - y0) * n / steps)) for n in range(steps + 1)}
