"""`hubkit revisions`: the branches and tags of a repo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table
from rich.text import Text

from hubkit.cli.common import ask, confirm_option, find_target, hub_option, output_of, speaks
from hubkit.cli.comparison import shown as comparison_shown
from hubkit.core.home import hubkit_home
from hubkit.core.output import megabytes, percent, printable, table
from hubkit.core.target import Target
from hubkit.core.trees import short_list
from hubkit.hub.client import Hub, RepoType, connect
from hubkit.hub.trusted_publishing import signed_in
from hubkit.pipeline.runs import release_lock
from hubkit.publishing import revisions as core

_Command = TypeVar("_Command", bound=Callable[..., Any])
_force_option = click.option("--force", is_flag=True, help="Even when something speaks against it.")


def _reads(command: _Command) -> _Command:
    """What every command takes: the repo's type, the Hub, the form of the output."""
    kinds = click.Choice(["model", "dataset", "space"])
    words = "What REPO is."
    return click.option("--type", "repo_type", type=kinds, default="model", show_default=True, help=words)(
        hub_option(speaks(command))
    )


def _writes(command: _Command) -> _Command:
    """What every command that writes takes besides: ``--dry-run`` and ``-y``."""
    words = "Show what would be done, and do nothing."
    return click.option("--dry-run", is_flag=True, help=words)(confirm_option(_reads(command)))


def _hub(name: str | None) -> Hub:
    return connect(find_target(name))


def _writable(name: str | None, repo: str, repo_type: RepoType) -> Target:
    """The Hub of that name; a CI job without a token signs in to its model repo by its identity."""
    target = find_target(name)
    return signed_in(target, repo) if repo_type == "model" else target


@click.group()
def revisions() -> None:
    """Look at, compare and change revisions of any repo: models, datasets and Spaces, made by hubkit or not.

    What writes asks first, or takes -y; --dry-run shows what would be done.
    """


@revisions.command("list")
@click.argument("repo")
@click.option("--pull-requests", is_flag=True, help="Also the refs of pull requests.")
@_reads
def list_(repo: str, pull_requests: bool, repo_type: RepoType, hub_name: str | None) -> None:
    """List REPO's branches and tags with what is known of each.

    \b
    hubkit revisions list hubkit/tiny-hermes-dpo
    """
    found = core.list_revisions(_hub(hub_name), repo, repo_type, pull_requests=pull_requests)
    cells: dict[str, list[str]] = {
        "revision": [item.name for item in found],
        "kind": [item.kind for item in found],
        "commit": [item.commit[:12] for item in found],
        "date (UTC)": [_minute(item.date) for item in found],
        "stops#": [_share((item.stop_rates or {}).get("merged")) for item in found],
        "scores#": [_share(item.average) for item in found],
        "size#": [megabytes(item.size) for item in found],
        "last commit": [printable(item.title or "") for item in found],
    }
    output_of().result([asdict(item) for item in found], _fitted(cells, "revision", ("last commit", "kind")))


@revisions.command()
@click.argument("repo")
@click.argument("branch")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many commits.")
@_reads
def history(repo: str, branch: str, limit: int, repo_type: RepoType, hub_name: str | None) -> None:
    """List the commits of BRANCH: what each changed, which release it brought, what was promoted or rolled back.

    \b
    hubkit revisions history hubkit/tiny-hermes-dpo main
    """
    found = core.history(_hub(hub_name), repo, branch, repo_type, limit=limit)
    cells: dict[str, list[str]] = {
        "commit": [item.commit[:12] for item in found],
        "date (UTC)": [_minute(item.date) for item in found],
        "what": [item.kind for item in found],
        "changed#": [str(item.changed or "none") for item in found],
        "stops#": [_share((item.stop_rates or {}).get("merged")) for item in found],
        "scores#": [_share(item.average) for item in found],
        "size#": [megabytes(item.size) for item in found],
        "title": [printable(item.title) for item in found],
    }
    output_of().result([item.to_json() for item in found], _fitted(cells, "title", ("size#", "scores#")))


@revisions.command()
@click.argument("repo")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--with", "other", metavar="REPO", help="B is a revision of this repo.")
@click.option("--tensors/--no-tensors", default=True, help="Compare the weights too; the default.")
@click.option(
    "--limit",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    metavar="GB",
    help="How much of the weights to read from the Hub at most.",
)
@_reads
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
    """Compare two revisions: files, card, settings, measurements, and tensors by the norm of their difference.

    Weights are read from the Hub piece by piece, and only of files that differ.

    \b
    hubkit revisions diff hubkit/tiny-hermes-dpo dpo-v0 main
    hubkit revisions diff me/my-model v1 main --with them/theirs --no-tensors
    """
    hub = _hub(hub_name)
    places = core.place_of(hub, repo, before, repo_type), core.place_of(hub, other or repo, after, repo_type)
    found = core.compare_revisions(*places, tensors=tensors, limit=int(limit * 1e9))
    output_of().result(found.to_json(), *comparison_shown(found))


@revisions.command()
@click.argument("repo")
@click.argument("branch")
@click.option("--at", default="main", show_default=True, metavar="REVISION", help="Where the branch begins.")
@_writes
def create(
    repo: str, branch: str, at: str, dry_run: bool, yes: bool, repo_type: RepoType, hub_name: str | None
) -> None:
    """Make BRANCH in REPO, at a revision.

    \b
    hubkit revisions create me/my-model experiment --at dpo-v0
    """
    hub = connect(_writable(hub_name, repo, repo_type))
    plan = core.create(hub, repo, branch, at, repo_type, dry_run=True)
    if _agreed(plan.already, dry_run, yes, f"Make the branch {branch} of {repo} at {plan.commit[:12]}?"):
        core.create(hub, repo, branch, plan.commit, repo_type)
    _tell_named(repo, plan, dry_run, f"{branch} is at {plan.commit}", branch=branch)


@revisions.command()
@click.argument("repo")
@click.argument("name")
@click.option("--at", "--revision", default="main", show_default=True, metavar="REVISION", help="What the tag names.")
@click.option("-m", "--message", help="Why.")
@_writes
def tag(
    repo: str,
    name: str,
    at: str,
    message: str | None,
    dry_run: bool,
    yes: bool,
    repo_type: RepoType,
    hub_name: str | None,
) -> None:
    """Name a revision of REPO by the tag NAME.

    \b
    hubkit revisions tag me/my-model v1.0 --at main
    """
    hub = connect(_writable(hub_name, repo, repo_type))
    plan = core.tag(hub, repo, name, at, message, repo_type, dry_run=True)
    if _agreed(plan.already, dry_run, yes, f"Name {plan.commit[:12]} of {repo} by the tag {name}?"):
        core.tag(hub, repo, name, plan.commit, message, repo_type)
    _tell_named(repo, plan, dry_run, f"{name} is at {plan.commit}", tag=name)


@revisions.command()
@click.argument("repo")
@click.argument("name")
@click.option("--tag", "is_tag", is_flag=True, help="NAME is a tag, also when there is a branch of that name.")
@_force_option
@_writes
def delete(
    repo: str,
    name: str,
    is_tag: bool,
    force: bool,
    dry_run: bool,
    yes: bool,
    repo_type: RepoType,
    hub_name: str | None,
) -> None:
    """Remove the branch or tag NAME from REPO. Its commit stays reachable by its id for a while.

    Refused for what a card of the repo or a Space points to, and for what ./hubkit.yaml protects, unless --force.

    \b
    hubkit revisions delete me/my-model experiment -y
    """
    core.need_unprotected(repo, name, Path.cwd(), force=force)
    hub = connect(_writable(hub_name, repo, repo_type))
    plan = core.delete(hub, repo, name, repo_type, is_tag=is_tag, force=force, dry_run=True)
    if _agreed(False, dry_run, yes, f"Remove the {plan.kind} {name} of {repo}, at {plan.commit[:12]}?"):
        core.delete(hub, repo, name, repo_type, is_tag=is_tag, at=plan.commit, force=True)
    _tell_named(repo, plan, dry_run, f"{name} was at {plan.commit}", removed=name)


@revisions.command()
@click.argument("repo")
@click.argument("source", metavar="SRC")
@click.argument("branch", metavar="DST")
@click.option("--exact", is_flag=True, help="Also remove files that no release of hubkit put on DST.")
@_force_option
@_writes
def promote(
    repo: str,
    source: str,
    branch: str,
    exact: bool,
    force: bool,
    dry_run: bool,
    yes: bool,
    repo_type: RepoType,
    hub_name: str | None,
) -> None:
    """Make the branch DST hold the files of the revision SRC, in one commit, copied on the Hub.

    A branch that is not there is made at SRC's commit. Where hubkit publishes, files that no release put on DST stay;
    on other branches, and with --exact, what SRC lacks is removed. What ./hubkit.yaml protects takes --force.

    \b
    hubkit revisions promote me/my-model experiment main --dry-run
    """
    core.need_unprotected(repo, branch, Path.cwd(), force=force)
    hub = connect(_writable(hub_name, repo, repo_type))
    change = core.plan_promotion(hub, repo, source, branch, exact=exact, repo_type=repo_type)
    _bring(hub, change, f"Make {branch} of {repo} hold this?", dry_run, yes)


@revisions.command()
@click.argument("repo")
@click.argument("branch")
@click.option("--to", metavar="REVISION", help="Go back to this one.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Go back N changes of the files.")
@_force_option
@_writes
def rollback(
    repo: str,
    branch: str,
    to: str | None,
    steps: int | None,
    force: bool,
    dry_run: bool,
    yes: bool,
    repo_type: RepoType,
    hub_name: str | None,
) -> None:
    """Make BRANCH hold what it held before, in one commit on top: its history is kept.

    Without --to and --steps it goes back one change, unless its last commit is a rollback already. Refused for a
    revision at which BRANCH never was, and for what ./hubkit.yaml protects, unless --force.

    \b
    hubkit revisions rollback me/my-model main
    hubkit revisions rollback me/my-model main --to 0a62394d777f -y
    """
    if to is not None and steps is not None:
        raise click.UsageError("--to and --steps cannot be given together.")
    core.need_unprotected(repo, branch, Path.cwd(), force=force)
    hub = connect(_writable(hub_name, repo, repo_type))
    change = core.plan_rollback(hub, repo, branch, to=to, steps=steps, force=force, repo_type=repo_type)
    _bring(hub, change, f"Roll {branch} of {repo} back to {change.plan.source[:12]}?", dry_run, yes)


@revisions.command()
@click.argument("repo")
@click.option(
    "--days", type=click.FloatRange(min=0), default=7.0, show_default=True, help="How old a branch must be to go."
)
@_writes
def prune(repo: str, days: float, dry_run: bool, yes: bool, repo_type: RepoType, hub_name: str | None) -> None:
    """Remove old staging branches whose release was promoted, or overtaken by a later one.

    Not while a release of REPO runs on this machine.

    \b
    hubkit revisions prune me/my-model --dry-run
    """
    target = _writable(hub_name, repo, repo_type)
    hub, output = connect(target), output_of()
    with release_lock(hubkit_home(), repo, target):
        found = core.plan_prune(hub, repo, days, repo_type=repo_type)
        going = [item.branch for item in found if item.goes]
        lines = [
            f"{item.branch} {'goes' if item.goes else 'stays'}: {item.reason} ({item.days:.0f} days old)"
            for item in found
        ]
        removed: list[core.Staged] = []
        if not going:
            lines.append(f"{repo} has no staging branch that can go.")
        elif dry_run:
            lines.append("Nothing was changed (--dry-run).")
        else:
            for line in lines:
                output.say(line)
            ask(f"Remove {', '.join(going)} of {repo}?", yes=yes)
            removed = core.prune(hub, repo, found, repo_type)
            lines = [f"Removed {', '.join(item.branch for item in removed) or 'nothing: all were moved since'}"]
    said = {"repo": repo, "staging": [item.to_json() for item in found], "removed": [item.branch for item in removed]}
    output.result(said | {"dry_run": dry_run}, *map(Text, lines))


def _agreed(already: bool, dry_run: bool, yes: bool, question: str) -> bool:
    """Whether to write: not when there is nothing to do, nor in a dry run, nor when the person says no."""
    if already or dry_run:
        return False
    ask(question, yes=yes)
    return True


def _tell_named(repo: str, plan: core.Named, dry_run: bool, words: str, **named: str) -> None:
    value = {"repo": repo, **named, "kind": plan.kind, "commit": plan.commit, "already": plan.already}
    lines = [f"{words} already" if plan.already else words]
    if dry_run and not plan.already:
        lines = [f"It would say: {words}", "Nothing was changed (--dry-run)."]
    output_of().result(value | {"dry_run": dry_run}, *map(Text, lines))


def _bring(hub: Hub, change: core.BranchChange, question: str, dry_run: bool, yes: bool) -> None:
    """Show a planned change of a branch, ask, carry it out, and tell how to go back."""
    output, plan = output_of(), change.plan
    if change.settled is not None:
        output.result(change.to_json() | {"commit": plan.head, "dry_run": dry_run}, Text(change.settled))
        return
    lines = _planned(change)
    if dry_run:
        lines.append("Nothing was changed (--dry-run).")
        output.result(change.to_json() | {"commit": None, "dry_run": True}, *map(Text, lines))
        return
    for line in lines:
        output.say(line)
    ask(question, yes=yes)
    commit = change.apply(hub)
    output.result(change.to_json() | {"commit": commit, "dry_run": False}, Text(f"{plan.branch} is at {commit}"))
    if plan.head is not None:
        output.say(f"To go back: hubkit revisions rollback {change.repo} {plan.branch} --to {plan.head[:12]}")


def _planned(change: core.BranchChange, most: int = 20) -> list[str]:
    """The plan in lines: the commit's title, what comes and goes, what stays."""
    plan = change.plan
    if plan.head is None:
        return [f"{change.repo} has no branch {plan.branch}; it is made at {plan.source[:12]}."]
    lines = [f"{change.title}:"]
    lines += [f"  {printable(item.sentence)}" for item in plan.change.changes[:most]]
    if len(plan.change.changes) > most:
        lines.append(f"  and {len(plan.change.changes) - most} more files")
    if plan.replaced:
        lines.append(f"  replaced, for the source has files in their place: {printable(short_list(plan.replaced))}")
    if plan.kept:
        kept = [*map(printable, plan.kept[:5]), *([f"{len(plan.kept) - 5} more"] if plan.kept[5:] else [])]
        lines.append(f"  kept, for no release put it there: {', '.join(kept)} (--exact removes it)")
    return lines


def _fitted(cells: dict[str, list[str]], folds: str, spare: tuple[str, ...]) -> Table:
    """A table that breaks nothing but the column ``folds``; a narrow terminal is spared the columns ``spare``."""
    width = output_of().data.width
    needed = {head: max(len(text) for text in (head.rstrip("#"), *column)) for head, column in cells.items()}
    for head in spare:
        if sum(needed[left] + 2 for left in cells) - needed[folds] + min(needed[folds], 14) > width + 2:
            cells = {left: column for left, column in cells.items() if left != head}
    made = table(tuple(cells), zip(*cells.values(), strict=True))
    for head, column in zip(cells, made.columns, strict=True):
        column.no_wrap, column.overflow = head != folds, "fold"
        column.min_width = None if head == folds else needed[head]
    return made


def _minute(date: str | None) -> str:
    return (date or "")[:16].replace("T", " ")


def _share(share: float | None) -> str:
    return "" if share is None else percent(share)
