"""What the commands of `hubkit revisions` share: options, and tables that fit the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hubkit.cli.options import confirm_option, hub_option, output_of, output_options
from hubkit.core.output import table

if TYPE_CHECKING:
    from rich.table import Table

_Command = TypeVar("_Command", bound=Callable[..., Any])


def force_option(text: str) -> Callable[[_Command], _Command]:
    """Add ``--force``; ``text`` is its help."""
    return click.option("--force", is_flag=True, help=text)


def reading_options(command: _Command) -> _Command:
    """Add the options of every command: the repo's type, the Hub, the form of the output."""
    return click.option(
        "--type",
        "repo_type",
        type=click.Choice(["model", "dataset", "space"]),
        default="model",
        show_default=True,
        help="Treat REPO as this type of repo.",
    )(hub_option(output_options(command)))


def writing_options(command: _Command) -> _Command:
    """Add the options of every command that writes: those of reading, ``--dry-run`` and ``-y``."""
    return click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")(
        confirm_option(reading_options(command))
    )


def fitted(cells: dict[str, list[str]], folds: str, spare: tuple[str, ...]) -> Table:
    """A table that wraps the column ``folds`` only; on a narrow terminal the columns ``spare`` are left out."""
    width = output_of().data.width
    needed = {head: max(len(text) for text in (head.rstrip("#"), *column)) for head, column in cells.items()}
    for head in spare:
        if sum(needed[left] + 2 for left in cells) - needed[folds] + min(needed[folds], 14) > width + 2:
            cells = {left: column for left, column in cells.items() if left != head}
    grid = table(tuple(cells), zip(*cells.values(), strict=True))
    for head, column in zip(cells, grid.columns, strict=True):
        column.no_wrap, column.overflow = head != folds, "fold"
        column.min_width = None if head == folds else needed[head]
    return grid
