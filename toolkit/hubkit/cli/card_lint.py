"""`hubkit card lint`: what is wrong with a card, anybody's."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import RenderableType
from rich.text import Text

from hubkit.cards.lint import Report, lint_file, refuse_large
from hubkit.cards.lint import lint as look
from hubkit.checks.checkup import FolderSource, RepoSource
from hubkit.cli.common import card_repo, find_target, hub_option, output_of, speaks
from hubkit.core.errors import HubkitError, UsageError
from hubkit.hub.client import Hub, connect


@click.command()
@click.argument("what", metavar="FILE|FOLDER|REPO")
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit of a repo.")
@hub_option
@speaks
def lint(what: str, revision: str, hub_name: str | None) -> None:
    """Find what is wrong with a card without running anything: averages, headings, snippets, licence, base, links.

    The base is looked up on the Hub. What could not be looked at is said. Exit code 3 when something is found.

    \b
    hubkit card lint hubkit/tiny-hermes-dpo --revision dpo-v0
    hubkit card lint ./my-model
    """
    report = _looked_at(what, revision, hub_name)
    output_of().result(report.to_json(), *_shown(report))
    if report.faults:
        sys.exit(3)


def _looked_at(what: str, revision: str, hub_name: str | None) -> Report:
    path = Path(what)
    if path.is_dir():
        hub = _hub_if_any(hub_name)
        return look(FolderSource(path, hub), hub)
    if path.is_file():
        try:
            refuse_large(path.name, path.stat().st_size)
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{what} cannot be read: {error}.", hint="A card is a text file in UTF-8.") from error
        return lint_file(text, path.name, _hub_if_any(hub_name))
    repo = card_repo(what)
    hub = connect(find_target(hub_name))
    return look(RepoSource(hub, repo, revision), hub)


def _hub_if_any(hub_name: str | None) -> Hub | None:
    """The Hub on which the base is looked up; None when the embedded one does not run, and none was asked for."""
    try:
        return connect(find_target(hub_name, start=False))
    except HubkitError:
        if hub_name:
            raise
        return None


def _shown(report: Report) -> list[RenderableType]:
    shown: list[RenderableType] = []
    for fault in report.faults:
        place = f"{fault.path}:{fault.line}: "
        shown.append(Text.assemble((place, "bold"), (f"{fault.rule}: ", "red"), f"{fault.what} {fault.todo}"))
    if not report.faults:
        shown.append(Text(f"{report.name}: no fault was found."))
    return [*shown, *(Text(f"Not checked: {said}", "dim") for said in report.unchecked)]
