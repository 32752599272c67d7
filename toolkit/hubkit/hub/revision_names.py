"""Resolves a branch, tag, pull request or short id to the id of a commit."""

from __future__ import annotations

import re

from hubkit.core.errors import UsageError
from hubkit.hub.client import Hub, RepoType

_SHORT_ID = re.compile(r"[0-9a-f]{7,39}")


def commit_of(hub: Hub, repo: str, revision: str, repo_type: RepoType = "model") -> str:
    """The commit that ``revision`` names: a branch, a tag, ``refs/pr/N``, or a commit's id, of which 7 digits will do.

    UsageError when there is none, or when a short id could be several.
    """
    try:
        return hub.resolve(repo, revision, repo_type)
    except UsageError:
        if not _SHORT_ID.fullmatch(revision):
            raise
        refs = hub.refs(repo, repo_type)
        heads = {*refs.branches.values(), *refs.tags.values()}
        known = {item.id for head in heads for item in hub.history(repo, head, repo_type)}
        return by_short_id(repo, revision, known) or _none(repo, revision)


def _none(repo: str, revision: str) -> str:
    raise UsageError(f"{repo} has no revision {revision!r}.", hint=f"`hubkit revisions list {repo}` shows what it has.")


def by_short_id(repo: str, given: str, commits: set[str]) -> str | None:
    """The one of ``commits`` whose id begins with ``given``; None when none does, UsageError when several do."""
    matches = sorted(commit for commit in commits if len(given) >= 7 and commit.startswith(given.lower()))
    if len(matches) > 1:
        raise UsageError(f"{len(matches)} commits of {repo} begin with {given}.", hint="Use more digits of the id.")
    return matches[0] if matches else None
