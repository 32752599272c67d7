"""Bars from 0 to 1 in groups, for the pictures of a card: a name over each group, a number beside each bar.

Sizes are in inches and points of a picture that is 6.4 inches wide. Names stand over their bars, where there is room
for them on a phone, and numbers stand in a column of their own, where no bar reaches them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEFT, _RIGHT = 0.26, 1.3
_NAMES = 1.25
"""The width of the column of names, where bars have them."""
_TITLE, _BAR, _GAP, _AXIS = 0.34, 0.32, 0.12, 0.36
_LONGEST_NAME, _LONGEST_TITLE = 11, 46


@dataclass(frozen=True)
class Look:
    """Colors of a picture, and the points of its smallest letters."""

    ink: str
    pale: str
    track: str
    error: str
    smallest: float


@dataclass(frozen=True)
class Bar:
    """A share; ``ends`` are those of its error bar, ``text`` its number as it is written. None: not measured."""

    name: str
    value: float | None
    ends: tuple[float, float] | None
    text: str
    color: str
    marked: bool = False
    """Whether its number has the color of the bar."""


@dataclass(frozen=True)
class Group:
    """What is compared: bars under one name."""

    title: str
    bars: tuple[Bar, ...]


def height_of(groups: Sequence[Group]) -> float:
    """Inches that :func:`draw_bars` takes."""
    return sum(_TITLE + _BAR * len(group.bars) + _GAP for group in groups) + _AXIS


def draw_bars(figure: Figure, groups: Sequence[Group], look: Look, *, top: float, names: bool) -> None:
    """Draw ``groups`` from ``top`` inches below the top of ``figure`` on, over the whole width.

    With ``names``, each bar has its name to the left; otherwise the figure tells them apart in a legend.
    """
    width, height = figure.get_size_inches()
    left, tall = _LEFT + (_NAMES if names else 0), height_of(groups)
    wide = width - left - _RIGHT
    ax = figure.add_axes((left / width, 1 - (top + tall - _AXIS) / height, wide / width, (tall - _AXIS) / height))
    ax.set_xlim(0, 1)
    ax.set_ylim(tall - _AXIS, 0)
    ax.set_facecolor("none")
    place = 0.0
    for group in groups:
        start = 0 if not names else -_NAMES / wide
        ax.text(start, place + _TITLE / 2, _cut(group.title, _LONGEST_TITLE), size=14, color=look.ink, va="center")
        place += _TITLE
        for bar in group.bars:
            middle = place + _BAR / 2
            ax.barh(middle, 1, _BAR * 0.72, color=look.track, zorder=1)
            if bar.value is not None:
                ax.barh(middle, bar.value, _BAR * 0.72, color=bar.color, zorder=2)
                _error(ax, middle, bar, look)
            if names:
                ax.text(start, middle, _cut(bar.name, _LONGEST_NAME), size=look.smallest, color=look.pale, va="center")
            size = look.smallest if bar.value is None else 14
            ax.text(
                1 + 0.1 / wide, middle, bar.text, size=size, color=bar.color if bar.marked else look.ink, va="center"
            )
            place += _BAR
        place += _GAP
    _share_axis(ax, look)


def _error(ax: Axes, middle: float, bar: Bar, look: Look) -> None:
    if bar.ends is None or bar.value is None:
        return
    low, high = (min(max(end, 0.0), 1.0) for end in bar.ends)
    if low < high:
        sides = [[max(bar.value - low, 0)], [max(high - bar.value, 0)]]
        ax.errorbar(bar.value, middle, xerr=sides, color=look.error, capsize=4, linewidth=1.6, zorder=3)


def _share_axis(ax: Axes, look: Look) -> None:
    """From 0 to 100 %: always all of it, so that a bar's length is the share."""
    ax.set_xticks((0, 0.5, 1), ("0 %", "50 %", "100 %"))
    ax.set_yticks(())
    ax.tick_params(axis="x", labelsize=look.smallest, labelcolor=look.pale, length=0, pad=2)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _cut(words: str, longest: int) -> str:
    return words if len(words) <= longest else f"{words[: longest - 1]}…"
