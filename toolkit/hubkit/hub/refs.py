"""Branches, tags and commits of a repo: what they name, and how they are created and removed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubkit.core.errors import RemoteError, UsageError
from hubkit.core.numbers import short_commit
from hubkit.hub.connection import RepoType
from hubkit.hub.errors import MissingRevisionError, contradiction, malformed
from hubkit.hub.files import FULL_ID, FileCalls
from hubkit.hub.pull_requests import PULL_REFS, PullRequestCalls
from hubkit.hub.retry import agreed

if TYPE_CHECKING:
    from huggingface_hub.hf_api import GitCommitInfo


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


class RefCalls(PullRequestCalls, FileCalls):
    """The requests about branches, tags and commits, as methods of a connection."""

    def resolve(self, repo: str, revision: str, repo_type: RepoType = "model") -> str:
        """The commit that ``revision`` (branch, tag or commit) names; UsageError when there is none.

        What a branch or tag names is compared with the list of branches and tags.
        """

        def read() -> str:
            commit, files = self._described(repo, revision, repo_type)
            if FULL_ID.fullmatch(revision):
                named = {revision}
            elif revision.startswith(PULL_REFS):
                named = set()
            else:
                refs = self._refs(repo, repo_type)
                named = {names[revision] for names in (refs.branches, refs.tags) if revision in names}
            if named and commit not in named:
                raise contradiction(
                    self.endpoint, f"{repo}@{revision} is the commit {commit}, and {' or '.join(sorted(named))}"
                )
            self._infos[repo_type, repo, commit] = files
            return commit

        return agreed(read)

    def refs(self, repo: str, repo_type: RepoType = "model") -> Refs:
        """The repo's branches and tags. UsageError when there is no such repo."""
        return self.twice(lambda: self._refs(repo, repo_type), f"the branches of {repo}")

    def _refs(self, repo: str, repo_type: RepoType) -> Refs:
        """The branches and tags, from one answer: for callers who compare it with another."""
        refs = self.query(lambda: self.api.list_repo_refs(repo, repo_type=repo_type), repo=repo)
        return Refs(
            {ref.name: ref.target_commit for ref in refs.branches},
            {ref.name: ref.target_commit for ref in refs.tags},
        )

    def head(self, repo: str, branch: str, repo_type: RepoType = "model") -> str | None:
        """The head of ``branch`` or of a pull request ('refs/pr/3'); None when there is no such branch.

        Two routes of the Hub tell it, and must agree: a stale answer looks like an answer.
        """

        def read() -> str | None:
            listed, also = self._head_listed(repo, branch, repo_type)
            try:
                commit, files = self._described(repo, branch, repo_type)
            except MissingRevisionError:
                if listed is None:
                    return None
                raise contradiction(
                    self.endpoint, f"it lists the branch {branch!r} of {repo}, and has no such revision"
                ) from None
            if listed is None and also == commit:
                return None  # a tag of that name
            if listed is None or commit not in {listed, also}:
                raise contradiction(
                    self.endpoint, f"the branch {branch!r} of {repo} is at {listed or 'no commit'}, and at {commit}"
                )
            self._infos[repo_type, repo, commit] = files
            return listed

        return agreed(read)

    def _head_listed(self, repo: str, branch: str, repo_type: RepoType) -> tuple[str | None, str | None]:
        """What the list of refs has by the name of ``branch``: the branch, and the tag."""
        if branch.startswith(PULL_REFS) and repo_type == "model":
            return self.pull_request_heads(repo).get(branch), None
        refs = self._refs(repo, repo_type)
        return refs.branches.get(branch), refs.tags.get(branch)

    def history(self, repo: str, revision: str, repo_type: RepoType = "model") -> list[Commit]:
        """The commits that lead to ``revision``, newest first."""

        def read() -> list[GitCommitInfo]:
            listed = self.api.list_repo_commits(repo, revision=revision, repo_type=repo_type)
            if not listed or (FULL_ID.fullmatch(revision) and listed[0].commit_id != revision):
                raise malformed(self.endpoint, f"its list of commits does not begin with {revision}")
            return listed

        def commits() -> list[Commit]:
            found = self.query(read, repo=repo, revision=revision)
            return [
                Commit(item.commit_id, item.title, item.created_at.strftime("%Y-%m-%dT%H:%M:%SZ")) for item in found
            ]

        return self.twice(commits, f"the commits of {repo}")

    def create_branch(self, repo: str, branch: str, commit: str, repo_type: RepoType = "model") -> str:
        """Create ``branch`` at ``commit``; returns its head, another commit when somebody else created it first.

        When the response is lost, the branch itself is read. UsageError when another branch is in its way.
        """
        refuse_if_in_the_way(repo, branch, self._refs(repo, repo_type).branches)
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
            raise lost or contradiction(
                self.endpoint, f"it accepted the new branch {branch!r} of {repo}, and there is none"
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


def in_the_way(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` beside which git cannot hold the branch or tag ``name``: 'b' beside 'b/c'."""
    others = (other for other in sorted(names) if other != name)
    return next((other for other in others if f"{other}/".startswith(f"{name}/") or name.startswith(f"{other}/")), None)


def refuse_if_in_the_way(repo: str, name: str, names: Iterable[str], kind: str = "branch") -> None:
    """UsageError when git cannot hold the branch (or tag) ``name`` beside one of ``names``."""
    if other := in_the_way(name, names):
        raise UsageError(
            f"Git cannot hold a {kind} {name!r} beside the {kind} {other!r}, which {repo} has.",
            hint=f"Choose another name, or remove {other!r} first: hubkit revisions delete {repo} {other}",
        )
