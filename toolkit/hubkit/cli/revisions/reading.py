"""Commands that read revisions: list, history, diff."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from hubkit.cli.options import output_of
from hubkit.cli.revisions.shared import fitted, reading_options
from hubkit.cli.targets import find_hub
from hubkit.core.numbers import share, short_commit, size
from hubkit.core.printable import printable

if TYPE_CHECKING:
    from hubkit.hub.client import RepoType


@click.command("list")
@click.argument("repo")
@click.option("--pull-requests", is_flag=True, help="List the refs of pull requests too.")
@reading_options
def list_(repo: str, pull_requests: bool, repo_type: RepoType, hub_name: str | None) -> None:
    """List the branches and tags of REPO.

    Each is listed with its last commit and its size, and with its measurements if a release published it.

    \b
    Example:
      hubkit revisions list hubkit/tiny-hermes-dpo
    """
    from hubkit.publishing.revisions import list_revisions

    listed = list_revisions(find_hub(hub_name), repo, repo_type, pull_requests=pull_requests)
    cells: dict[str, list[str]] = {
        "revision": [item.name for item in listed],
        "kind": [item.kind for item in listed],
        "commit": [short_commit(item.commit) for item in listed],
        "date (UTC)": [_minute(item.date) for item in listed],
        "stops#": [_stops(item.stop_rates) for item in listed],
        "benchmarks#": [_share(item.average) for item in listed],
        "size#": [size(item.size) for item in listed],
        "last commit": [printable(item.title or "") for item in listed],
    }
    output_of().result([asdict(item) for item in listed], fitted(cells, "revision", ("last commit", "kind")))


@click.command()
@click.argument("repo")
@click.argument("branch")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="List at most N commits.",
)
@reading_options
def history(repo: str, branch: str, limit: int, repo_type: RepoType, hub_name: str | None) -> None:
    """List the commits of BRANCH and what each changed.

    Releases, promotions and rollbacks are marked; a release is listed with its measurements.

    \b
    Example:
      hubkit revisions history hubkit/tiny-hermes-dpo main
    """
    from hubkit.publishing import revisions

    steps = revisions.history(find_hub(hub_name), repo, branch, repo_type, limit=limit)
    cells: dict[str, list[str]] = {
        "commit": [short_commit(item.commit) for item in steps],
        "date (UTC)": [_minute(item.date) for item in steps],
        "what": [item.kind for item in steps],
        "changed#": [str(item.changed or "none") for item in steps],
        "stops#": [_stops(item.stop_rates) for item in steps],
        "benchmarks#": [_share(item.average) for item in steps],
        "size#": [size(item.size) for item in steps],
        "title": [printable(item.title) for item in steps],
    }
    output_of().result([item.to_json() for item in steps], fitted(cells, "title", ("size#", "benchmarks#")))


@click.command()
@click.argument("repo")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--with", "other", metavar="REPO", help="Take B from this repo instead of REPO.")
@click.option("--tensors/--no-tensors", default=True, show_default=True, help="Compare the weights, too.")
@click.option(
    "--limit",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    metavar="GB",
    help="Download at most this much of the weights.",
)
@reading_options
def diff(
    repo: str,
    before: str,
    after: str,
    other: str | None,
    tensors: bool,
    limit: float,
    repo_type: RepoType,
    hub_name: str | None,
) -> None:
    """Compare two revisions: files, card, settings and tensors.

    Measurements are compared if both have some, and tensors by the norm of their difference. Weights are downloaded
    in parts, and only those of files that differ.

    \b
    Examples:
      hubkit revisions diff hubkit/tiny-hermes-dpo dpo-v0 main
      hubkit revisions diff me/my-model v1 main --with them/theirs --no-tensors
    """
    from hubkit.cli.revisions.comparison import shown
    from hubkit.publishing.revisions import RepoSource, compare_revisions

    hub = find_hub(hub_name)
    old, new = RepoSource(hub, repo, before, repo_type), RepoSource(hub, other or repo, after, repo_type)
    comparison = compare_revisions(old, new, tensors=tensors, limit=int(limit * 1e9))
    output = output_of()
    output.result(comparison.to_json(), *shown(comparison, output.data.width))


def _minute(date: str | None) -> str:
    return (date or "")[:16].replace("T", " ")


def _stops(rates: Mapping[str, float] | None) -> str:
    """The stop rate of the merged weights; of GGUF files the lowest one."""
    rates = rates or {}
    return _share(rates.get("merged", min(rates.values(), default=None)))


def _share(value: float | None) -> str:
    return "" if value is None else share(value)
