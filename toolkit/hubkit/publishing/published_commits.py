"""Whether a commit was ever on a branch or a tag of its repo.

The commits of a pull request can be read by their ids too, and anybody can open one: a commit of a famous repo need not
be of its owner.
"""

from __future__ import annotations

from hubkit.core.errors import ConflictError
from hubkit.core.numbers import short_commit
from hubkit.hub.client import Hub, RepoType


def refuse_unpublished(hub: Hub, repo: str, commit: str, repo_type: RepoType = "model") -> None:
    """ConflictError when ``commit`` is in the history of no branch and no tag of ``repo``."""
    refs = hub.refs(repo, repo_type)
    heads = dict.fromkeys([*refs.branches.values(), *refs.tags.values()])
    if commit in heads:
        return
    seen: set[str] = set()
    for head in heads:
        if head in seen:
            continue
        seen |= {item.id for item in hub.history(repo, head, repo_type)}
        if commit in seen:
            return
    raise ConflictError(
        f"{repo}@{short_commit(commit)} is on no branch or tag of {repo}. It may come from a pull request, which "
        "anybody can open.",
        hint=f"Do not take it for {repo}. Ask its owner whether they published this commit.",
    )
