"""What preflight finds about the place that a step publishes to: rights, visibility, branches that are in the way."""

from __future__ import annotations

from collections.abc import Iterator

from hubkit.core.errors import UsageError
from hubkit.core.findings import Finding
from hubkit.hub.client import Hub, Visibility
from hubkit.hub.refs import refuse_if_in_the_way
from hubkit.publishing import proposals
from hubkit.recipe.names import STAGING


def rights_findings(hub: Hub, repo: str, *, proposed: bool) -> Iterator[Finding]:
    """Whether the token may write to ``repo``, or open pull requests where the release is only ``proposed``."""
    if proposed:
        if problem := proposals.problem(hub, repo):
            yield Finding(
                "error",
                f"Cannot open a pull request for {repo}: {problem}.",
                "Log in with a token that may open discussions in it, or change `repo` in the recipe.",
            )
    elif problem := hub.writing_problem(repo):
        yield Finding(
            "error",
            f"Cannot publish to {repo}: {problem}.",
            "Log in with a token that may write to it, change `repo` in the recipe, or propose the release to the"
            " repo's owner with --pr.",
        )


def repo_findings(hub: Hub, repo: str, branch: str, visibility: Visibility) -> Iterator[Finding]:
    """Who can see ``repo``, which is there, and whether ``branch`` and its staging branch can be created in it."""
    found = hub.visibility(repo)
    if found != visibility:
        yield Finding(
            "error",
            f"{repo} is {found}, but the recipe says {visibility}.",
            f"Change it on {hub.endpoint}, or write `visibility: {found}` in the recipe.",
        )
    branches = hub.refs(repo).branches
    for name in (branch, f"{STAGING}/{branch}"):
        try:
            refuse_if_in_the_way(repo, name, branches)
        except UsageError as error:
            yield Finding("error", error.message, error.hint, error.exit_code)
