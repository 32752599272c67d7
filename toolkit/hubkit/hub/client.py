"""What hubkit asks of a Hub, besides loading models and data: one connection, a method for each question.

    hub = connect(target)
    hub.head("me/model", "main")    # commit, or None when there is no such branch

Every call is bounded in time and says in one sentence what went wrong (:mod:`hubkit.hub.transport`). Reads are made
again when that is safe; nothing that writes is: whoever writes looks at the Hub before trying again
(:mod:`hubkit.publishing.branches`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.errors import ConflictError, RemoteError, UsageError
from hubkit.core.output import hide
from hubkit.core.target import Target
from hubkit.core.trees import Entry
from hubkit.hub.access import Access
from hubkit.hub.connection import RepoType, Visibility
from hubkit.hub.pull_requests import PULL_REFS, PullCalls
from hubkit.hub.spaces import Runtime, SpaceCalls
from hubkit.hub.transport import install, translated
from hubkit.hub.trusted_publishing import renewal

if TYPE_CHECKING:
    import httpx2

__all__ = ["Commit", "Hub", "Refs", "RepoType", "Runtime", "Visibility", "connect"]


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


class Hub(Access, SpaceCalls, PullCalls):
    """A connection to one Hub with the token that was issued for it. Made by :func:`connect`."""

    # --- what is there

    def resolve(self, repo: str, revision: str, repo_type: RepoType = "model") -> str:
        """The commit that ``revision`` (branch, tag or commit) names; UsageError when there is none."""
        info = self.ask(
            lambda: self.api.repo_info(repo, revision=revision, repo_type=repo_type),
            repo=repo,
            revision=revision,
        )
        if not info.sha:
            raise RemoteError(f"{self.endpoint} did not say which commit {revision!r} of {repo} is.")
        return str(info.sha)

    def refs(self, repo: str, repo_type: RepoType = "model") -> Refs:
        """The repo's branches and tags. UsageError when there is no such repo."""
        found = self.ask(lambda: self.api.list_repo_refs(repo, repo_type=repo_type), repo=repo)
        return Refs(
            {ref.name: ref.target_commit for ref in found.branches},
            {ref.name: ref.target_commit for ref in found.tags},
        )

    def head(self, repo: str, branch: str, repo_type: RepoType = "model") -> str | None:
        """The commit at the end of ``branch`` (or of a pull request, 'refs/pr/3'); None when there is no such one."""
        if branch.startswith(PULL_REFS) and repo_type == "model":
            return self.pull_head(repo, branch)
        return self.refs(repo, repo_type).branches.get(branch)

    def history(self, repo: str, revision: str, repo_type: RepoType = "model") -> list[Commit]:
        """The commits that lead to ``revision``, newest first."""
        found = self.ask(
            lambda: self.api.list_repo_commits(repo, revision=revision, repo_type=repo_type),
            repo=repo,
            revision=revision,
        )
        return [Commit(item.commit_id, item.title, item.created_at.strftime("%Y-%m-%dT%H:%M:%SZ")) for item in found]

    def tree(self, repo: str, revision: str, repo_type: RepoType = "model") -> dict[str, Entry]:
        """Every file at ``revision`` with its size and digest: sha256 for LFS, git blob id for the others."""
        from huggingface_hub.hf_api import RepoFile

        def read() -> dict[str, Entry]:
            listed = self.api.list_repo_tree(repo, recursive=True, revision=revision, repo_type=repo_type)
            return {
                item.path: Entry(item.lfs.size, sha256=item.lfs.sha256)
                if item.lfs
                else Entry(item.size, git=item.blob_id)
                for item in listed
                if isinstance(item, RepoFile)
            }

        return self.ask(read, repo=repo, revision=revision)

    def tree_if_there(self, repo: str, revision: str, repo_type: RepoType = "model") -> dict[str, Entry] | None:
        """The tree of :meth:`tree`; None when the repo has no such revision."""
        from huggingface_hub.errors import RevisionNotFoundError

        try:
            return self.tree(repo, revision, repo_type)
        except UsageError as error:
            if isinstance(error.__cause__, RevisionNotFoundError):
                return None
            raise

    @contextmanager
    def opened(
        self, repo: str, path: str, revision: str, repo_type: RepoType = "model", *, span: tuple[int, int] | None = None
    ) -> Iterator[httpx2.Response]:
        """The answer to a request for one file, unpacked by nobody and kept in no cache, to be read in the block.

        ``span`` is the first byte that is asked for and the last; a Hub may send all of them even so, and then does not
        answer 206. Use it in what :meth:`ask` calls: the client's own errors are raised.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]

        url = hf_hub_url(repo, path, repo_type=repo_type, revision=revision, endpoint=self.endpoint)
        headers = {"accept-encoding": "identity"}
        if span:
            headers["range"] = f"bytes={span[0]}-{span[1]}"
        if self.target.token:
            headers["authorization"] = f"Bearer {self.target.token}"
        with get_session().stream("GET", url, headers=headers) as answer:
            hf_raise_for_status(answer)
            yield answer

    def read_file(self, repo: str, path: str, revision: str, repo_type: RepoType = "model") -> bytes | None:
        """The content of one small file at ``revision``, kept in no cache; None when it is not there."""
        from huggingface_hub.errors import EntryNotFoundError

        def read() -> bytes | None:
            try:
                with self.opened(repo, path, revision, repo_type) as answer:
                    return bytes(answer.read())
            except EntryNotFoundError:
                return None

        return self.ask(read, repo=repo, revision=revision)

    def snapshot(self, repo: str, folder: Path, repo_type: RepoType = "model") -> Path:
        """All the files of the repo's main branch, downloaded to ``folder``."""
        fetch = self.api.snapshot_download
        return Path(self.ask(lambda: fetch(repo, repo_type=repo_type, local_dir=folder), repo=repo))

    # --- writes

    def create_branch(self, repo: str, branch: str, commit: str, repo_type: RepoType = "model") -> str:
        """Make ``branch`` at ``commit``; returns its head, another commit when somebody was faster.

        When the answer is lost, the branch itself is looked at.
        """
        lost: RemoteError | None = None
        try:
            self.tell(
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
                f"{repo} has no branch {branch!r} after it was made.", hint="Run the command again."
            )
        return head

    def delete_branch(self, repo: str, branch: str, repo_type: RepoType = "model") -> bool:
        """Remove ``branch``; False when it was not there."""
        if self.head(repo, branch, repo_type) is None:
            return False
        self.tell(lambda: self.api.delete_branch(repo, branch=branch, repo_type=repo_type), repo=repo)
        return True

    def create_tag(
        self, repo: str, tag: str, revision: str, message: str | None = None, repo_type: RepoType = "model"
    ) -> None:
        """Name ``revision`` by ``tag``. UsageError when the tag already names another commit."""
        commit = self.resolve(repo, revision, repo_type)
        known = self.refs(repo, repo_type).tags.get(tag)
        if known == commit:
            return
        if known is not None:
            raise UsageError(
                f"{repo} already has a tag {tag!r}, at {known[:12]}.", hint="Choose another name for the tag."
            )
        self.tell(
            lambda: self.api.create_tag(repo, tag=tag, tag_message=message, revision=commit, repo_type=repo_type),
            repo=repo,
            revision=revision,
        )

    # --- what only the embedded Hub can

    def reading_token(self, label: str) -> str:
        """Have the embedded Hub issue a token that may only read. Only its owner can; no other Hub issues any."""
        made = self._own("POST", "tokens", {"user": self._owner(), "role": "read", "label": label})
        hide(str(made["token"]))
        return str(made["token"])

    def tokens(self, label: str) -> list[str]:
        """The ids of the tokens of that label that the embedded Hub issued to its owner."""
        owner, accounts = self._owner(), self._own("GET", "accounts")
        mine = [token for known in accounts if known["name"] == owner for token in known.get("tokens", ())]
        return [str(token["id"]) for token in mine if token["label"] == label]

    def end_tokens(self, ids: Sequence[str]) -> None:
        """Have the embedded Hub forget these tokens of its owner's."""
        for token in ids:
            self._own("DELETE", f"tokens/{self._owner()}/{token}")

    def _owner(self) -> str:
        account = self.whoami()
        if account is None or not self.target.embedded:
            raise UsageError(f"{self.endpoint} issues no tokens to hubkit.", hint="Make one on its settings page.")
        return account.name

    def page_session(self, path: str) -> str:
        """An address of the embedded Hub that opens ``path`` in a browser as its owner, once and soon."""
        return str(self._own("POST", "session", {"next": path})["url"])

    def _own(self, method: str, path: str, value: Any = None) -> Any:
        """Ask the embedded Hub something that no other Hub knows."""
        from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]

        headers = {"authorization": f"Bearer {self.target.token}"}

        def send() -> Any:
            answer = get_session().request(method, f"{self.endpoint}/api/hubkit/{path}", headers=headers, json=value)
            hf_raise_for_status(answer)
            return answer.json()

        return self.tell(send)


def connect(target: Target) -> Hub:
    """A connection to ``target``'s Hub. Nothing is sent yet.

    The token is bound to the endpoint; without one nothing is sent in its place, whatever the user's own login
    is. On the embedded Hub, which stores files by LFS, uploads by Xet are switched off in this process.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    from hubkit import __version__

    if target.embedded:
        constants.HF_HUB_DISABLE_XET = True
    disable_progress_bars()
    with translated(target.endpoint):
        install(target.endpoint, target.token, renewal(target))
    api = HfApi(
        endpoint=target.endpoint,
        token=target.token or False,
        library_name="hubkit",
        library_version=__version__,
    )
    return Hub(target, api)
