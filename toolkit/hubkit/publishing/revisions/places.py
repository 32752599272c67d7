"""A revision that is looked into: its small files whole, its large ones in parts."""

from __future__ import annotations

from dataclasses import dataclass

from hubkit.core.trees import Tree
from hubkit.hub.client import Hub, RepoType
from hubkit.publishing.revisions.listing import commit_of


@dataclass(frozen=True)
class Place:
    """A revision of a repo: what the person called it, its commit, and its files."""

    hub: Hub
    repo: str
    revision: str
    commit: str
    tree: Tree
    repo_type: RepoType = "model"

    def read(self, path: str) -> bytes:
        """The whole of a small file; empty when the Hub does not have it."""
        return self.hub.read_file(self.repo, path, self.commit, self.repo_type) or b""

    def part(self, path: str, start: int, length: int) -> bytes:
        """``length`` bytes of the file from ``start`` on. RemoteError when the Hub sends anything else."""
        return self.hub.read_range(self.repo, path, self.commit, start, length, self.repo_type)


def place_of(hub: Hub, repo: str, revision: str, repo_type: RepoType = "model") -> Place:
    """The place that ``revision`` names now. UsageError when there is none."""
    commit = commit_of(hub, repo, revision, repo_type)
    return Place(hub, repo, revision, commit, hub.tree(repo, commit, repo_type), repo_type)
