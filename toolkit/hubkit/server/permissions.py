"""Who may do what: every decision about rights. ``http.access`` raises the errors for those who may not.

Two things must agree: the role of the caller's account in the namespace of the repo, and what the caller's token may do
there. ``actor`` None is a caller without a token.

=========  ======================================  =========================================================
may        account                                 token
=========  ======================================  =========================================================
see        anybody; of a private repo the members  anything; of a private repo one that reads or writes it
read       as see; of a gated repo the members     as see; of a gated repo one that reads or writes it
           and whom it was opened to
inspect    members of the namespace                one that reads or writes the repo
write      members who write                       one that writes the repo
manage     members who write                       one that writes the repo, but not a trusted publisher's
discuss    whoever may read                        a write token; a fine-grained one with discussion.write
propose    whoever may read                        one that may discuss or write
create     members who write                       one that writes in the namespace
collect    members who write                       a write token; a fine-grained one with collection.write
=========  ======================================  =========================================================

A read token only reads. A fine-grained token has the rights that it was given. A trusted publisher's token stands for
no account: it sees what everybody sees, and one repo, which it reads, writes and proposes to.
"""

from __future__ import annotations

from hubkit.core.fine_grained import COLLECT, DISCUSS, READ, SEE_COLLECTIONS, WRITE
from hubkit.server.accounts.accounts import Accounts, Actor
from hubkit.server.accounts.gates import Gates
from hubkit.server.repos.collections import Collection
from hubkit.server.repos.store import Repo


class Permissions:
    """The rights of callers on one Hub."""

    def __init__(self, accounts: Accounts, gates: Gates) -> None:
        self._accounts, self._gates = accounts, gates

    def is_owner(self, actor: Actor) -> bool:
        """Whether the actor may administer this Hub: an administrator with a write token without limits."""
        return actor.account.admin and actor.role == "write" and actor.limits is None

    def may_watch(self, actor: Actor) -> bool:
        """Whether the actor may read the metrics: an administrator, with any token without limits."""
        return actor.account.admin and actor.limits is None

    def is_member(self, actor: Actor | None, namespace: str) -> bool:
        """Whether the actor's account belongs to the namespace, in any role. What it may see there is another matter:
        its token may see less.
        """
        return self._accounts.role_in(actor, namespace) is not None

    def may_create(self, actor: Actor | None, namespace: str) -> bool:
        """Whether the actor may create repos in a namespace."""
        if actor is None or not self._writes_in(actor, namespace) or actor.role != "write":
            return False
        return actor.fine_grained is None or WRITE in actor.fine_grained.in_namespace(namespace)

    def may_collect(self, actor: Actor | None, namespace: str) -> bool:
        """Whether the actor may create and change collections in a namespace."""
        if actor is None or actor.publisher or not self._writes_in(actor, namespace) or actor.role != "write":
            return False
        return actor.fine_grained is None or COLLECT in actor.fine_grained.in_namespace(namespace)

    def may_see_collection(self, actor: Actor | None, collection: Collection) -> bool:
        """Whether the actor may know of a collection: of a private one the members, with a token that may read it."""
        if not collection.private:
            return True
        if actor is None or actor.publisher or not self.is_member(actor, collection.namespace):
            return False
        rights = actor.fine_grained.in_namespace(collection.namespace) if actor.fine_grained else {SEE_COLLECTIONS}
        return not {SEE_COLLECTIONS, COLLECT}.isdisjoint(rights)

    def may_see(self, actor: Actor | None, repo: Repo) -> bool:
        """Whether the actor may know that a repo exists, and read its card and the names of its files."""
        return not repo.private or self.may_inspect(actor, repo)

    def may_read(self, actor: Actor | None, repo: Repo) -> bool:
        """Whether the actor may read a repo's files, history and discussions."""
        if not (repo.private or repo.gated) or self.may_inspect(actor, repo):
            return True
        if repo.private or actor is None or actor.publisher or {READ, WRITE}.isdisjoint(_rights(actor, repo)):
            return False
        return self._gates.open_to(repo.uid, actor.account)

    def may_inspect(self, actor: Actor | None, repo: Repo) -> bool:
        """Whether the actor may read what even a public repo shows to its members only: a Space's logs, the names of
        its secrets.
        """
        if actor is not None and actor.publisher:
            return actor.publisher.repo == repo.uid
        return self.is_member(actor, repo.namespace) and not {READ, WRITE}.isdisjoint(_rights(actor, repo))

    def may_write(self, actor: Actor | None, repo: Repo) -> bool:
        """Whether the actor may change a repo's files, branches and tags, and the settings of a Space."""
        if actor is not None and actor.publisher:
            return actor.publisher.repo == repo.uid
        return self._writes_in(actor, repo.namespace) and WRITE in _rights(actor, repo)

    def may_manage(self, actor: Actor | None, repo: Repo) -> bool:
        """Whether the actor may delete or move a repo, or change who can see it."""
        return self.may_write(actor, repo) and (actor is None or actor.publisher is None)

    def may_discuss(self, actor: Actor | None, repo: Repo) -> bool:
        """Whether the actor may write discussions of a repo."""
        return self.may_read(actor, repo) and DISCUSS in _rights(actor, repo)

    def may_propose(self, actor: Actor | None, repo: Repo) -> bool:
        """Whether the actor may open pull requests in a repo."""
        if not self.may_read(actor, repo):
            return False
        return not {DISCUSS, WRITE}.isdisjoint(_rights(actor, repo)) or self.may_write(actor, repo)

    def _writes_in(self, actor: Actor | None, namespace: str) -> bool:
        return self._accounts.role_in(actor, namespace) in {"admin", "write"}


def _rights(actor: Actor | None, repo: Repo) -> frozenset[str]:
    """What the actor's token may do with a repo, whatever its account may do. A trusted publisher's has no such
    rights: what it may do is decided by the repo's internal id, which outlives names.
    """
    if actor is None or actor.publisher:
        return frozenset()
    rights = frozenset({READ, WRITE, DISCUSS})
    if actor.fine_grained:
        rights &= actor.fine_grained.on(repo.type, repo.id, repo.uid)
    if actor.role == "read":
        rights = rights & {READ} if WRITE not in rights else frozenset({READ})
    return rights
