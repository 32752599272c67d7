"""`hubkit check`: problems of any model that can be found without loading it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from hubkit.cli.options import hub_option, output_of, output_options, place_argument, revision_option
from hubkit.cli.sources import open_source
from hubkit.core.numbers import count, size
from hubkit.core.output import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.checks.model import CheckReport
    from hubkit.checks.model.measurements import Measurements


@click.command()
@place_argument("REPO|FOLDER")
@revision_option
@hub_option
@output_options
def check(what: str, revision: str, hub_name: str | None) -> None:
    """Check a model for problems without loading it.

    It checks the end-of-turn token (EOS) and the files that set it, chat templates, weights, the base of an adapter
    and the card, and scans the files for secrets. Only small parts of a repo are downloaded; NaN and infinite weights
    are found in folders only. The exit code is 3 if there is an error.

    \b
    Examples:
      hubkit check hubkit/tiny-hermes-dpo --revision dpo-v0
      hubkit check ./my-model
    """
    from hubkit.checks.model import check

    report = check(open_source(what, revision, hub_name), fits=True)
    output_of().result(report.to_json(), *_check_lines(report))
    if not report.sound:
        sys.exit(3)


def _check_lines(report: CheckReport) -> Iterator[RenderableType]:
    from rich.text import Text

    from hubkit.cli.findings import printed

    end = f"{report.end_of_turn.token} ({report.end_of_turn.id})" if report.end_of_turn else "not found"
    facts = [
        ("kind", report.kind),
        ("architecture", report.architecture or "unknown"),
        ("base model", report.base_model or "unknown"),
        ("parameters", count(report.parameters) if report.parameters is not None else "unknown"),
        ("dtype", report.dtype or "unknown"),
        ("chat template", report.template or "none"),
        ("end-of-turn token", end),
        *([("answers that stop", _stopping(report.measured))] if report.measured else []),
        ("files", f"{count(report.files)}, {size(report.bytes)}"),
    ]
    yield Text(report.name, "bold")
    yield table(("", ""), facts)
    yield ""
    yield from map(printed, report.findings)
    if not report.findings:
        measured = report.measured is not None
        rest = "" if measured else " This does not measure how often the model stops: `hubkit release` does."
        yield f"No problems found in the files.{rest}"


def _stopping(measured: Measurements) -> str:
    """``merged 127 of 128, adapter 128 of 128``."""
    forms = {"four-bit": "4-bit base"}
    return ", ".join(
        f"{forms.get(item.form, item.form)} {item.words.removesuffix(' of the')}" for item in measured.forms
    )
