"""Who likes which repo."""

from __future__ import annotations

from hubkit.server.accounts.accounts import Account
from hubkit.server.repos.store import Repo
from hubkit.server.storage.database import Database, now


class Likes:
    """The likes of one data folder."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, repo: Repo, account: Account) -> None:
        """Let an account like a repo; a second time changes nothing."""
        self._db.run("INSERT OR IGNORE INTO likes VALUES (?, ?, ?)", repo.uid, account.id, now())

    def remove(self, repo: Repo, account: Account) -> None:
        """Take an account's like away, if there is one."""
        self._db.run("DELETE FROM likes WHERE repo = ? AND account = ?", repo.uid, account.id)

    def count(self, repo: Repo) -> int:
        """How many accounts like a repo."""
        row = self._db.row("SELECT COUNT(*) AS n FROM likes WHERE repo = ?", repo.uid)
        return int(row["n"]) if row else 0

    def counts(self) -> dict[str, int]:
        """How many accounts like each repo (uid) that somebody likes."""
        return {row["repo"]: row["n"] for row in self._db.rows("SELECT repo, COUNT(*) AS n FROM likes GROUP BY repo")}

    def likers(self, repo: Repo) -> list[Account]:
        """The accounts that like a repo, the latest first."""
        rows = self._db.rows(
            "SELECT accounts.* FROM likes JOIN accounts ON accounts.id = likes.account WHERE repo = ? "
            "ORDER BY likes.created DESC, key",
            repo.uid,
        )
        return [Account.of(row) for row in rows]

    def liked(self, account: Account) -> list[tuple[Repo, str]]:
        """The repos that an account likes, the latest first, each with the time of the like."""
        rows = self._db.rows(
            "SELECT repos.*, likes.created AS liked FROM likes JOIN repos ON repos.uid = likes.repo "
            "WHERE account = ? ORDER BY likes.created DESC, key",
            account.id,
        )
        return [(Repo.of(row), row["liked"]) for row in rows]
