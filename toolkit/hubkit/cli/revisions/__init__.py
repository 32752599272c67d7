"""`hubkit revisions`: the branches and tags of a repo. ``reading`` has the commands that write nothing."""

from __future__ import annotations

import click

from hubkit.cli.revisions.disclosing import bom, disclosure
from hubkit.cli.revisions.reading import diff, history, list_
from hubkit.cli.revisions.writing import create, delete, promote, prune, rollback, tag

__all__ = ["revisions"]


@click.group()
def revisions() -> None:
    """List, compare and change the revisions of any repo.

    It works for models, datasets and Spaces, whether hubkit published them or not. Commands that write ask for
    confirmation first, unless -y is given; with --dry-run they show what they would do.
    """


for command in (list_, history, diff, bom, disclosure, create, tag, delete, promote, rollback, prune):
    revisions.add_command(command)
