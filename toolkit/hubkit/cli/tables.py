"""`hubkit card tables`: anybody's benchmark results, as tables with averages whose rules are stated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import click

from hubkit.cli.common import output_of, speaks
from hubkit.core.errors import UsageError
from hubkit.evals import compare, suspicions
from hubkit.evals.averages import Average
from hubkit.evals.readers import Read, read_path
from hubkit.evals.results import Results
from hubkit.evals.tables import Layout, agrees, comparison_table, tables


@click.command("tables")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(["classic", "today"]),
    default="classic",
    show_default=True,
    help="The columns of lm-eval 0.3, or those of 0.4.",
)
@click.option(
    "--published",
    multiple=True,
    metavar="SUITE=VALUE",
    help="An average as it was published, to be held against the computed one; 'average' is that of all suites.",
)
@speaks
def tables_command(files: tuple[Path, ...], layout: Layout, published: tuple[str, ...]) -> None:
    """Print the benchmark results in FILES as markdown tables.

    A file is hubkit's or lm-eval's results (JSON, or the folder of --output_path), lighteval's JSON, CSV (columns
    task, metric, value; and stderr, suite, version, n_shot, n, higher_is_better, filter), or tables pasted as text. Of
    several files, each is compared to the first. Suspicious values are named on standard error, never changed.

    \b
    hubkit card tables results.json --layout today
    hubkit card tables old-card.md --published agieval=0.4364
    """
    found = [read for path in files for read in read_path(path)]
    given = _published(published, found)
    output = output_of()
    doubts = [suspicions(read.results) for read in found]
    comparisons = [compare(found[0].results, read.results) for read in found[1:]]
    if output.mode == "json":
        output.result(
            {
                "files": [
                    {
                        "path": str(read.path),
                        "results": read.results.model_dump(mode="json"),
                        "suspicions": [item.model_dump(mode="json") for item in doubt],
                    }
                    for read, doubt in zip(found, doubts, strict=True)
                ],
                "published": [
                    {"suite": name, "published": value, "agrees": agrees(_average(found[0].results, name), value)}
                    for name, value in given.items()
                ],
                "comparisons": [item.model_dump(mode="json") for item in comparisons],
            }
        )
        return
    parts, titles = [], _titles(found)
    for read, title in zip(found, titles, strict=True):
        heading = f"## {title}\n\n" if len(found) > 1 else ""
        parts.append(f"{heading}{_setting(read.results)}{tables(read.results, layout, given)}")
    for title, comparison in zip(titles[1:], comparisons, strict=True):
        notes = "".join(f"Not alike: {note}.\n" for note in comparison.notes)
        parts.append(
            f"## {titles[0]}, then {title}\n\n{comparison_table(comparison)}\nThe rule: {comparison.rule}.\n{notes}"
        )
    output.text("\n".join(parts))
    for read, doubt in zip(found, doubts, strict=True):
        for path in read.passed_over:
            output.warn(f"{path} is passed over: {read.path.name} is newer.")
        for item in doubt:
            output.warn(f"{read.path.name}: {item.message}" if len(found) > 1 else item.message)


def _titles(found: list[Read]) -> list[str]:
    """What each is called: its model, and where two are of the same one, its file too."""
    names = [" ".join(read.results.subject.repo.split()) or read.path.stem for read in found]
    return [
        name if names.count(name) == 1 else f"{name} ({'/'.join(read.path.parts[-2:])})"
        for name, read in zip(names, found, strict=True)
    ]


def _setting(results: Results) -> str:
    """What a reader must know of how the numbers came about; nothing when nothing is out of the ordinary."""
    if results.settings.limit is None:
        return ""
    return f"A rehearsal: at most {results.settings.limit:,} questions of each task.\n\n"


def _average(results: Results, name: str) -> Average:
    return results.average if name == "average" else results.suites[name].average


def _published(pairs: tuple[str, ...], found: list[Read]) -> Mapping[str, str]:
    """``--published``, by suite. UsageError for what is no pair, no number, or no suite of the one file."""
    given: dict[str, str] = {}
    if pairs and len(found) > 1:
        raise UsageError("--published is about one file, and several are given.", hint="Give that file alone.")
    for pair in pairs:
        name, equals, value = pair.partition("=")
        known = [*found[0].results.suites, "average"]
        if name not in known:
            raise UsageError(f"There is no suite {name!r} in {found[0].path}.", hint=f"It has {', '.join(known)}.")
        if not equals or not re.fullmatch(r"(?=.*[0-9])[0-9]{0,20}(\.[0-9]{0,20})?", value):
            raise UsageError(f"--published {pair}: {value!r} is not a number.", hint="Write SUITE=0.1234.")
        given[name] = value
    return given
