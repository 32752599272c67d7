"""Who asked for access to which gated repo, and what became of it."""

from __future__ import annotations

import json
import sqlite3
import uuid
from dataclasses import dataclass
from typing import Any, Literal

from hubkit.server.accounts.accounts import Account
from hubkit.server.storage.database import Database, now

Status = Literal["pending", "accepted", "rejected"]
STATUSES: tuple[Status, ...] = ("pending", "accepted", "rejected")


@dataclass(frozen=True)
class AccessRequest:
    """What an account asked for. ``fields``: what it filled in; None when access was granted without a request."""

    id: str
    account: Account
    status: Status
    created: str
    fields: dict[str, Any] | None
    reason: str | None

    @classmethod
    def of(cls, row: sqlite3.Row, account: Account) -> AccessRequest:
        """A request from its row."""
        fields = None if row["fields"] is None else json.loads(row["fields"])
        return cls(row["request"], account, row["status"], row["asked"], fields, row["reason"])


class Gates:
    """The requests of one data folder, by the internal id of the repo. At most one of each account for each repo."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def ask(self, uid: str, account: Account, status: Status, fields: dict[str, Any] | None) -> AccessRequest:
        """A new request, or the one that this account made before, as it stands."""
        self._db.run(
            "INSERT OR IGNORE INTO access_requests VALUES (?, ?, ?, ?, ?, ?, NULL)",
            uuid.uuid4().hex[:24], uid, account.id, status, now(), None if fields is None else json.dumps(fields),
        )  # fmt: skip
        (request,) = self._requests("AND account = ?", uid, account.id)
        return request

    def set(self, uid: str, request: AccessRequest, status: Status, reason: str | None = None) -> None:
        """Accept or reject a request, or make it pending again."""
        self._db.run(
            "UPDATE access_requests SET status = ?, reason = ? WHERE repo = ? AND id = ?",
            status, reason, uid, request.id,
        )  # fmt: skip

    def listed(self, uid: str, status: Status | None = None) -> list[AccessRequest]:
        """The requests for a repo, the latest first."""
        return self._requests("AND status = ?", uid, status) if status else self._requests("", uid)

    def open_to(self, uid: str, account: Account) -> bool:
        """Whether the account was given access to the repo."""
        return bool(
            self._db.row(
                "SELECT 1 FROM access_requests WHERE repo = ? AND account = ? AND status = 'accepted'", uid, account.id
            )
        )

    def _requests(self, where: str, *values: str) -> list[AccessRequest]:
        rows = self._db.rows(
            "SELECT accounts.*, access_requests.id AS request, status, access_requests.created AS asked, fields, "
            "reason "
            "FROM access_requests JOIN accounts ON accounts.id = access_requests.account WHERE repo = ? "
            f"{where} ORDER BY asked DESC, key",
            *values,
        )
        return [AccessRequest.of(row, Account.of(row)) for row in rows]
