"""`hubkit check`: is a model fit to be loaded and talked to? For anyone's model."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import RenderableType
from rich.text import Text

from hubkit.checks.checkup import CheckReport, FolderSource, RepoSource
from hubkit.checks.checkup import check as look
from hubkit.cli.common import find_target, hub_option, output_of, speaks
from hubkit.core.errors import HubkitError, UsageError
from hubkit.core.output import megabytes, table
from hubkit.hub.client import connect

_MARKS = {"error": "red", "warning": "yellow", "note": "dim"}


@click.command()
@click.argument("what", metavar="REPO|FOLDER")
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit of a repo.")
@hub_option
@speaks
def check(what: str, revision: str, hub_name: str | None) -> None:
    """Look at a model without loading it: turn end, templates, eos agreement, weights, adapter base, card, secrets.

    Of a repo only small parts are fetched: NaN and infinite weights are found in folders. Exit code 3 when something
    is wrong.

    \b
    hubkit check hubkit/tiny-hermes-dpo --revision dpo-v0
    hubkit check ./my-model
    """
    report = look(_source(what, revision, hub_name), fits=True)
    output_of().result(report.to_json(), *_shown(report))
    if not report.sound:
        sys.exit(3)


def _source(what: str, revision: str, hub_name: str | None) -> FolderSource | RepoSource:
    if not Path(what).is_dir():
        if what.startswith((".", "/", "~")):
            raise UsageError(f"There is no folder {what}.", hint="Name a folder, or a repo as namespace/name.")
        return RepoSource(connect(find_target(hub_name)), what, revision)
    try:
        hub = connect(find_target(hub_name, start=False))
    except HubkitError:
        hub = None
    return FolderSource(Path(what), hub)


def _shown(report: CheckReport) -> list[RenderableType]:
    end = f"{report.end_of_turn.token} ({report.end_of_turn.id})" if report.end_of_turn else "not found"
    facts = [
        ("what it is", report.kind),
        ("architecture", report.architecture or "not told"),
        ("base model", report.base_model or "not told"),
        ("parameters", f"{report.parameters:,}" if report.parameters is not None else "not told"),
        ("dtype", report.dtype or "not told"),
        ("template", report.template or "none"),
        ("turn end", end),
        ("files", f"{report.files}, {megabytes(report.bytes)}"),
    ]
    shown: list[RenderableType] = [Text(report.name, "bold"), table(("", ""), facts), Text()]
    for finding in report.findings:
        hint = f" {finding.hint}" if finding.hint else ""
        shown.append(Text.assemble((f"{finding.level}: ", _MARKS[finding.level]), finding.message, hint))
    if not report.findings:
        shown.append(Text("No fault was found in the files. How often the model ends its turns takes a measurement."))
    return shown
