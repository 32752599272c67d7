"""`hubkit hub backup`, `restore` and `gc`: copies of a Hub, taken while it runs, and what it holds for nobody."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hubkit.cli.hub_accounts import data_folder, data_option
from hubkit.cli.options import output_of, output_options
from hubkit.core import numbers


@click.command()
@click.argument("target", type=click.Path(path_type=Path), metavar="TARGET")
@click.option(
    "--previous", type=click.Path(path_type=Path), metavar="DIR",
    help="Link the large files and git objects that this earlier backup has, and copy only new ones.",
)  # fmt: skip
@data_option
@output_options
def backup(target: Path, previous: Path | None, data: Path | None) -> None:
    """Copy the embedded Hub to the new folder TARGET, while it runs.

    The copy is the state of one moment: repos, large files, discussions, accounts. Commits go on meanwhile. The folder
    holds the owner's token; keep it as private as the Hub itself. What Spaces built and their logs are left out.

    \b
    Examples:
      hubkit hub backup /mnt/backup/hub-monday
      hubkit hub backup /mnt/backup/hub-tuesday --previous /mnt/backup/hub-monday
    """
    from hubkit.server import backup as backups

    made = backups.backup(data_folder(data), target, previous)
    value = {"backup": str(target), "files": made.files, "bytes": made.size, "linked": made.shared}
    linked = f", {made.shared:,} of them linked to {previous}" if previous else ""
    output_of().result(value, f"{target}: {numbers.counted(made.files, 'file')}, {numbers.size(made.size)}{linked}")


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="BACKUP")
@data_option
@output_options
def restore(source: Path, data: Path | None) -> None:
    """Restore the embedded Hub from the folder BACKUP, and check it.

    The data folder must be empty or missing: stop the Hub and move its folder away first. The exit code is 4 if the
    restored Hub is damaged.

    \b
    Example:
      hubkit hub restore /mnt/backup/hub-monday
    """
    from hubkit.server import backup as backups

    folder = data_folder(data)
    problems = backups.restore(source, folder)
    output_of().result({"data": str(folder), "problems": problems}, *(problems or [f"{folder}: no problems found."]))
    if problems:
        sys.exit(4)


@click.command()
@click.option("--dry-run", is_flag=True, help="Report what would be removed, and remove nothing.")
@click.option(
    "--days", type=click.IntRange(0, 36_500), default=14, show_default=True, metavar="N",
    help="Keep what is younger than N days.",
)  # fmt: skip
@data_option
@output_options
def gc(dry_run: bool, days: int, data: Path | None) -> None:
    """Remove what no branch, tag or pull request leads to.

    That is commits that were squashed, overwritten by a forced push or on a deleted branch, and large files that were
    uploaded but that no file points to. Until then such a commit can still be read by its id.

    \b
    Example:
      hubkit hub gc --dry-run
    """
    from dataclasses import asdict

    from hubkit.server import garbage

    found = garbage.collect(data_folder(data), days=days, dry_run=dry_run)
    did = "Would remove" if dry_run else "Removed"
    objects, files = numbers.counted(found.objects, "git object"), numbers.counted(found.files, "large file")
    output_of().result(
        asdict(found) | {"dry_run": dry_run},
        f"{did} {objects} and {files}: {numbers.size(found.size)}.",
        *(f"{name} is damaged and was left alone. See what is damaged: hubkit hub fsck" for name in found.skipped),
    )
