"""A revision that is looked into: its small files whole, its large ones in parts."""

from __future__ import annotations

from dataclasses import dataclass

from hubkit.core.errors import RemoteError
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
        span = start, start + length - 1

        def read() -> bytes:
            with self.hub.opened(self.repo, path, self.commit, self.repo_type, span=span) as answer:
                # Without 206 the whole file is on its way.
                body = answer.read() if answer.status_code == 206 else b""
            if len(body) != length:
                raise RemoteError(f"{self.hub.endpoint} does not send parts of {path}.")
            return bytes(body)

        return self.hub.ask(read, repo=self.repo, revision=self.commit)


def place_of(hub: Hub, repo: str, revision: str, repo_type: RepoType = "model") -> Place:
    """The place that ``revision`` names now. UsageError when there is none."""
    commit = commit_of(hub, repo, revision, repo_type)
    return Place(hub, repo, revision, commit, hub.tree(repo, commit, repo_type), repo_type)
