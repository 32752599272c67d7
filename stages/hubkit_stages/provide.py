"""Make what the recipe loads and the embedded Hub lacks, through the recipe named by ``provide``.

    provide: tiny          # an entry point of the group hubkit.recipes whose module has provide(ctx)

Only for the embedded Hub: on a real one, models and data sets are their owners' to publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.files import write_json
from hubkit.core.findings import Finding
from hubkit.recipe.stage import Artifact, Context

if TYPE_CHECKING:
    from hubkit.hub.client import Hub

VERSION = 1
SHAPED_BY = ("torch", "transformers", "tokenizers")


def check(ctx: Context) -> Iterator[Finding]:
    """The target must be embedded, and the recipe that provides installed."""
    try:
        _provider(ctx)
    except HubkitError as error:
        yield Finding("error", error.message, error.hint, error.exit_code)


def run(ctx: Context) -> Artifact:
    """Make ``provided.json``: every repo with its commit, and whether it was made now."""
    repos = _provider(ctx)(ctx)
    write_json(ctx.out / "provided.json", {"repos": repos})
    made = sum(bool(item["made"]) for item in repos)
    return ctx.artifact(figure=f"{made} made, {len(repos) - made} there already", made=made)


def holds(ctx: Context, artifact: Artifact) -> str | None:
    """What the Hub no longer has of what was provided; None while all of it is there."""
    from hubkit.hub.client import connect

    hub: Hub = connect(ctx.target)
    for item in artifact.json("provided.json")["repos"]:
        if not hub.repo_exists(item["repo"], item["type"]):
            return f"{item['repo']} is no longer on the Hub"
        try:
            hub.resolve(item["repo"], item["commit"], item["type"])
        except UsageError:
            return f"{item['repo']} no longer has the commit {item['commit'][:8]}"
    return None


def _provider(ctx: Context) -> Callable[[Context], list[dict[str, Any]]]:
    name = ctx.recipe.provide
    if not ctx.target.embedded:
        raise RefusedError(
            f"`provide: {name}` makes stand-ins for other people's repos, which only the embedded Hub may hold.",
            hint="Remove `provide` to load the real ones from this Hub, or leave out --hub.",
        )
    found = [point for point in entry_points(group="hubkit.recipes") if point.name == name]
    offered = getattr(found[0].load(), "provide", None) if found else None
    if offered is None:
        raise UsageError(
            f"provide: no installed recipe {name!r} makes anything.", hint="The built-in one that does is 'tiny'."
        )
    return offered  # type: ignore[no-any-return]
