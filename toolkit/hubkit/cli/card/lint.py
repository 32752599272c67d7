"""`hubkit card lint`: problems of any model card, found without running anything."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubkit.cli.options import hub_option, output_of, output_options, place_argument, revision_option
from hubkit.cli.sources import open_source
from hubkit.cli.targets import running_hub
from hubkit.core.errors import UsageError
from hubkit.core.numbers import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.cards.lint import Report


@click.command()
@place_argument("FILE|FOLDER|REPO")
@revision_option
@hub_option
@click.option("--strict", is_flag=True, help="Exit with code 3 for warnings too, not only for errors.")
@output_options
def lint(what: str, revision: str, hub_name: str | None, strict: bool) -> None:
    """Check a model card for problems.

    It checks averages, headings, code blocks, license, base and links; no code is run. The base is looked up on the
    Hub. What could not be checked is listed. An error is what the Hub, a library or Python refuses; a warning is most
    likely wrong; a note is advice. `hubkit rules RULE` says where an error is documented. The exit code is 3 if there
    is an error.

    \b
    Examples:
      hubkit card lint hubkit/tiny-hermes-dpo --revision dpo-v0
      hubkit card lint ./my-model --strict
    """
    report = _report(what, revision, hub_name)
    output_of().result(report.to_json(), *_lint_lines(report))
    if report.count("error") or (strict and not report.clean):
        sys.exit(3)


def _report(what: str, revision: str, hub_name: str | None) -> Report:
    from hubkit.cards.lint import lint, lint_file, refuse_large

    path = Path(what)
    if path.is_file():
        try:
            refuse_large(path.name, path.stat().st_size)
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{what} cannot be read: {error}.", hint="A card is a text file in UTF-8.") from error
        return lint_file(text, path.name, running_hub(hub_name))
    source = open_source(what, revision, hub_name, or_file=True)
    return lint(source, source.hub)


def _lint_lines(report: Report) -> Iterator[RenderableType]:
    from rich.text import Text

    from hubkit.cli.findings import printed

    yield from map(printed, report.findings)
    if not report.findings:
        yield f"{report.name}: no problems found."
    else:
        kinds = ("error", "warning", "note")
        counts = [
            counted(count, kind) for kind in kinds if (count := sum(item.level == kind for item in report.findings))
        ]
        yield f"{report.name}: {', '.join(counts)}."
    for reason in report.unchecked:
        yield Text(f"Not checked: {reason}", "dim")
