"""The Hub: all parts of one data folder."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from hubkit.server.accounts.accounts import Accounts, Actor
from hubkit.server.accounts.gates import Gates
from hubkit.server.accounts.sessions import Sessions
from hubkit.server.faults import FaultScript
from hubkit.server.hooks.delivery import Delivering
from hubkit.server.hooks.events import Events
from hubkit.server.hooks.webhooks import Webhooks
from hubkit.server.metrics import Metrics
from hubkit.server.permissions import Permissions
from hubkit.server.repos.collections import Collections
from hubkit.server.repos.discussions import Discussions
from hubkit.server.repos.facts import Facts, FactStore
from hubkit.server.repos.git import Change, Git
from hubkit.server.repos.lfs import LfsStore
from hubkit.server.repos.likes import Likes
from hubkit.server.repos.locks import Locks
from hubkit.server.repos.objects import DamagedError
from hubkit.server.repos.pulls import PullRequests
from hubkit.server.repos.pushes import Pushes
from hubkit.server.repos.store import Repo, Store
from hubkit.server.repos.transfers import Transfers
from hubkit.server.spaces.data import SpaceData
from hubkit.server.spaces.spaces import Spaces
from hubkit.server.storage.database import Database
from hubkit.server.storage.folder import Folder
from hubkit.server.xet.store import XetStore

_FACTS_AT_ONCE = 1000
log = logging.getLogger("hubkit.server")


class Hub:
    """The parts of one Hub. ``faults`` is None unless the server was started with ``--faults``."""

    def __init__(self, data: Path) -> None:
        self.folder = Folder(data)
        self.folder.create()
        self.database = Database(self.folder.database)
        self.accounts = Accounts(self.database)
        self.gates = Gates(self.database)
        self.permissions = Permissions(self.accounts, self.gates)
        self.lfs = LfsStore(self.folder, self.database)
        self.xet = XetStore(self.folder, self.database, self.lfs)
        self.lfs.collected = self.xet.forget
        self.store = Store(self.folder, self.database, self.accounts, self.lfs)
        self.facts = FactStore(self.database, self.store)
        self.likes = Likes(self.database)
        self.collections = Collections(self.database, self.store)
        self.locks = Locks(self.database)
        self.discussions = Discussions(self.database)
        self.pulls = PullRequests(self.database, self.discussions, self.store)
        self.pushes = Pushes(self.database, self.discussions, self.store)
        self.spaces = Spaces(self.folder, SpaceData(self.database), self.store, self.lfs)
        self.webhooks = Webhooks(self.database)
        self.delivering = Delivering(self.webhooks)
        self.events = Events(self.webhooks, self.accounts, self.permissions, self.discussions)
        self.events.wake = self.delivering.wake
        self.sessions = Sessions(self.accounts)
        self.transfers = Transfers(bytes.fromhex(self.database.meta("secret")))
        self.metrics = Metrics()
        self.upkeep = threading.Lock()
        """Held while packs are replaced, and while second names are made of all files."""
        self.faults: FaultScript | None = None
        self._damage: dict[str, str] = {}
        self.accounts.ensure_owner(self.folder)

    def close(self) -> None:
        """Stop the Spaces and close the database."""
        self.spaces.close()
        self.delivering.close()
        self.database.close()

    def head_facts(self, repo: Repo) -> Facts | None:
        """What lists show of a repo at the head of ``main``; None when the repo is damaged."""
        try:
            return self.facts.at_head(repo)
        except DamagedError as error:
            if self._damage.get(repo.uid) != str(error):  # lists are asked for often
                log.error("%s is damaged: %s", repo.web, error)
                self._damage[repo.uid] = str(error)
            return None

    def facts_of(self, repos: Sequence[Repo]) -> Iterator[tuple[Repo, Facts | None]]:
        """Each repo with what lists show of it, as :meth:`head_facts` returns it."""
        for start in range(0, len(repos), _FACTS_AT_ONCE):
            some = repos[start : start + _FACTS_AT_ONCE]
            known = self.facts.known_at_heads(some)
            yield from ((repo, known.get(repo.uid) or self.head_facts(repo)) for repo in some)

    def claim_object(self, repo: Repo, oid: str, actor: Actor | None) -> int | None:
        """The size of an LFS object that ``repo`` has, or gets now because the actor can read it elsewhere; or None."""
        if self.lfs.has(repo.uid, oid):
            return self.lfs.size(oid)
        for uid in self.lfs.holders(oid):
            other = self.store.by_uid(uid)
            if other and self.permissions.may_read(actor, other):
                return self.lfs.give(repo.uid, oid)
        return None

    def copy_files(self, source: Repo, git: Git, head: str, author: str) -> list[str]:
        """One commit after ``head`` on ``main`` of a repo that makes its files those of the source's ``main``.

        Returns the LFS objects of the source that they point to.
        """
        source_git, objects, changes = self.store.git(source), [], []
        source_head = source_git.target("refs/heads/main")
        if source_head is None:
            return []
        for entry in source_git.walk(source_head) or ():
            if entry.folder:
                continue
            if entry.pointer and self.lfs.has(source.uid, entry.pointer.oid):
                objects.append(entry.pointer.oid)
            changes.append(Change(entry.path, git.write_blob(source_git.blob(entry.oid))))
        tree = git.write_tree(None, changes)
        git.move("refs/heads/main", git.write_commit(tree, [head], f"Duplicate from {source.id}", author), head)
        return objects
