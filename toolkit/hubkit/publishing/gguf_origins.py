"""Which places of GGUF files were written from the weights of a branch, as their manifests say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hubkit.core.names import repo_id_problem
from hubkit.hub.client import Hub
from hubkit.publishing.manifest import is_gguf_place, provenance_at
from hubkit.recipe.names import GGUF, MAIN, STAGING, gguf_repo


def written_from(hub: Hub, repo: str, branch: str) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
    """The places whose GGUF files were written from weights of ``branch``: repo and branch, and what they say of these.

    They are branches of ``repo``, and main of the repo of their own that a recipe gets without naming one. What is
    staged is no release.
    """
    branches = sorted(hub.refs(repo).branches.items())
    places = [
        ((repo, name), head)
        for name, head in branches
        if name != branch and name.endswith(GGUF) and not name.startswith(f"{STAGING}/")
    ]
    own = gguf_repo(repo, branch)
    # The name of a branch need not fit in one of a repo.
    if not repo_id_problem(own) and hub.repo_exists(own) and (head := hub.head(own, MAIN)):
        places.append(((own, MAIN), head))
    for (there, name), head in places:
        found = provenance_at(hub, there, head, hub.tree(there, head))
        weights = found.content["gguf"]["weights"] if found and is_gguf_place(found.content) else None
        if isinstance(weights, Mapping) and (weights.get("repo"), weights.get("branch", MAIN)) == (repo, branch):
            yield (there, name), weights
