"""What webhooks are told: the payloads of huggingface_hub's ``WebhookPayload``, version 3.

A webhook is told only of what its account may see at that time.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from typing import Any

from hubkit.server.accounts.accounts import Account, Accounts, Actor
from hubkit.server.hooks.webhooks import Webhook, Webhooks
from hubkit.server.permissions import Permissions
from hubkit.server.repos.discussions import Discussions
from hubkit.server.repos.store import Repo

log = logging.getLogger("hubkit.server")
_VERSION = 3


class Events:
    """Tells webhooks of what happens. ``wake`` is called when there is something to deliver.

    It never fails a request: what happened has happened, and an error here is logged.
    """

    def __init__(
        self, webhooks: Webhooks, accounts: Accounts, permissions: Permissions, discussions: Discussions
    ) -> None:
        self._webhooks, self._accounts, self._permissions = webhooks, accounts, permissions
        self._discussions = discussions
        self.wake: Callable[[], None] = lambda: None

    def repo(self, repo: Repo, action: str, origin: str, *, scope: str = "repo", old: Repo | None = None) -> None:
        """A repo was created, deleted, moved (``old``: as it was) or its settings changed (``scope`` repo.config)."""

        def event() -> dict[str, Any]:
            moved = {} if old is None else {"movedTo": {"name": repo.id, "owner": {"id": self._owner(repo)}}}
            return {"event": {"action": action, "scope": scope}, "repo": self._repo(old or repo, origin), **moved}

        self._tell(repo, "repo", event, *([old] if old else []))

    def content(
        self, repo: Repo, ref: str, old: str | None, new: str | None, origin: str, *, head: str | None = None
    ) -> None:
        """A branch, tag or pull request of a repo has moved, is new (``old`` None) or gone (``new`` None)."""

        def event() -> dict[str, Any]:
            about = self._repo(repo, origin)
            if sha := head or (new if ref == "refs/heads/main" else None):
                about["headSha"] = sha
            refs = [{"ref": ref, "oldSha": old, "newSha": new}]
            return {"event": {"action": "update", "scope": "repo.content"}, "repo": about, "updatedRefs": refs}

        self._tell(repo, "repo", event, needs_read=True)

    def discussion(
        self, repo: Repo, number: int, action: str, origin: str, *, comment: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """A discussion was opened or changed, or has a new or changed ``comment``."""
        self._tell(repo, "discussion", lambda: self._discussed(repo, number, action, origin, comment), needs_read=True)

    def _discussed(
        self, repo: Repo, number: int, action: str, origin: str, comment: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        row = self._discussions.row(repo, number)
        if row is None:
            return None
        web = f"{origin}/{repo.web}/discussions/{number}"
        about: dict[str, Any] = {
            "id": f"{repo.uid[:16]}{number:08x}", "num": number, "title": row["title"], "status": row["status"],
            "isPullRequest": bool(row["pull"]), "author": {"id": self._id_of(row["author"])}, "pinned": False,
            "url": {"web": web, "api": f"{origin}/api/{repo.type}s/{repo.id}/discussions/{number}"},
        }  # fmt: skip
        if row["pull"]:
            about["changes"] = {"base": row["base"], "mergeCommitId": row["merged"]}
        scope = "discussion" if comment is None else "discussion.comment"
        event = {"event": {"action": action, "scope": scope}, "repo": self._repo(repo, origin), "discussion": about}
        if comment is not None:
            data = comment["data"]
            event["comment"] = {
                "id": comment["id"], "author": {"id": self._id_of(comment["author"]["name"])},
                "hidden": bool(data["hidden"]), "content": None if data["hidden"] else data["latest"]["raw"],
                "url": {"web": f"{web}#{comment['id']}"},
            }  # fmt: skip
        return event

    def _tell(
        self,
        repo: Repo,
        domain: str,
        event: Callable[[], dict[str, Any] | None],
        *others: Repo,
        needs_read: bool = False,
    ) -> None:
        try:
            queued, about = False, None
            for webhook, account in self._webhooks.enabled():
                if not webhook.watches(repo, domain, *(other.id for other in others)) and not any(
                    webhook.watches(other, domain) for other in others
                ):
                    continue
                if self._may_know(account, repo, needs_read) and (about := about or event()):
                    queued |= self._queue(webhook, about)
            if queued:
                self.wake()
        except sqlite3.Error as error:
            log.warning("webhooks are not told of %s: %s", repo.web, error)

    def _queue(self, webhook: Webhook, event: dict[str, Any]) -> bool:
        queued = self._webhooks.queue(webhook, event | {"webhook": {"id": webhook.id, "version": _VERSION}})
        if not queued:
            log.warning("too much waits for the webhook %s; an event is dropped", webhook.id)
        return queued

    def _may_know(self, account: Account, repo: Repo, needs_read: bool) -> bool:
        actor = Actor(account, "read", "webhook", "")
        may = self._permissions.may_read if needs_read else self._permissions.may_see
        return may(actor, repo)

    def _repo(self, repo: Repo, origin: str) -> dict[str, Any]:
        return {
            "id": repo.uid[:24], "type": repo.type, "name": repo.id, "private": repo.private,
            "owner": {"id": self._owner(repo)},
            "url": {"web": f"{origin}/{repo.web}", "api": f"{origin}/api/{repo.type}s/{repo.id}"},
        }  # fmt: skip

    def _owner(self, repo: Repo) -> str:
        return self._id_of(repo.namespace)

    def _id_of(self, name: str) -> str:
        account = self._accounts.find(name)
        return account.id if account else ""
