"""`hubkit card`: render, lint and run model cards, and print benchmark tables. A file per command."""

from __future__ import annotations

import click

from hubkit.cli.card.lint import lint
from hubkit.cli.card.render import render
from hubkit.cli.card.run import run
from hubkit.cli.card.tables import tables

__all__ = ["card"]


@click.group()
def card() -> None:
    """Render, lint and run model cards."""


for command in (render, lint, run, tables):
    card.add_command(command)
