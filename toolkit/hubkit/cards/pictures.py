"""The pictures of a card, drawn from the same numbers as its words: header, training curves, benchmarks.

Equal inputs give equal bytes: no time, no machine's fonts, no settings of the user's. They are opaque, so that they
can be read on a light page and on a dark one, and no letter is smaller than :data:`SMALLEST`: a phone shows them a
quarter as wide. A share is drawn from 0 to 1, whatever the values are.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubkit.cards.bars import Bar, Group, Look, draw_bars, height_of
from hubkit.cards.escape import one_line
from hubkit.cards.measured import FORMATS, Measured, value_of
from hubkit.core.numbers import NOT_MEASURED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADER, TRAINING, BENCHMARKS = "assets/header.png", "assets/training.png", "assets/benchmarks.png"
SMALLEST = 13.0
"""Points of the smallest letters: 10 CSS pixels where a phone shows the picture 360 wide."""
_MOST_ROWS = 8
_DPI = 200
_WIDTH = 6.4
_INK, _PALE, _PAPER, _NIGHT = "#1f2937", "#4b5563", "#ffffff", "#1e2a44"
# The palette of Okabe and Ito: told apart by people who see few colours, and as greys. Its red is for what failed.
_COLOURS = ("#999999", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9")
_LIGHT = Look(ink=_INK, pale=_PALE, track="#eef0f3", error=_INK, smallest=SMALLEST)
_DARK = Look(ink="#ffffff", pale="#cbd5e1", track="#31405f", error="#ffffff", smallest=SMALLEST)
_HERE, _BASE_ON_NIGHT, _FAILED_ON_NIGHT = "#fbbf24", "#94a3b8", "#f87171"
_NO_SHARE = ("perplexity", "ppl", "byte", "loss", "brier")
"""In the names of metrics that are no share of anything, even where a value is below 1."""


def pictures_of(context: Mapping[str, Any]) -> dict[str, str | None]:
    """The paths of a card's pictures, ``header``, ``training`` and ``benchmarks``; None for one that it has not.

    A chart of one bar for each column says no more than the table: there is none for a single task.
    """
    drawn = any(len(stage["curve"]) > 1 for stage in context["training"])
    return {
        "header": HEADER if context["here"]["merged"] else None,
        "training": TRAINING if drawn else None,
        "benchmarks": BENCHMARKS if len(_benchmark_rows(context)) > 1 else None,
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


def _figure(height: float, paper: str, layout: Any = None) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor=paper, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _header(context: Mapping[str, Any]) -> Figure:
    """The title, the branch, and what it changes: stop rate and benchmark average of the base and of this branch."""
    here = context["here"]
    groups = [group for group in (_stop_rates(context), _averages(context)) if group]
    figure = _figure(1.15 + height_of(groups), _NIGHT)
    _fitted(figure, 0.4, context["title"], 23.0, "bold", "#ffffff")
    _fitted(figure, 0.85, f"{context['label']}: {here['what']}", 14.0, "normal", _DARK.pale)
    draw_bars(figure, groups, _DARK, top=1.15, names=True)
    return figure


def _stop_rates(context: Mapping[str, Any]) -> Group:
    """The base's stop rate, if it was measured, and this branch's, red where its gate failed."""
    here = context["here"]
    gate: Mapping[str, Any] = here["gate"] or {}
    failed = gate.get("threshold") is not None and value_of(here["merged"]["rate"]) < value_of(gate["threshold"])
    bars = []
    for name, found, colour in (
        ("base", context["base_stopping"], _BASE_ON_NIGHT),
        (context["label"], here["merged"], _FAILED_ON_NIGHT if failed else _HERE),
    ):
        if found:
            low, high = (value_of(found[end]) for end in ("low", "high"))
            text = _format_number(found["rate"], "percent")
            bars.append(
                Bar(one_line(name), value_of(found["rate"]), (low, high), text, colour, colour == _FAILED_ON_NIGHT)
            )
    title = "Stop rate"
    if failed:
        title = f"Stop rate: fails the gate (at least {_format_number(gate['threshold'], 'percent')})"
    return Group(title, tuple(bars))


def _averages(context: Mapping[str, Any]) -> Group | None:
    """The benchmark average of the base, if it was measured, and of this branch; None without one."""
    made = context["benchmarks"]
    cells = [(name, cell) for name, cell in (made["overall"] if made else ()) if cell]
    found = [(name, cell) for name, cell in cells if name in {"base", context["label"]}]
    if not any(name == context["label"] for name, _ in found) or not _is_share("", [cell for _, cell in found]):
        return None
    bars = [_bar(name, cell, _BASE_ON_NIGHT if name == "base" else _HERE) for name, cell in found]
    return Group(one_line(context["headline"]["title"]), tuple(bars))


def _bar(name: str, cell: Mapping[str, Any] | None, colour: str) -> Bar:
    """A benchmark's result with its standard error to either side."""
    if cell is None:
        return Bar(one_line(name), None, None, NOT_MEASURED, colour)
    value, stderr = value_of(cell["value"]), cell.get("stderr")
    ends = (value - value_of(stderr), value + value_of(stderr)) if stderr is not None else None
    return Bar(one_line(name), value, ends, _format_number(cell["value"], "percent"), colour)


def _is_share(metric: str, cells: Sequence[Mapping[str, Any] | None]) -> bool:
    return not any(word in metric for word in _NO_SHARE) and all(
        0 <= value_of(cell["value"]) <= 1 for cell in cells if cell
    )


def _fitted(figure: Figure, top: float, words: str, size: float, weight: str, colour: str) -> None:
    """``words`` on one line no wider than the picture, ``top`` inches below its top, with a mark for each letter that
    the font lacks.
    """
    from matplotlib.font_manager import FontProperties, get_font
    from matplotlib.textpath import TextPath

    path = _font(weight == "bold")
    known = get_font(path).get_charmap()
    shown = "".join(char if ord(char) in known else "\N{WHITE SQUARE}" for char in one_line(words))
    x = 0.04
    room = (1 - 2 * x) * _WIDTH * 72
    font = FontProperties(fname=path)

    def width(text: str) -> float:
        return float(TextPath((0, 0), text, size=size, prop=font).get_extents().width) if text.strip() else 0.0

    shown = shown[:400]
    if width(shown) > room:
        size = max(size * room / width(shown), size * 0.6, SMALLEST)
    if width(shown) > room:
        while width(f"{shown}…") > room:
            shown = shown[:-1]
        shown = f"{shown.rstrip()}…"
    figure.text(x, 1 - top / figure.get_figheight(), shown, size=size, weight=weight, color=colour, va="center")


def _training(context: Mapping[str, Any]) -> Figure:
    """Loss by step, and below it the stop rate while training, for each stage that reported them.

    Two stages are beside each other; more are below each other, with the stop rate beside the loss.
    """
    stages = [stage for stage in context["training"] if len(stage["curve"]) > 1]
    probed = any(stage["probes"] for stage in stages)
    many, kinds = len(stages) > 2, 2 if probed else 1
    rows, places = (len(stages), kinds) if many else (kinds, len(stages))
    heights = [3.0] * rows if many else [3.0, 2.2][:kinds]
    figure = _figure(sum(heights), _PAPER, layout="constrained")
    axes = figure.subplots(rows, places, squeeze=False, gridspec_kw={"height_ratios": heights})
    for place, stage in enumerate(stages):
        colour = _COLOURS[2 + place % 4]
        ax = axes[place][0] if many else axes[0][place]
        losses = _curve(ax, stage["curve"], colour)
        ax.set_title(_short(f"{stage['method']} ({stage['name']})"), fontsize=14, color=_INK, loc="left")
        ax.set_ylabel("loss" if many or place == 0 else "", fontsize=SMALLEST, color=_INK)
        ax.set_ylim(bottom=min(0.0, *losses))
        if not probed:
            ax.set_xlabel("step", fontsize=SMALLEST, color=_INK)
            continue
        below = axes[place][1] if many else axes[1][place]
        if not stage["probes"]:
            below.set_axis_off()
            ax.set_xlabel("step", fontsize=SMALLEST, color=_INK)
            continue
        _curve(below, [(point["step"], point["rate"]) for point in stage["probes"]], colour)
        for both in (ax, below):
            both.set_xlim(0, 1.03 * max(value_of(stage["curve"][-1][0]), value_of(stage["probes"][-1]["step"])))
        below.set_ylim(0, 1.05)
        below.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        below.set_ylabel("stop rate" if many or place == 0 else "", fontsize=SMALLEST, color=_INK)
        below.set_xlabel("step", fontsize=SMALLEST, color=_INK)
        below.locator_params(axis="x", nbins=5)
    return figure


def _curve(ax: Axes, points: Sequence[tuple[Measured, Measured]], colour: str) -> list[float]:
    """Draw ``points`` (step, value) as a line with a mark at each; the values."""
    steps, values = ([value_of(number) for number in side] for side in zip(*points, strict=True))
    mark = 4 if len(steps) > 1 else 9  # one point has no line that would show it
    ax.plot(steps, values, color=colour, linewidth=2.5, marker="o", markersize=mark, clip_on=False)
    ax.locator_params(nbins=5)
    ax.grid(axis="y", color="#e5e7eb")
    _plain(ax)
    return values


@dataclass(frozen=True)
class _Row:
    """One group of the chart of benchmarks: a suite or a task, and a cell for each column."""

    title: str
    cells: Sequence[Mapping[str, Any] | None]


def _benchmark_rows(context: Mapping[str, Any]) -> list[_Row]:
    """The tasks of the only suite, or the suites with their average. Only shares; none where they are too many."""
    made = context["benchmarks"]
    if not made:
        return []
    if len(made["suites"]) == 1:
        tasks = made["suites"][0]["rows"]
        rows = [_Row(task, cells) for task, metric, _, _, cells in tasks if _is_share(metric, cells)]
        return rows if len(rows) <= _MOST_ROWS else []
    suites = [_Row(suite["title"], suite["averages"]) for suite in made["suites"]]
    rows = [*suites[: _MOST_ROWS - 1], _Row("Average of all suites", made["averages"])]
    return [row for row in rows if any(row.cells) and _is_share("", row.cells)]


def _benchmarks(context: Mapping[str, Any]) -> Figure:
    """A group of bars for each suite (or task), a bar with its standard error for each column."""
    columns = [_short(name) for name in context["benchmarks"]["columns"]]
    colours = [_COLOURS[place % len(_COLOURS)] for place in range(len(columns))]
    groups = [
        Group(
            one_line(row.title), tuple(_bar("", cell, colour) for cell, colour in zip(row.cells, colours, strict=True))
        )
        for row in _benchmark_rows(context)
    ]
    lines = -(-len(columns) // 3)
    figure = _figure(0.35 + 0.28 * lines + height_of(groups), _PAPER)
    draw_bars(figure, groups, _LIGHT, top=0.3 + 0.28 * lines, names=False)
    handles = [_swatch(colour) for colour in colours]
    figure.legend(
        handles, columns, loc="upper left", bbox_to_anchor=(0.02, 1 - 0.08 / figure.get_figheight()), ncols=3,
        frameon=False, fontsize=SMALLEST, labelcolor=_INK, handlelength=1.0, columnspacing=1.2, borderaxespad=0,
    )  # fmt: skip
    return figure


def _swatch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=colour)


def _plain(ax: Axes) -> None:
    ax.tick_params(labelsize=SMALLEST, colors=_PALE)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _format_number(number: Measured, form: str) -> str:
    return FORMATS[form](value_of(number))


def _short(words: str) -> str:
    line = one_line(words)
    return line if len(line) <= 28 else f"{line[:27]}…"
