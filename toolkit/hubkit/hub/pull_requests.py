"""What hubkit asks of a Hub about pull requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hubkit.hub.connection import Connection

PULL_REFS = "refs/pr/"


@dataclass(frozen=True)
class PullRequest:
    """A pull request of a model repo: ``status`` is open, draft, closed or merged; its commits are at ``ref``."""

    number: int
    title: str
    status: str

    @property
    def ref(self) -> str:
        """The revision that names its commits, as loaders take it: 'refs/pr/3'."""
        return f"{PULL_REFS}{self.number}"

    @property
    def waits(self) -> bool:
        """Whether nobody has decided on it yet."""
        return self.status in {"open", "draft"}


class PullCalls(Connection):
    """The questions about pull requests, as methods of a connection."""

    def pull_requests(self, repo: str, author: str) -> list[PullRequest]:
        """The pull requests that ``author`` opened, newest first, decided or not."""
        found = self.ask(
            lambda: list(self.api.get_repo_discussions(repo, author=author, discussion_type="pull_request")), repo=repo
        )
        made = [PullRequest(item.num, item.title, item.status) for item in found if item.author == author]
        return sorted(made, key=lambda item: -item.number)

    def pull_request(self, repo: str, number: int) -> PullRequest:
        """How the pull request stands. UsageError when there is none of that number."""
        found = self.ask(lambda: self.api.get_discussion_details(repo, number), repo=repo)
        return PullRequest(found.num, found.title, found.status)

    def pull_head(self, repo: str, ref: str) -> str | None:
        """The commit at the end of the pull request ``ref`` ('refs/pr/3'); None when there is none."""
        found = self.ask(lambda: self.api.list_repo_refs(repo, include_pull_requests=True), repo=repo)
        return {item.ref: item.target_commit for item in found.pull_requests or ()}.get(ref)

    def open_pull_request(self, repo: str, parent: str, operations: Sequence[Any], title: str, text: str) -> None:
        """Propose one commit on ``parent``, a commit of ``main``: the one branch that the Hub takes proposals for."""
        self.tell(
            lambda: self.api.create_commit(
                repo,
                operations,
                commit_message=title,
                commit_description=text,
                parent_commit=parent,
                create_pr=True,
            ),
            repo=repo,
        )


def pull_url(endpoint: str, repo: str, number: int) -> str:
    """The page on which people decide."""
    return f"{endpoint}/{repo}/discussions/{number}"
