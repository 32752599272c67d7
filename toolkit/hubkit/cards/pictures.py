"""The pictures of a card, drawn from the same numbers as its words: header, training curves, benchmark averages.

Equal inputs give equal bytes: no time, no machine's fonts, no settings of the user's. They are opaque, so that they
can be read on a light page and on a dark one, and their letters are large, for a phone shows them a quarter as wide.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hubkit.cards.escape import one_line
from hubkit.cards.measured import FORMATS, Measured, value_of
from hubkit.core.numbers import NOT_MEASURED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADER, TRAINING, BENCHMARKS = "assets/header.png", "assets/training.png", "assets/benchmarks.png"
_MOST_ROWS = 8
_DPI = 200
_WIDTH = 6.4
_INK, _PALE, _PAPER, _NIGHT = "#1f2937", "#6b7280", "#ffffff", "#1e2a44"
# The palette of Okabe and Ito: told apart by people who see few colours, and as greys.
_COLOURS = ("#999999", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")


def pictures_of(context: Mapping[str, Any]) -> dict[str, str | None]:
    """The paths of a card's pictures, ``header``, ``training`` and ``benchmarks``; None for one that it has not."""
    drawn = any(len(stage["curve"]) > 1 for stage in context["training"])
    compared = context["benchmarks"] and any(cell for _, cell in context["benchmarks"]["overall"])
    return {
        "header": HEADER if context["here"]["merged"] else None,
        "training": TRAINING if drawn else None,
        "benchmarks": BENCHMARKS if compared else None,
    }


def draw(context: Mapping[str, Any]) -> dict[str, bytes]:
    """The pictures that :func:`pictures_of` names, as PNG files by their paths.

    Needs matplotlib. 1,280 pixels wide.
    """
    import matplotlib

    found: dict[str, bytes] = {}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False
        for name, drawn in (("header", _header), ("training", _training), ("benchmarks", _benchmarks)):
            if path := context["pictures"][name]:
                found[path] = _png(drawn(context))
    return found


def _png(figure: Figure) -> bytes:
    from matplotlib.font_manager import FontProperties
    from matplotlib.text import Text

    # The fonts that matplotlib brings, by their files: a machine's own of the same name may look otherwise.
    for text in figure.findobj(Text):
        bold = text.get_fontweight() == "bold"
        text.set_fontproperties(FontProperties(fname=_font(bold), size=text.get_fontsize()))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _font(bold: bool) -> str:
    import matplotlib

    return f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans{'-Bold' if bold else ''}.ttf"


def _figure(height: float, paper: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor=paper, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _header(context: Mapping[str, Any]) -> Figure:
    """The title, the branch, and the two numbers that distinguish variants."""
    figure = _figure(2.1, _NIGHT)
    here = context["here"]
    lines = (
        (0.86, 21.0, "bold", "#ffffff", context["title"]),
        (0.58, 12.0, "normal", "#cbd5e1", f"{context['label']}: {here['what']}"),
    )
    for height, size, weight, colour, words in lines:
        _fitted(figure, 0.04, height, words, size, weight, colour)
    facts = [("percent", here["merged"]["rate"], "stop rate")]
    if here["average"] is not None:
        facts.append(("score", here["average"], "benchmark average"))
    for place, (form, number, words) in enumerate(facts):
        left = 0.04 + 0.52 * place
        figure.text(left, 0.3, _format_number(number, form), size=22, weight="bold", color="#fbbf24", va="center")
        figure.text(left, 0.1, words, size=10.5, color="#cbd5e1", va="center")
    return figure


def _fitted(figure: Figure, x: float, y: float, words: str, size: float, weight: str, colour: str) -> None:
    """``words`` on one line no wider than the picture, with a mark for each letter that the font lacks."""
    from matplotlib.font_manager import FontProperties, get_font
    from matplotlib.textpath import TextPath

    path = _font(weight == "bold")
    known = get_font(path).get_charmap()
    shown = "".join(char if ord(char) in known else "\N{WHITE SQUARE}" for char in one_line(words))
    room = (1 - 2 * x) * _WIDTH * 72
    font = FontProperties(fname=path)

    def width(text: str) -> float:
        return float(TextPath((0, 0), text, size=size, prop=font).get_extents().width) if text.strip() else 0.0

    shown = shown[:400]
    if width(shown) > room:
        size = max(size * room / width(shown), size * 0.6)
    if width(shown) > room:
        while width(f"{shown}…") > room:
            shown = shown[:-1]
        shown = f"{shown.rstrip()}…"
    figure.text(x, y, shown, size=size, weight=weight, color=colour, va="center")


def _training(context: Mapping[str, Any]) -> Figure:
    """Loss by step, a curve for each stage that reported one."""
    stages = [stage for stage in context["training"] if len(stage["curve"]) > 1]
    figure = _figure(3.0, _PAPER)
    axes = figure.subplots(1, len(stages), squeeze=False)[0]
    for place, (ax, stage) in enumerate(zip(axes, stages, strict=True)):
        steps, losses = ([value_of(number) for number in side] for side in zip(*stage["curve"], strict=True))
        ax.plot(steps, losses, color=_COLOURS[2 + place % 5], linewidth=2.5, marker="o", markersize=4)
        ax.set_title(_short(f"{stage['method']} ({stage['name']})"), fontsize=13, color=_INK, loc="left")
        ax.set_xlabel("step", fontsize=12, color=_INK)
        ax.set_ylabel("loss" if place == 0 else "", fontsize=12, color=_INK)
        ax.set_ylim(bottom=min(0.0, *losses))
        ax.grid(axis="y", color="#e5e7eb")
        _plain(ax)
    return figure


def _benchmarks(context: Mapping[str, Any]) -> Figure:
    """A group of bars for each suite (or task), a bar with its standard error for each column."""
    made = context["benchmarks"]
    rows = [(suite["title"], suite["averages"]) for suite in made["suites"]]
    if len(rows) == 1:
        tasks = [(task, cells) for task, _, _, _, cells in made["suites"][0]["rows"]]
        rows = tasks if 1 < len(tasks) <= _MOST_ROWS else rows
    else:
        rows = [*rows[: _MOST_ROWS - 1], ("average", made["averages"])]
    columns = made["columns"]
    figure = _figure(0.9 + len(rows) * (0.3 * len(columns) + 0.2), _PAPER)
    ax = figure.subplots()
    thick = 0.8 / len(columns)
    for place, name in enumerate(columns):
        for row, (_, cells) in enumerate(rows):
            cell = cells[place]
            at = row + (place + 0.5) * thick - 0.4
            words = _format_number(cell["value"], "score") if cell else NOT_MEASURED
            value = value_of(cell["value"]) if cell else 0.0
            error = value_of(cell["stderr"]) if cell and cell.get("stderr") is not None else None
            ax.barh(
                at, value, thick * 0.9, color=_COLOURS[place % len(_COLOURS)], label=_short(name) if not row else None
            )
            if error is not None:
                ax.errorbar(value, at, xerr=error, color=_INK, capsize=3, linewidth=1.2)
            ax.annotate(
                words, (value + (error or 0.0), at), (5, 0), textcoords="offset points", va="center", fontsize=11,
                color=_INK,
            )  # fmt: skip
    ax.set_yticks(range(len(rows)), [_short(name) for name, _ in rows])
    ax.invert_yaxis()
    ax.margins(x=0.2)
    ax.set_xlim(left=0)
    _plain(ax)
    figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=11)
    return figure


def _plain(ax: Axes) -> None:
    ax.tick_params(labelsize=11, colors=_PALE)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _format_number(number: Measured, form: str) -> str:
    return FORMATS[form](value_of(number))


def _short(words: str) -> str:
    line = one_line(words)
    return line if len(line) <= 28 else f"{line[:27]}…"
