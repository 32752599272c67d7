"""Commands that change revisions: create, tag, delete, promote, rollback, prune. Each asks for confirmation first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubkit.cli.options import ask, output_of
from hubkit.cli.revisions.shared import force_option, writing_options
from hubkit.cli.targets import find_target
from hubkit.core.home import hubkit_home
from hubkit.core.numbers import short_commit
from hubkit.core.printable import printable
from hubkit.core.trees import short_list

if TYPE_CHECKING:
    from hubkit.core.target import Target
    from hubkit.hub.client import Hub, RepoType
    from hubkit.publishing.revisions import BranchChange, RefChange


@click.command()
@click.argument("repo")
@click.argument("branch")
@click.option(
    "--at",
    default="main",
    show_default=True,
    metavar="REVISION",
    help="Create BRANCH at this revision.",
)
@writing_options
def create(
    repo: str, branch: str, at: str, dry_run: bool, yes: bool, repo_type: RepoType, hub_name: str | None
) -> None:
    """Create BRANCH in REPO, at a revision.

    \b
    Example:
      hubkit revisions create me/my-model experiment --at dpo-v0
    """
    from hubkit.publishing import revisions

    hub = _writable(hub_name, repo, repo_type)
    plan = revisions.create(hub, repo, branch, at, repo_type, dry_run=True)
    if _agreed(plan.already, dry_run, yes, f"Create the branch {branch} of {repo} at {short_commit(plan.commit)}?"):
        revisions.create(hub, repo, branch, plan.commit, repo_type)
    _print_named(repo, plan, dry_run, f"{branch} is at {plan.commit}", branch=branch)


@click.command()
@click.argument("repo")
@click.argument("name")
@click.option("--at", "--revision", default="main", show_default=True, metavar="REVISION", help="Tag this revision.")
@click.option("-m", "--message", help="Store this message with the tag.")
@writing_options
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
    """Tag a revision of REPO with NAME.

    \b
    Example:
      hubkit revisions tag me/my-model v1.0 --at main
    """
    from hubkit.publishing import revisions

    hub = _writable(hub_name, repo, repo_type)
    plan = revisions.tag(hub, repo, name, at, message, repo_type, dry_run=True)
    if _agreed(plan.already, dry_run, yes, f"Tag {short_commit(plan.commit)} of {repo} with {name}?"):
        revisions.tag(hub, repo, name, plan.commit, message, repo_type)
    _print_named(repo, plan, dry_run, f"{name} is at {plan.commit}", tag=name)


@click.command()
@click.argument("repo")
@click.argument("name")
@click.option("--tag", "is_tag", is_flag=True, help="Remove the tag NAME, even if there is a branch of that name.")
@force_option("Remove NAME even if ./hubkit.yaml protects it, or a card or a Space points to it.")
@writing_options
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
    """Remove the branch or tag NAME from REPO.

    Its commit stays reachable by id for a while. Without --force this is refused if a card of the repo or a Space
    points to NAME, and if ./hubkit.yaml protects it.

    \b
    Example:
      hubkit revisions delete me/my-model experiment -y
    """
    from hubkit.publishing import revisions

    revisions.need_unprotected(repo, name, Path.cwd(), force=force)
    hub = _writable(hub_name, repo, repo_type)
    plan = revisions.delete(hub, repo, name, repo_type, is_tag=is_tag, force=force, dry_run=True)
    if _agreed(False, dry_run, yes, f"Remove the {plan.kind} {name} of {repo}, at {short_commit(plan.commit)}?"):
        revisions.delete(hub, repo, name, repo_type, is_tag=is_tag, at=plan.commit, force=True)
    _print_named(repo, plan, dry_run, f"{name} was at {plan.commit}", removed=name)


@click.command()
@click.argument("repo")
@click.argument("source", metavar="SRC")
@click.argument("branch", metavar="DST")
@click.option("--exact", is_flag=True, help="Also remove files of DST that no release of hubkit published.")
@force_option("Promote even if ./hubkit.yaml protects DST, or GGUF files alone would replace weights.")
@writing_options
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
    """Promote the revision SRC to the branch DST in one commit.

    The files of SRC are copied to DST on the Hub; if DST does not exist, it is created at SRC's commit. Files that SRC
    does not have are removed from DST, with one exception: on a branch with a release, files that no release
    published are kept, unless --exact is given. Without --force this is refused if ./hubkit.yaml protects DST, or if
    SRC has GGUF files alone and DST has weights.

    \b
    Example:
      hubkit revisions promote me/my-model experiment main --dry-run
    """
    from hubkit.publishing import revisions

    revisions.need_unprotected(repo, branch, Path.cwd(), force=force)
    hub = _writable(hub_name, repo, repo_type)
    change = revisions.plan_promotion(hub, repo, source, branch, exact=exact, force=force, repo_type=repo_type)
    _apply(hub, change, f"Change {branch} of {repo} like this?", dry_run, yes)


@click.command()
@click.argument("repo")
@click.argument("branch")
@click.option("--to", metavar="REVISION", help="Roll back to this commit, tag or branch.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Roll back N changes of the files.")
@force_option("Roll back even if ./hubkit.yaml protects BRANCH, or BRANCH never had that revision.")
@writing_options
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
    """Restore earlier files of BRANCH in a new commit.

    The history is kept. Without --to and --steps the last change is undone, unless the last commit is a rollback
    already. Without --force this is refused for a revision that BRANCH never had, and if ./hubkit.yaml protects
    BRANCH.

    \b
    Examples:
      hubkit revisions rollback me/my-model main
      hubkit revisions rollback me/my-model main --to 0a62394d777f -y
    """
    from hubkit.publishing import revisions

    if to is not None and steps is not None:
        raise click.UsageError("--to and --steps cannot be given together.")
    revisions.need_unprotected(repo, branch, Path.cwd(), force=force)
    hub = _writable(hub_name, repo, repo_type)
    change = revisions.plan_rollback(hub, repo, branch, to=to, steps=steps, force=force, repo_type=repo_type)
    _apply(hub, change, f"Roll {branch} of {repo} back to {short_commit(change.plan.source)}?", dry_run, yes)


@click.command()
@click.argument("repo")
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=7.0,
    show_default=True,
    metavar="DAYS",
    help="Remove branches that are at least DAYS old.",
)
@writing_options
def prune(repo: str, days: float, dry_run: bool, yes: bool, repo_type: RepoType, hub_name: str | None) -> None:
    """Remove old staging branches that are no longer needed.

    Those are the ones whose release was promoted, or replaced by a later one. This is refused while a release of REPO
    is running on this machine.

    \b
    Example:
      hubkit revisions prune me/my-model --dry-run
    """
    from hubkit.hub.client import connect
    from hubkit.pipeline.runs import release_lock
    from hubkit.publishing import revisions

    target = _target(hub_name, repo, repo_type)
    hub, output = connect(target), output_of()
    with release_lock(hubkit_home(), repo, target):
        staged = revisions.plan_prune(hub, repo, days, repo_type=repo_type)
        removable = [item.branch for item in staged if item.goes]
        lines = [
            f"{'remove' if item.goes else 'keep'} {item.branch}: {item.reason} ({item.days:.0f} days old)"
            for item in staged
        ]
        removed: list[revisions.Staged] = []
        if not removable:
            lines.append(f"{repo} has no staging branch to remove.")
        elif dry_run:
            lines.append("Nothing was changed (--dry-run).")
        else:
            for line in lines:
                output.say(line)
            ask(f"Remove {', '.join(removable)} of {repo}?", yes=yes)
            removed = revisions.prune(hub, repo, staged, repo_type)
            lines = [f"Removed {', '.join(item.branch for item in removed) or 'nothing: all were moved since'}"]
    value = {"repo": repo, "staging": [item.to_json() for item in staged], "removed": [item.branch for item in removed]}
    output.result(value | {"dry_run": dry_run}, *lines)


def _target(name: str | None, repo: str, repo_type: RepoType) -> Target:
    """The Hub to write to; a CI job without a token gets one for its model repo by its OIDC identity."""
    from hubkit.hub.trusted_publishing import signed_in

    target = find_target(name)
    return signed_in(target, repo) if repo_type == "model" else target


def _writable(name: str | None, repo: str, repo_type: RepoType) -> Hub:
    from hubkit.hub.client import connect

    return connect(_target(name, repo, repo_type))


def _agreed(already: bool, dry_run: bool, yes: bool, question: str) -> bool:
    """Whether to write: False if there is nothing to do and in a dry run; raises if the person does not agree."""
    if already or dry_run:
        return False
    ask(question, yes=yes)
    return True


def _print_named(repo: str, plan: RefChange, dry_run: bool, words: str, **named: str) -> None:
    value = {"repo": repo, **named, "kind": plan.kind, "commit": plan.commit, "already": plan.already}
    lines = [f"{words} already" if plan.already else words]
    if dry_run and not plan.already:
        lines = [f"After this command: {words}", "Nothing was changed (--dry-run)."]
    output_of().result(value | {"dry_run": dry_run}, *lines)


def _apply(hub: Hub, change: BranchChange, question: str, dry_run: bool, yes: bool) -> None:
    """Show a planned change of a branch, ask, carry it out, and print the command that undoes it."""
    output, plan = output_of(), change.plan
    if change.nothing_to_do is not None:
        output.result(change.to_json() | {"commit": plan.head, "dry_run": dry_run}, change.nothing_to_do)
        return
    lines = planned_lines(change)
    if dry_run:
        lines.append("Nothing was changed (--dry-run).")
        output.result(change.to_json() | {"commit": None, "dry_run": True}, *lines)
        return
    for line in lines:
        output.say(line)
    ask(question, yes=yes)
    commit = change.apply(hub)
    output.result(change.to_json() | {"commit": commit, "dry_run": False}, f"{plan.branch} is at {commit}")
    if plan.head is not None:
        output.say(
            f"To undo this: hubkit revisions rollback {change.repo} {plan.branch} --to {short_commit(plan.head)}"
        )


def planned_lines(change: BranchChange, most: int = 20) -> list[str]:
    """The plan in lines: the title of the commit, the files that change, and those that are kept."""
    plan = change.plan
    if plan.head is None:
        return [f"{change.repo} has no branch {plan.branch}; it is created at {short_commit(plan.source)}."]
    lines = [f"{change.title}:"]
    lines += [f"  {printable(item.sentence)}" for item in plan.change.changes[:most]]
    if len(plan.change.changes) > most:
        lines.append(f"  and {len(plan.change.changes) - most} more files")
    if plan.replaced:
        lines.append(f"  replaced, because the source has files in their place: {printable(short_list(plan.replaced))}")
    if plan.kept:
        kept = [*map(printable, plan.kept[:5]), *([f"{len(plan.kept) - 5} more"] if plan.kept[5:] else [])]
        lines.append(f"  kept, because no release published it: {', '.join(kept)} (--exact removes it)")
    if change.gguf_left:
        lines.append(
            f"  written from other weights than {plan.branch} will have: the GGUF files on"
            f" {printable(short_list(change.gguf_left))}; roll back or promote these, too"
        )
    return lines
