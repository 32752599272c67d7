"""Branches, tags and commits of a repo: what they name, and how they are created and removed."""

from __future__ import annotations

from dataclasses import dataclass

from hubkit.core.errors import ConflictError, RemoteError, UsageError
from hubkit.core.numbers import short_commit
from hubkit.hub.connection import RepoType
from hubkit.hub.pull_requests import PULL_REFS, PullRequestCalls


@dataclass(frozen=True)
class Refs:
    """Branches and tags of a repo with the commit that each names."""

    branches: dict[str, str]
    tags: dict[str, str]


@dataclass(frozen=True)
class Commit:
    """One commit of a branch: id, title and time (ISO 8601, UTC)."""

    id: str
    title: str
    date: str


class RefCalls(PullRequestCalls):
    """The requests about branches, tags and commits, as methods of a connection."""

    def resolve(self, repo: str, revision: str, repo_type: RepoType = "model") -> str:
        """The commit that ``revision`` (branch, tag or commit) names; UsageError when there is none."""
        info = self.query(
            lambda: self.api.repo_info(repo, revision=revision, repo_type=repo_type),
            repo=repo,
            revision=revision,
        )
        if not info.sha:
            raise RemoteError(f"{self.endpoint} did not report the commit of {repo}@{revision}.")
        return str(info.sha)

    def refs(self, repo: str, repo_type: RepoType = "model") -> Refs:
        """The repo's branches and tags. UsageError when there is no such repo."""
        refs = self.query(lambda: self.api.list_repo_refs(repo, repo_type=repo_type), repo=repo)
        return Refs(
            {ref.name: ref.target_commit for ref in refs.branches},
            {ref.name: ref.target_commit for ref in refs.tags},
        )

    def head(self, repo: str, branch: str, repo_type: RepoType = "model") -> str | None:
        """The head of ``branch`` or of a pull request ('refs/pr/3'); None when there is no such branch."""
        if branch.startswith(PULL_REFS) and repo_type == "model":
            return self.pull_request_heads(repo).get(branch)
        return self.refs(repo, repo_type).branches.get(branch)

    def history(self, repo: str, revision: str, repo_type: RepoType = "model") -> list[Commit]:
        """The commits that lead to ``revision``, newest first."""
        commits = self.query(
            lambda: self.api.list_repo_commits(repo, revision=revision, repo_type=repo_type),
            repo=repo,
            revision=revision,
        )
        return [Commit(item.commit_id, item.title, item.created_at.strftime("%Y-%m-%dT%H:%M:%SZ")) for item in commits]

    def create_branch(self, repo: str, branch: str, commit: str, repo_type: RepoType = "model") -> str:
        """Create ``branch`` at ``commit``; returns its head, another commit when somebody else created it first.

        When the response is lost, the branch itself is read.
        """
        lost: RemoteError | None = None
        try:
            self.send(
                lambda: self.api.create_branch(
                    repo, branch=branch, revision=commit, repo_type=repo_type, exist_ok=True
                ),
                repo=repo,
                revision=commit,
            )
        except RemoteError as error:
            lost = error
        head = self.head(repo, branch, repo_type)
        if head is None:
            raise lost or ConflictError(
                f"The branch {branch!r} was created in {repo}, but the Hub does not show it.",
                hint="Run the command again.",
            )
        return head

    def delete_branch(self, repo: str, branch: str, repo_type: RepoType = "model") -> bool:
        """Remove ``branch``; False when there was none."""
        if self.head(repo, branch, repo_type) is None:
            return False
        self.send(lambda: self.api.delete_branch(repo, branch=branch, repo_type=repo_type), repo=repo)
        return True

    def create_tag(
        self, repo: str, tag: str, revision: str, message: str | None = None, repo_type: RepoType = "model"
    ) -> None:
        """Create ``tag`` at ``revision``. UsageError when there is a tag of that name at another commit."""
        commit = self.resolve(repo, revision, repo_type)
        known = self.refs(repo, repo_type).tags.get(tag)
        if known == commit:
            return
        if known is not None:
            raise UsageError(
                f"{repo} already has a tag {tag!r}, at {short_commit(known)}.", hint="Choose another name for the tag."
            )
        self.send(
            lambda: self.api.create_tag(repo, tag=tag, tag_message=message, revision=commit, repo_type=repo_type),
            repo=repo,
            revision=revision,
        )

    def delete_tag(self, repo: str, tag: str, repo_type: RepoType = "model") -> None:
        """Remove ``tag``."""
        self.send(lambda: self.api.delete_tag(repo, tag=tag, repo_type=repo_type), repo=repo, revision=tag)
