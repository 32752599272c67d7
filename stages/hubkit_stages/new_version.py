"""Write `new_version` to the cards of the repos that this release replaces: the page of each then links to it.

    card: {replaces: [me/old-model]}

It comes last: what the old pages link to is there, with its Space and its collection. Of each card on `main` one line
changes, by compare-and-swap; every other byte stays. Nothing is committed where the line is there already.

Writes ``new-version.json``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.findings import Finding
from hubkit.core.numbers import short_commit
from hubkit.hub.client import Hub, connect
from hubkit.publishing.released import ReleasedBranches
from hubkit.publishing.replacing import RECIPE_KEY, ReplacedRepos, circle_problem, edited_card, newer_of, point_to
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult

VERSION = 1
SHAPED_BY: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """The repo of the release, and the repos that it replaces."""

    newer: str
    replaces: tuple[str, ...]

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        return cls(recipe.repos()[-1], recipe.card.replaces)  # with `layout: repos` that of main, or the last one


@dataclass(frozen=True)
class Inputs:
    """What was released: an old page links to nothing that is not there."""

    released: ReleasedBranches


Output = ReplacedRepos
StageContext = Context[Settings, Inputs]


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """Whether each repo is there, its card can be edited, and this token may write to it."""
    hub, newer = connect(ctx.target), ctx.settings.newer
    for repo in ctx.settings.replaces:
        if not hub.repo_exists(repo):
            yield Finding(
                "error",
                f"`{RECIPE_KEY}` names {repo}, which is not on {hub.endpoint}.",
                "Fix the name in the recipe, or remove it.",
                2,
            )
        elif problem := hub.writing_problem(repo):
            yield Finding(
                "error",
                f"Cannot write to {repo}, which `{RECIPE_KEY}` names: {problem}.",
                f"Log in with a token that may write to it, or remove it from `{RECIPE_KEY}` in the recipe.",
            )
        elif problem := circle_problem(hub, repo, newer):
            yield Finding("error", f"`{RECIPE_KEY}` names {repo}: {problem}.", _hint(repo), 2)
        else:
            yield from _card_problems(hub, repo, newer)


def _hint(repo: str) -> str:
    return f"Remove {repo} from `{RECIPE_KEY}` in the recipe, or `new_version` from the card that names it."


def _card_problems(hub: Hub, repo: str, newer: str) -> Iterable[Finding]:
    try:
        edited_card(hub, repo, newer)
    except HubkitError as error:
        yield Finding("error", error.message, error.hint, error.exit_code)
        return
    if (now := newer_of(hub, repo)) not in (None, newer):
        yield Finding("warning", f"The card of {repo} names {now} as its new version; it will name {newer}.")


def run(ctx: StageContext) -> StageResult[ReplacedRepos]:
    """Edit the card of each repo that does not say it yet."""
    hub, newer, asked = connect(ctx.target), ctx.settings.newer, ctx.settings.replaces
    commits = {}
    for index, repo in enumerate(asked):
        ctx.report(f"editing the card of {repo}", index / len(asked))
        if problem := circle_problem(hub, repo, newer):
            raise RefusedError(f"`{RECIPE_KEY}` names {repo}: {problem}.", hint=_hint(repo))
        commits[repo] = point_to(hub, repo, newer, ctx.note)
        ctx.note("pointed", repo=repo, newer=newer, commit=commits[repo])
    figure = ", ".join(f"{repo} at {short_commit(commit)}" for repo, commit in commits.items())
    return StageResult(ReplacedRepos(newer=newer, repos=commits), f"{newer} replaces {figure}")


def outdated(ctx: StageContext, made: ReplacedRepos) -> str | None:
    """None while the card of each repo that is still there names this release."""
    hub = connect(ctx.target)
    for repo in made.repos:
        if hub.repo_exists(repo) and newer_of(hub, repo) != made.newer:
            return f"the card of {repo} no longer names {made.newer} as its new version"
    return None
