"""`hubkit card tables`: benchmark results as tables, with averages and the rules that compute them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubkit.cli.options import output_of, output_options
from hubkit.core.errors import UsageError
from hubkit.core.numbers import counted

if TYPE_CHECKING:
    from hubkit.evals.averages import Average
    from hubkit.evals.comparing import Comparison
    from hubkit.evals.plausibility import ImplausibleValue
    from hubkit.evals.readers import ResultFile
    from hubkit.evals.results import Results
    from hubkit.evals.tables import Layout

_LAYOUTS: Mapping[str, Layout] = {"lm-eval-0.3": "classic", "lm-eval-0.4": "today"}


class _LayoutChoice(click.Choice[str]):
    """``--layout``; the names of earlier versions of hubkit (classic, today) are still accepted."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Layout:
        return value if value in _LAYOUTS.values() else _LAYOUTS[super().convert(value, param, ctx)]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=_LayoutChoice(_LAYOUTS),
    default="lm-eval-0.3",
    show_default=True,
    help="Print the columns of this version of lm-eval.",
)
@click.option(
    "--published",
    multiple=True,
    metavar="SUITE=VALUE",
    help="Compare a published average with the computed one; use the suite name 'average' for the average over all"
    " suites.",
)
@output_options
def tables(files: tuple[Path, ...], layout: Layout, published: tuple[str, ...]) -> None:
    """Print benchmark results as Markdown tables.

    FILES are results of hubkit or lm-eval (JSON, or the folder of --output_path), JSON of lighteval, CSV (columns
    task, metric, value; optionally stderr, suite, version, n_shot, n, higher_is_better, filter), or tables pasted as
    text. If there are several, each is compared with the first. Suspicious values are reported on standard error and
    never changed.

    \b
    Examples:
      hubkit card tables results.json --layout lm-eval-0.4
      hubkit card tables old-card.md --published agieval=0.4364
    """
    from hubkit.evals.comparing import compare
    from hubkit.evals.plausibility import implausible_values
    from hubkit.evals.readers import read_path

    reads = [read for path in files for read in read_path(path)]
    averages = _published(published, reads)
    output = output_of()
    doubts = [implausible_values(read.results) for read in reads]
    comparisons = [compare(reads[0].results, read.results) for read in reads[1:]]
    if output.mode == "json":
        output.result(_json(reads, doubts, averages, comparisons))
        return
    output.text(_text(reads, layout, averages, comparisons))
    for read, doubt in zip(reads, doubts, strict=True):
        for path in read.passed_over:
            output.warn(f"{path} was not read: {read.path.name} is newer.")
        for item in doubt:
            output.warn(f"{read.path.name}: {item.message}" if len(reads) > 1 else item.message)


def _json(
    reads: Sequence[ResultFile],
    doubts: Sequence[Sequence[ImplausibleValue]],
    published: Mapping[str, str],
    comparisons: Sequence[Comparison],
) -> dict[str, Any]:
    from hubkit.evals.tables import agrees

    return {
        "files": [
            {
                "path": str(read.path),
                "results": read.results.model_dump(mode="json"),
                "suspicions": [item.model_dump(mode="json") for item in doubt],
            }
            for read, doubt in zip(reads, doubts, strict=True)
        ],
        "published": [
            {"suite": name, "published": value, "agrees": agrees(_average(reads[0].results, name), value)}
            for name, value in published.items()
        ],
        "comparisons": [item.model_dump(mode="json") for item in comparisons],
    }


def _text(
    reads: Sequence[ResultFile], layout: Layout, published: Mapping[str, str], comparisons: Sequence[Comparison]
) -> str:
    from hubkit.evals.tables import comparison_table, tables

    parts, titles = [], _titles(reads)
    for read, title in zip(reads, titles, strict=True):
        heading = f"## {title}\n\n" if len(reads) > 1 else ""
        parts.append(f"{heading}{_setting(read.results)}{tables(read.results, layout, published)}")
    for title, comparison in zip(titles[1:], comparisons, strict=True):
        notes = "".join(f"Not comparable: {note}.\n" for note in comparison.notes)
        parts.append(
            f"## {titles[0]}, then {title}\n\n{comparison_table(comparison)}\nRule: {comparison.rule}.\n{notes}"
        )
    return "\n".join(parts)


def _titles(reads: Sequence[ResultFile]) -> list[str]:
    """The heading of each: its model, and its file too where two are of the same model."""
    names = [" ".join(read.results.subject.repo.split()) or read.path.stem for read in reads]
    return [
        name if names.count(name) == 1 else f"{name} ({'/'.join(read.path.parts[-2:])})"
        for name, read in zip(names, reads, strict=True)
    ]


def _setting(results: Results) -> str:
    """What a reader must know about how the numbers were measured; empty for a complete measurement."""
    if results.settings.limit is None:
        return ""
    examples = counted(results.settings.limit, "example")
    return f"**Partial run:** only {examples} per task were evaluated; do not compare with full results.\n\n"


def _average(results: Results, name: str) -> Average:
    return results.average if name == "average" else results.suites[name].average


def _published(pairs: Sequence[str], reads: Sequence[ResultFile]) -> Mapping[str, str]:
    """``--published``, by suite. UsageError for what is no pair, no number, or no suite of the one file."""
    given: dict[str, str] = {}
    if pairs and len(reads) > 1:
        raise UsageError("--published works with exactly one file.", hint="Pass only that file.")
    for pair in pairs:
        name, equals, value = pair.partition("=")
        known = [*reads[0].results.suites, "average"]
        if name not in known:
            raise UsageError(f"There is no suite {name!r} in {reads[0].path}.", hint=f"It has {', '.join(known)}.")
        if not equals or not re.fullmatch(r"(?=.*[0-9])[0-9]{0,20}(\.[0-9]{0,20})?", value):
            raise UsageError(f"--published {pair}: {value!r} is not a number.", hint="Write SUITE=0.1234.")
        given[name] = value
    return given
