"""Who may do what: every decision about rights. ``http.access`` raises the errors for those who may not.

Two things must agree: the role of the caller's account in the namespace, and what the caller's token may do
(:meth:`Actor.holds`). ``actor`` None is a caller without a token.
"""

from __future__ import annotations

from hubkit.server.accounts.accounts import Accounts, Actor
from hubkit.server.accounts.grants import DISCUSS, READ, WRITE
from hubkit.server.repos.store import Repo


class Permissions:
    """The rights of callers on one Hub."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def is_owner(self, actor: Actor) -> bool:
        """Whether the actor may administer this Hub: an administrator with a write token without limits."""
        return actor.account.admin and actor.role == "write" and actor.grants is None

    def is_member(self, actor: Actor | None, namespace: str) -> bool:
        """Whether the actor's account belongs to the namespace, in any role."""
        return self._accounts.role_in(actor, namespace) is not None

    def may_create(self, actor: Actor | None, namespace: str) -> bool:
        """Whether the actor may create repos in a namespace."""
        return self._writes_in(actor, namespace) and actor is not None and actor.holds(WRITE, namespace)

    def may_write(self, actor: Actor | None, repo: Repo) -> bool:
        """Whether the actor may change a repo. A read token never may, a fine-grained one where it has the right."""
        return self._writes_in(actor, repo.namespace) and _holds(actor, WRITE, repo)

    def may_see(self, actor: Actor | None, repo: Repo) -> bool:
        """Whether the actor may know that a repo exists."""
        return not repo.private or self._reads_closed(actor, repo)

    def may_read(self, actor: Actor | None, repo: Repo) -> bool:
        """Whether the actor may read a repo's files: of a gated repo, the members of its namespace."""
        return not (repo.private or repo.gated) or self._reads_closed(actor, repo)

    def may_discuss(self, actor: Actor | None, repo: Repo) -> bool:
        """Whether the actor's token may write discussions of a repo that the actor may read."""
        return _holds(actor, DISCUSS, repo)

    def may_propose(self, actor: Actor | None, repo: Repo) -> bool:
        """Whether the actor may open pull requests in a repo it may read: with a token that may discuss or write."""
        return _holds(actor, DISCUSS, repo) or _holds(actor, WRITE, repo)

    def _writes_in(self, actor: Actor | None, namespace: str) -> bool:
        return self._accounts.role_in(actor, namespace) in {"admin", "write"}

    def _reads_closed(self, actor: Actor | None, repo: Repo) -> bool:
        """Whether the actor may read a repo although it is private or gated."""
        return self.is_member(actor, repo.namespace) and (_holds(actor, READ, repo) or _holds(actor, WRITE, repo))


def _holds(actor: Actor | None, right: str, repo: Repo) -> bool:
    return actor is not None and actor.holds(right, repo.namespace, (repo.type, repo.id))
