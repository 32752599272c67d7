"""Pull requests of a repo: those of an author, their state and their heads."""

from __future__ import annotations

from dataclasses import dataclass

from hubkit.hub.connection import Connection, RepoType
from hubkit.hub.errors import contradiction

PULL_REFS = "refs/pr/"


@dataclass(frozen=True)
class PullRequest:
    """A pull request of a model repo: ``status`` is open, draft, closed or merged; its commits are at ``ref``."""

    number: int
    title: str
    status: str
    author: str = ""

    @property
    def ref(self) -> str:
        """The revision that names its commits, as loaders take it: 'refs/pr/3'."""
        return f"{PULL_REFS}{self.number}"

    @property
    def is_open(self) -> bool:
        """Whether it is neither merged nor closed."""
        return self.status in {"open", "draft"}


class PullRequestCalls(Connection):
    """The requests about pull requests, as methods of a connection."""

    def pull_requests(self, repo: str, author: str) -> list[PullRequest]:
        """The pull requests that ``author`` opened, newest first, decided or not."""
        discussions = self.query(
            lambda: list(self.api.get_repo_discussions(repo, author=author, discussion_type="pull_request")), repo=repo
        )
        mine = [item for item in discussions if item.author == author]
        opened = [PullRequest(item.num, item.title, item.status, author) for item in mine]
        return sorted(opened, key=lambda item: -item.number)

    def pull_request(self, repo: str, number: int) -> PullRequest:
        """The pull request ``number``. UsageError when there is none of that number."""

        def read() -> PullRequest:
            details = self.api.get_discussion_details(repo, number)
            if details.num != number or not details.is_pull_request:
                raise contradiction(self.endpoint, f"asked for pull request {number}, it describes {details.num}")
            return PullRequest(details.num, details.title, details.status, details.author)

        return self.query(read, repo=repo)

    def pull_request_heads(self, repo: str, repo_type: RepoType = "model") -> dict[str, str]:
        """The head of every pull request, by its ref ('refs/pr/3')."""
        refs = self.query(
            lambda: self.api.list_repo_refs(repo, repo_type=repo_type, include_pull_requests=True), repo=repo
        )
        return {item.ref: item.target_commit for item in refs.pull_requests or ()}


def pull_url(endpoint: str, repo: str, number: int) -> str:
    """The page of a pull request."""
    return f"{endpoint}/{repo}/discussions/{number}"
