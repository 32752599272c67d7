"""`hubkit revisions`: the branches and tags of a repo."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.text import Text

from hubkit import revisions as core
from hubkit.cli.common import ask, confirm_option, find_target, hub_option, output_of, speaks
from hubkit.hub import connect
from hubkit.output import megabytes, percent, table

_HEADS = ("revision", "kind", "commit", "date (UTC)", "stops (merged)#", "benchmarks#", "size#", "last commit")


@click.group()
def revisions() -> None:
    """List, create, delete and tag revisions of any repo that you may write to."""


@revisions.command("list")
@click.argument("repo")
@hub_option
@speaks
def list_(repo: str, hub_name: str | None) -> None:
    """List REPO's branches and tags with what is known of each.

    \b
    hubkit revisions list hubkit/tiny-hermes-dpo
    """
    found = core.list_revisions(connect(find_target(hub_name)), repo)
    rows = [
        (
            item.name,
            item.kind,
            item.commit[:12],
            (item.date or "")[:16].replace("T", " "),
            _share((item.stop_rates or {}).get("merged")),
            _share(item.average),
            megabytes(item.size),
            item.title or "",
        )
        for item in found
    ]
    output_of().result([asdict(item) for item in found], table(_HEADS, rows))


@revisions.command()
@click.argument("repo")
@click.argument("branch")
@click.option("--at", default="main", show_default=True, metavar="REVISION", help="Where the branch begins.")
@hub_option
@speaks
def create(repo: str, branch: str, at: str, hub_name: str | None) -> None:
    """Make BRANCH in REPO, at a revision.

    \b
    hubkit revisions create me/my-model experiment --at dpo-v0
    """
    commit = core.create(connect(find_target(hub_name)), repo, branch, at)
    output_of().result({"repo": repo, "branch": branch, "commit": commit}, Text(f"{branch} is at {commit}"))


@revisions.command()
@click.argument("repo")
@click.argument("branch")
@click.option("--force", is_flag=True, help="Even when the card on main speaks of it.")
@confirm_option
@hub_option
@speaks
def delete(repo: str, branch: str, force: bool, yes: bool, hub_name: str | None) -> None:
    """Remove BRANCH from REPO. Its commit stays reachable by its id for a while.

    \b
    hubkit revisions delete me/my-model experiment -y
    """
    ask(f"Remove the branch {branch} of {repo}?", yes=yes)
    commit = core.delete(connect(find_target(hub_name)), repo, branch, force=force)
    output_of().result({"repo": repo, "removed": branch, "commit": commit}, Text(f"{branch} was at {commit}"))


@revisions.command()
@click.argument("repo")
@click.argument("name")
@click.option("--revision", default="main", show_default=True, help="What the tag names.")
@click.option("-m", "--message", help="Why.")
@hub_option
@speaks
def tag(repo: str, name: str, revision: str, message: str | None, hub_name: str | None) -> None:
    """Name a revision of REPO by the tag NAME.

    \b
    hubkit revisions tag me/my-model v1.0
    """
    commit = core.tag(connect(find_target(hub_name)), repo, name, revision, message)
    output_of().result({"repo": repo, "tag": name, "commit": commit}, Text(f"{name} is at {commit}"))


def _share(share: float | None) -> str:
    return "" if share is None else percent(share)
