"""Whose token this is, what it may do, and who can see a repo: checked before anything is uploaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.fine_grained import READ, WRITE, FineGrained
from hubkit.hub.connection import Connection, Gated, RepoType, Visibility
from hubkit.hub.errors import contradiction, token_refused


@dataclass(frozen=True)
class Account:
    """The account of a token.

    ``role`` is the token's: read, write or fineGrained; None when the Hub does not report it. Only fine-grained tokens
    have ``rights``.
    """

    name: str
    organizations: tuple[str, ...] = ()
    role: str | None = None
    rights: FineGrained = field(default_factory=FineGrained)

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Account:
        """The account in a Hub's response to ``whoami``. ValueError when it names none: it is another response."""
        token = (answer.get("auth") or {}).get("accessToken") or {}
        name = answer.get("name")
        if not isinstance(name, str) or not name:
            raise ValueError("it names no account")
        return cls(
            name,
            tuple(str(item["name"]) for item in answer.get("orgs") or ()),
            token.get("role"),
            FineGrained.of(token.get("fineGrained")),
        )

    def rights_on(self, repo: str, repo_type: RepoType, *, new: bool = False) -> frozenset[str]:
        """What a fine-grained token may do with ``repo``; a ``new`` one is covered by its namespace's rights alone."""
        return self.rights.in_namespace(repo.partition("/")[0]) if new else self.rights.on(repo_type, repo)

    def lacks(self, right: str, repo: str, repo_type: RepoType, *, new: bool = False) -> str | None:
        """A sentence, without its full stop, when the token lacks ``right`` for ``repo``; else None."""
        if self.role == "read" and right != READ:
            return f"the token of {self.name} is read-only; it needs {right}"
        if self.role != "fineGrained" or right in self.rights_on(repo, repo_type, new=new):
            return None
        place = f"new repos of {repo.partition('/')[0]}" if new else repo
        elsewhere = sorted(scope.name for scope in self.rights.scopes if right in scope.rights)
        has = f"; it has it for {', '.join(elsewhere)}" if elsewhere else ""
        return f"the fine-grained token of {self.name} lacks the right {right} for {place}{has}"


class AuthCalls(Connection):
    """The requests about accounts, rights and visibility, as methods of a connection."""

    def whoami(self) -> Account | None:
        """Whose token this is; None without a token. RefusedError when the Hub does not accept it."""
        if not self.target.token:
            return None
        return self.query(lambda: Account.of(self.api.whoami()))

    def repo_exists(self, repo: str, repo_type: RepoType = "model") -> bool:
        """Whether there is such a repo that this token can see."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        def exists() -> bool:
            try:
                self.api.repo_info(repo, repo_type=repo_type)
            except GatedRepoError:
                return True
            except RepositoryNotFoundError as error:
                if token_refused(error):
                    raise
                return False
            return True

        return self.query(exists, repo=repo)

    def current_id(self, repo: str) -> str:
        """The id that the Hub gives for the model ``repo``: another one where it was renamed."""
        return str(self.query(lambda: self.api.model_info(repo), repo=repo).id)

    def visibility(self, repo: str, repo_type: RepoType = "model") -> Visibility:
        """Who can see the repo."""
        info = self.query(lambda: self.api.repo_info(repo, repo_type=repo_type), repo=repo)
        return "private" if info.private else "public"

    def gated(self, repo: str) -> Gated:
        """Who may read the files of the model ``repo``; asked twice, since what is uploaded then may be open to all."""

        def read() -> Gated:
            found = self.query(lambda: self.api.model_info(repo), repo=repo).gated
            return found if found in ("auto", "manual") else False

        return self.twice(read, f"who may read {repo}")

    def set_gated(self, repo: str, gated: Gated) -> bool:
        """Change who may read the files of the model ``repo``, and read it back; False when it was so already."""
        if self.gated(repo) == gated:
            return False
        self.send(lambda: self.api.update_repo_settings(repo, gated=gated), repo=repo)
        if (now := self.gated(repo)) != gated:
            raise contradiction(self.endpoint, f"it accepted gated: {gated} for {repo}, and shows gated: {now}")
        return True

    def is_closed(self, repo: str) -> bool:
        """Whether the model ``repo`` is there and cannot be read without a token: it is private or gated."""
        if not self.target.token:
            return False
        try:
            info = self.query(lambda: self.api.model_info(repo), repo=repo)
        except (UsageError, RefusedError):
            return False
        return bool(info.private or info.gated)

    def check_answers(self) -> None:
        """RemoteError, RefusedError or UsageError unless a Hub answers at this address."""
        # Not by list_models, which asks a Hub that answers nonsense six times, half a minute in all.
        self.query(lambda: [item["id"] for item in self.requested("GET", "api/models", params={"limit": 1})])

    def writing_problem(self, repo: str, repo_type: RepoType = "model") -> str | None:
        """Why this token cannot write to ``repo`` or create it, without a full stop; None when it can."""
        if self.target.trusted:  # its token speaks for one repo and for nobody, so only that repo is asked about
            if not self.repo_exists(repo, repo_type):
                return f"{repo} does not exist, and trusted publishing cannot create a repo"
            return self._not_allowed(repo, repo_type, f"this job's identity has no right to write to {repo}")
        account = self.whoami()
        if account is None:
            return f"there is no token for {self.endpoint}"
        there = account.role != "read" and self.repo_exists(repo, repo_type)
        if missing := account.lacks(WRITE, repo, repo_type, new=not there):
            return missing
        if there:
            return self._not_allowed(repo, repo_type, f"the token of {account.name} has no right to write to {repo}")
        namespace = repo.partition("/")[0]
        if not self.target.embedded and namespace not in {account.name, *account.organizations}:
            return f"{account.name} is not a member of {namespace}"
        return None  # the embedded Hub's owner may write in any namespace

    def _not_allowed(self, repo: str, repo_type: RepoType, problem: str) -> str | None:
        """``problem`` when the Hub itself reports that this token may not write to this repo."""
        from huggingface_hub.errors import HfHubHTTPError

        def check() -> str | None:
            try:
                self.api.auth_check(repo, repo_type=repo_type, write=True)
            except HfHubHTTPError as error:
                if error.response.status_code in {401, 403}:
                    return problem
                if error.response.status_code != 404:  # a Hub without this route
                    raise
            return None

        return self.query(check, repo=repo)

    def ensure_repo(
        self, repo: str, visibility: Visibility, repo_type: RepoType = "model", *, hardware: str | None = None
    ) -> bool:
        """Create the repo when there is none, then read back who can see it; True when it was created.

        ``hardware`` is for a new Space (always one of Gradio): the flavor to run it on. RefusedError when its
        visibility is not ``visibility``: nothing has been uploaded by then.
        """
        created = not self.repo_exists(repo, repo_type)
        if created:
            space: dict[str, Any] = {"space_sdk": "gradio"} if repo_type == "space" else {}
            if space and hardware:
                space["space_hardware"] = hardware
            self.send(
                lambda: self.api.create_repo(
                    repo, private=visibility == "private", repo_type=repo_type, exist_ok=True, **space
                ),
                repo=repo,
            )
        actual = self.visibility(repo, repo_type)
        if actual != visibility:
            raise RefusedError(
                f"{repo} is {actual} on {self.endpoint}, but the recipe says {visibility}.",
                hint=f"Change the repo's visibility there, or set `visibility: {actual}` in the recipe.",
            )
        return created
