"""What preflight finds about the place that a step publishes to: rights, visibility, branches that are in the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hubkit.core.errors import UsageError
from hubkit.core.findings import Finding
from hubkit.hub.client import Hub, Visibility
from hubkit.hub.refs import refuse_if_in_the_way
from hubkit.publishing import proposals
from hubkit.publishing.gguf_origins import written_from
from hubkit.publishing.manifest import CARDS, MANIFEST_PATH, provenance_at
from hubkit.publishing.ownership import decide
from hubkit.recipe.models import Place
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


def visibility_findings(hub: Hub, repo: str, visibility: Visibility) -> Iterator[Finding]:
    """Whether ``repo``, which is there, can be seen by those whom the recipe names."""
    found = hub.visibility(repo)
    if found != visibility:
        yield Finding(
            "error",
            f"{repo} is {found}, but the recipe says {visibility}.",
            f"Change it on {hub.endpoint}, or write `visibility: {found}` in the recipe.",
        )


def branch_findings(hub: Hub, repo: str, branch: str) -> Iterator[Finding]:
    """Whether ``branch`` and its staging branch can be created in ``repo``, which is there."""
    branches = hub.refs(repo).branches
    for name in (branch, f"{STAGING}/{branch}"):
        try:
            refuse_if_in_the_way(repo, name, branches)
        except UsageError as error:
            yield Finding("error", error.message, error.hint, error.exit_code)


def foreign_findings(hub: Hub, repo: str, branch: str, head: str, needed: Iterable[str]) -> Iterator[Finding]:
    """Files of other people on the branch at ``head``, as far as can be known before the bundle is built.

    ``needed`` are paths that it will have. Of cards others tell (:mod:`hubkit.cards.kept_edits`).
    """
    tree = hub.tree(repo, head)
    ours = provenance_at(hub, repo, head, tree)
    others = {path: entry for path, entry in tree.items() if path not in CARDS.values()}
    ownership = decide(others, dict.fromkeys([*needed, MANIFEST_PATH]), ours.paths if ours else ())
    for sentence in ownership.sentences(f"The branch {branch!r} of {repo}"):
        yield Finding("warning", sentence)


def stale_gguf_findings(hub: Hub, repo: str, branch: str, published: Place | None) -> Iterator[Finding]:
    """A branch, or a repo of its own, with GGUF files of an earlier release that this one leaves as it is.

    They were written from the weights of ``branch`` as these were. ``published`` is where this release publishes GGUF
    files of that variant; None: nowhere.
    """
    for place, _ in written_from(hub, repo, branch):
        if place == published:
            continue
        there, name = place
        what = f"The branch {name!r} of {repo}" if there == repo else there
        remove = f"`hubkit revisions delete {repo} {name}` removes it" if there == repo else "Delete it on the Hub"
        yield Finding(
            "warning",
            f"{what} has GGUF files of an earlier release of {branch!r}, and this recipe publishes none there."
            f" {remove}.",
        )
