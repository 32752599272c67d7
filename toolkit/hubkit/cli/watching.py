"""`hubkit runs watch`: the curves of a run's trainings, drawn in the terminal."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from textwrap import wrap
from typing import TYPE_CHECKING

import click

from hubkit.cli.options import output_of, output_options
from hubkit.cli.plots import Plot
from hubkit.core.errors import HubkitError, UsageError
from hubkit.core.home import hubkit_home
from hubkit.core.numbers import count, rough_duration, share, short, token_rate
from hubkit.core.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.core.output import Output
    from hubkit.pipeline.runs import Run
    from hubkit.pipeline.watched import WatchedTraining
    from hubkit.training.watching.curves import Curves

_NARROWEST = 38
"""Columns of a plot, at least: two beside each other on 80, three on 120."""
_HEIGHT = 5
_PAUSE = 1.0
_CURVES = (
    ("loss", "loss", False),
    ("rate", "stop rate (probe)", True),
    ("rewards/margins", "reward margin", False),
    ("rewards/accuracies", "reward accuracy", True),
    ("eval_loss", "loss on held-out rows", False),
    ("mean_token_accuracy", "token accuracy", True),
    ("rewards/chosen", "reward, chosen", False),
    ("rewards/rejected", "reward, rejected", False),
)
"""Curves that are drawn where the training has them: their name in the file, and on the screen; whether a share."""
_MORE = (
    ("kl", "KL", False),
    ("grad_norm", "gradient norm", False),
    ("learning_rate", "learning rate", False),
    ("tokens_per_second", "tokens per second", False),
    ("mean_tokens", "tokens of a probed answer", False),
    ("entropy", "entropy", False),
)
"""Curves that are drawn with ``--all``; without it their last values are printed."""


@click.command()
@click.argument("run", required=False)
@click.option("--all", "everything", is_flag=True, help="Draw every curve that the training has, not the main ones.")
@click.option("--once", is_flag=True, help="Draw the curves as they are now, and exit.")
@output_options
def watch(run: str | None, everything: bool, once: bool) -> None:
    """Draw the curves of RUN's trainings.

    The newest run is taken when none is named. On a terminal the picture follows the training until the run ends or
    you press Ctrl-C, which does not stop the release: it only reads files of the run. Open it in a second terminal.
    A run whose process was killed ends the watching with exit code 1.

    \b
    Examples:
      hubkit runs watch
      hubkit runs watch tiny-hermes-dpo-1 --all --once
    """
    from hubkit.pipeline.watched import is_over, trainings

    output, chosen = output_of(), _chosen(run)
    live = output.mode == "human" and output.stdout.isatty() and output.data.is_terminal and not once
    if live and not is_over(chosen):
        _follow(output, chosen, everything)
        return
    found = trainings(chosen)
    shown = [_picture(output, chosen, item, everything, None) for item in found]
    nothing = f"{chosen.name} has trained nothing yet."
    output.result([item.to_json() for item in found], *(shown or [nothing]))


def _chosen(name: str | None) -> Run:
    from hubkit.pipeline.runs import find_runs, named_run

    if name is not None:
        return named_run(hubkit_home(), name)
    known = find_runs(hubkit_home())
    if not known:
        raise UsageError("There are no runs here.", hint="`hubkit release` makes one.")
    return max(known, key=lambda run: (run.path / "journal.jsonl").stat().st_mtime if run.journal() else 0.0)


def _follow(output: Output, run: Run, everything: bool) -> None:
    """Draw the newest training again and again, until the run is over. HubkitError when its process is gone."""
    from rich.live import Live
    from rich.text import Text

    from hubkit.pipeline.watched import is_abandoned, is_over, trainings

    waiting = Text(f"{run.name}: no training yet. Waiting for it; Ctrl-C ends the watching alone.")
    killed = False
    with (
        suppress(KeyboardInterrupt),
        Live(waiting, console=output.data, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        live.refresh()
        while True:
            over, killed, found = is_over(run), is_abandoned(run), trainings(run)
            if found:
                lines = shutil.get_terminal_size().lines
                live.update(_picture(output, run, found[-1], everything, lines), refresh=True)
            if over:
                return
            if killed:
                break
            time.sleep(_PAUSE)
    if killed:
        raise HubkitError(
            f"The process of the run {run.name} is gone: it was killed, or the machine was restarted.",
            hint="`hubkit release` resumes the run: finished steps and the last checkpoint are kept.",
        )


def _picture(
    output: Output, run: Run, training: WatchedTraining, everything: bool, lines: int | None
) -> RenderableType:
    """A training as it is drawn: what it is, its curves side by side, and other numbers. ``lines``: as many as fit."""
    from rich.text import Text

    width = min(shutil.get_terminal_size().columns - 1, 160) if output.stdout.isatty() else 100
    braille = _shows(output, "⣿┤")
    plots = list(_plots(training.curves, everything))
    beside = max(1, min(len(plots), (width + 2) // (_NARROWEST + 2)))
    if lines is not None:
        plots = plots[: max(1, (lines - 6) // (_HEIGHT + 2)) * beside]
    each = (width - 2 * (beside - 1)) // beside
    text = Text(no_wrap=True, overflow="crop")
    text.append(_fitted(_headline(run, training), width) + "\n", "bold")
    for place in range(0, len(plots), beside):
        text.append("\n")
        drawn = [plot.lines(each, _HEIGHT, braille=braille) for plot in plots[place : place + beside]]
        for number, row in enumerate(zip(*drawn, strict=True)):
            text.append("  ".join(row).rstrip() + "\n", "" if number else "cyan")
    for line in _notes(training, everything):
        text.append("\n" + "\n".join(wrap(printable(line), width, break_on_hyphens=False)))
    text.append("\n")
    return text


def _shows(output: Output, letters: str) -> bool:
    try:
        letters.encode(output.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _fitted(line: str, width: int) -> str:
    line = printable(line)
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _headline(run: Run, training: WatchedTraining) -> str:
    curves = training.curves
    done = max([point["step"] for point in (*curves.points, *curves.probes)], default=0)
    steps = f"step {count(done)} of {count(curves.steps)}" if curves.steps else f"step {count(done)}"
    state = training.state
    if state == "training" and training.age > 60:
        state = f"no news for {rough_duration(training.age)}"  # type: ignore[assignment]
    return f"{training.step} {curves.method.upper()}  {steps}  {state}  {run.name}"


def _plots(curves: Curves, everything: bool) -> Iterator[Plot]:
    for name, title, is_share in (*_CURVES, *(_MORE if everything else ())):
        if points := curves.series(name):
            yield Plot(title, points, curves.steps, is_share)
    if everything:
        known = {name for name, _, _ in (*_CURVES, *_MORE)} | {"step", "seconds", "epoch", "num_tokens"}
        names = dict.fromkeys(name for point in curves.points for name in point)
        for name in names:
            if name not in known and (points := curves.series(name)):
                yield Plot(printable(name), points, curves.steps)


def _notes(training: WatchedTraining, everything: bool) -> Iterator[str]:
    """Numbers that are not drawn, what the probe asked, and where trackers show the training."""
    curves = training.curves
    numbers = [] if everything else list(_last_values(curves))
    if numbers:
        yield "  ".join(numbers)
    if curves.probes:
        last = curves.probes[-1]
        took = sum(float(point["seconds"]) for point in curves.probes)
        whole = max([float(point["seconds"]) for point in curves.points], default=0.0)
        if whole and last["step"] == curves.steps:  # it came after the last point
            whole += float(last["seconds"])
        cost = f"  probes took {share(took / whole)} of the time" if whole else ""
        yield f"last probe: {last['stopped']} of {last['prompts']} answers ended (step {count(last['step'])}){cost}"
    if curves.off:
        yield f"no stop-rate probe: {curves.off}"
    for tracker in curves.trackers:
        if url := tracker.get("url"):
            yield f"{tracker['name']}: {url}"


def _last_values(curves: Curves) -> Iterator[str]:
    for name, title, _ in _MORE:
        if name not in {"mean_tokens", "entropy"} and (points := curves.series(name)):
            value = points[-1][1]
            yield token_rate(value) if name == "tokens_per_second" else f"{title} {short(value)}"
