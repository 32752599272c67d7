"""`hubkit card lint`: the faults of anyone's card, found without running anything."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubkit.cli.options import hub_option, output_of, output_options, place_argument, repo_not_path, revision_option
from hubkit.cli.targets import find_hub, running_hub
from hubkit.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.cards.lint import Report


@click.command()
@place_argument("FILE|FOLDER|REPO")
@revision_option
@hub_option
@output_options
def lint(what: str, revision: str, hub_name: str | None) -> None:
    """Find faults of a card without running anything.

    It checks averages, headings, code blocks, license, base and links. The base is looked up on the Hub. What could
    not be checked is listed. The exit code is 3 if there are faults.

    \b
    Examples:
      hubkit card lint hubkit/tiny-hermes-dpo --revision dpo-v0
      hubkit card lint ./my-model
    """
    report = _report(what, revision, hub_name)
    output_of().result(report.to_json(), *_shown(report))
    if report.faults:
        sys.exit(3)


def _report(what: str, revision: str, hub_name: str | None) -> Report:
    from hubkit.cards.lint import lint, lint_file, refuse_large
    from hubkit.checks.checkup import FolderSource, RepoSource

    path = Path(what)
    if path.is_dir():
        hub = running_hub(hub_name)
        return lint(FolderSource(path, hub), hub)
    if path.is_file():
        try:
            refuse_large(path.name, path.stat().st_size)
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{what} cannot be read: {error}.", hint="A card is a text file in UTF-8.") from error
        return lint_file(text, path.name, running_hub(hub_name))
    repo = repo_not_path(what)
    hub = find_hub(hub_name)
    return lint(RepoSource(hub, repo, revision), hub)


def _shown(report: Report) -> Iterator[RenderableType]:
    from rich.text import Text

    for fault in report.faults:
        place = f"{fault.path}:{fault.line}: "
        yield Text.assemble((place, "bold"), (f"{fault.rule}: ", "red"), f"{fault.what} {fault.todo}")
    if not report.faults:
        yield f"{report.name}: no faults found."
    for reason in report.unchecked:
        yield Text(f"Not checked: {reason}", "dim")
