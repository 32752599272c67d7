"""Create what the recipe loads and the embedded Hub lacks, through the recipe named by ``provide``.

    provide: tiny          # an entry point of the group hubkit.recipes whose module has provide(ctx)

Only for the embedded Hub: on a real one, models and datasets are their owners' to publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points

from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.findings import Finding
from hubkit.core.target import Target
from hubkit.recipe.models import Recipe
from hubkit.recipe.provided import Needed, ProvideContext, ProvidedRepo, ProvidedRepos
from hubkit.recipe.stage import CheckContext, Context, NoInputs, Scope, StageResult

VERSION = 2
SHAPED_BY = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True)
class Settings:
    """The recipe that creates the repos, and what it must create: the base, the datasets, and the seed to use."""

    provider: str
    needed: Needed

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        datasets = dict.fromkeys(source.repo for sources in recipe.data.values() for source in sources if source.repo)
        return cls(recipe.provide or "", Needed(recipe.base.repo, tuple(datasets), recipe.seed))


Inputs = NoInputs
Output = ProvidedRepos
Provider = Callable[[ProvideContext], Iterable[ProvidedRepo]]


def check(ctx: CheckContext[Settings]) -> Iterator[Finding]:
    """The target must be embedded, and the recipe that provides installed."""
    try:
        _provider(ctx.settings.provider, ctx.target)
    except HubkitError as error:
        yield Finding("error", error.message, error.hint, error.exit_code)


def run(ctx: Context[Settings, NoInputs]) -> StageResult[ProvidedRepos]:
    """Write ``provided.json``: every repo with its commit, and whether it was created now."""
    provide = _provider(ctx.settings.provider, ctx.target)
    repos = tuple(provide(ProvideContext(ctx.settings.needed, ctx.target, ctx.scratch, ctx.report)))
    made = sum(item.made for item in repos)
    return StageResult(
        ProvidedRepos(repos=repos), f"{made} created, {len(repos) - made} up to date", facts={"made": made}
    )


def outdated(ctx: Context[Settings, NoInputs], provided: ProvidedRepos) -> str | None:
    """What the Hub no longer has of what was provided; None while it has all of it."""
    from hubkit.hub.client import connect

    hub = connect(ctx.target)
    for item in provided.repos:
        if not hub.repo_exists(item.repo, item.type):
            return f"{item.repo} is no longer on the Hub"
        try:
            hub.resolve(item.repo, item.commit, item.type)
        except UsageError:
            return f"{item.repo} no longer has the commit {item.commit[:8]}"
    return None


def _provider(name: str, target: Target) -> Provider:
    if not target.embedded:
        raise RefusedError(
            f"`provide: {name}` creates stand-ins under other people's repo names; "
            "that is allowed on the embedded Hub only.",
            hint="Remove `provide` to load the real repos from this Hub, or leave out --hub.",
        )
    recipes = [point for point in entry_points(group="hubkit.recipes") if point.name == name]
    offered: Provider | None = getattr(recipes[0].load(), "provide", None) if recipes else None
    if offered is None:
        raise UsageError(
            f"provide: no installed recipe {name!r} provides repos.", hint="Use `provide: tiny` or remove the key."
        )
    return offered
