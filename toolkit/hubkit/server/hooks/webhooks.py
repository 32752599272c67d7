"""The webhooks of one data folder, and what waits to be delivered."""

from __future__ import annotations

import ipaddress
import json
import sqlite3
import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from hubkit.core.errors import UsageError
from hubkit.server.accounts.accounts import Account
from hubkit.server.repos.store import Repo
from hubkit.server.storage.database import Database, now

WATCHED_TYPES = ("user", "org", "model", "dataset", "space")
DOMAINS = ("repo", "discussion")
MOST_PER_ACCOUNT, MOST_WAITING, _MOST_WATCHED = 50, 1000, 100
WAITS = (1.0, 5.0, 30.0, 300.0)
"""Seconds before a delivery that failed is tried again; after the last it is dropped."""


@dataclass(frozen=True)
class Webhook:
    """One webhook. ``watched``: the accounts and repos to tell of, as (type, name)."""

    id: str
    account: str
    url: str
    watched: tuple[tuple[str, str], ...]
    domains: tuple[str, ...]
    disabled: bool
    created: str
    secret: str | None = field(repr=False, default=None)

    @classmethod
    def of(cls, row: sqlite3.Row) -> Webhook:
        """A webhook from its row."""
        watched = tuple((kind, name) for kind, name in json.loads(row["watched"]))
        return cls(
            row["id"], row["account"], row["url"], watched, tuple(json.loads(row["domains"])), bool(row["disabled"]),
            row["created"], row["secret"],
        )  # fmt: skip

    def watches(self, repo: Repo, domain: str, *names: str) -> bool:
        """Whether it is to be told of the repo; ``names`` are other ids that the repo has had."""
        if self.disabled or domain not in self.domains:
            return False
        ids = {repo.id.lower(), *(name.lower() for name in names)}
        return any(
            name.lower() == repo.namespace.lower()
            if kind in {"user", "org"}
            else kind == repo.type and name.lower() in ids
            for kind, name in self.watched
        )


@dataclass(frozen=True)
class Settings:
    """What a client asks of a webhook, checked."""

    url: str
    watched: tuple[tuple[str, str], ...]
    domains: tuple[str, ...]
    secret: str | None = field(repr=False)

    @classmethod
    def of(cls, value: dict[str, Any], old: Webhook | None = None) -> Settings:
        """The settings in the body of a request; what it leaves out stays as it was. UsageError."""
        url = value.get("url") if value.get("url") is not None or old is None else old.url
        if not isinstance(url, str) or len(url) > 2000 or not url.isascii() or not url.isprintable() or not _host(url):
            raise UsageError("'url' must be an http:// or https:// address.")
        watched, domains = value.get("watched"), value.get("domains")
        if watched is None and old is not None:
            watched = [{"type": kind, "name": name} for kind, name in old.watched]
        if not isinstance(watched, list) or not 0 < len(watched) <= _MOST_WATCHED:
            raise UsageError(f"'watched' must be a list of 1 to {_MOST_WATCHED} items.")
        for item in watched:
            if not isinstance(item, dict) or item.get("type") not in WATCHED_TYPES or not _is_name(item.get("name")):
                raise UsageError(
                    f"Each item of 'watched' must be {{type, name}}; a type is one of {', '.join(WATCHED_TYPES)}."
                )
        if domains is None:
            domains = list(old.domains if old is not None else DOMAINS)
        if not isinstance(domains, list) or not domains or not all(item in DOMAINS for item in domains):
            raise UsageError(f"'domains' must be a list of: {', '.join(DOMAINS)}.")
        secret = value.get("secret") if "secret" in value or old is None else old.secret
        if secret is not None and not (
            isinstance(secret, str) and len(secret) <= 500 and secret.isascii() and secret.isprintable()
        ):
            raise UsageError("'secret' must be a string of at most 500 visible ASCII characters.")
        pairs = tuple((item["type"], item["name"]) for item in watched)
        return cls(url, pairs, tuple(dict.fromkeys(domains)), secret or None)


@dataclass(frozen=True)
class Delivery:
    """What waits to be delivered to a webhook."""

    id: int
    webhook: Webhook
    body: str
    tries: int


class Webhooks:
    """The webhooks of one data folder."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def create(self, account: Account, settings: Settings) -> Webhook:
        """A new webhook of an account; UsageError when it has too many."""
        with self._db.transaction():
            if len(self.of(account)) >= MOST_PER_ACCOUNT:
                raise UsageError(f"An account can have {MOST_PER_ACCOUNT} webhooks; delete one first.")
            identity = uuid.uuid4().hex[:24]
            self._db.run(
                "INSERT INTO webhooks VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
                identity, account.id, settings.url, settings.secret, json.dumps(settings.watched),
                json.dumps(settings.domains), now(),
            )  # fmt: skip
        return self._need(identity)

    def of(self, account: Account) -> list[Webhook]:
        """The webhooks of an account, the latest first."""
        rows = self._db.rows("SELECT * FROM webhooks WHERE account = ? ORDER BY created DESC, id", account.id)
        return [Webhook.of(row) for row in rows]

    def find(self, account: Account, identity: str) -> Webhook | None:
        """A webhook of an account by its id, or None."""
        row = self._db.row("SELECT * FROM webhooks WHERE id = ? AND account = ?", identity, account.id)
        return Webhook.of(row) if row else None

    def change(self, webhook: Webhook, settings: Settings) -> Webhook:
        """Give a webhook other settings."""
        self._db.run(
            "UPDATE webhooks SET url = ?, secret = ?, watched = ?, domains = ? WHERE id = ?",
            settings.url, settings.secret, json.dumps(settings.watched), json.dumps(settings.domains), webhook.id,
        )  # fmt: skip
        return self._need(webhook.id)

    def set_disabled(self, webhook: Webhook, disabled: bool) -> Webhook:
        """Disable or enable a webhook. What waits for a disabled one is dropped."""
        with self._db.transaction():
            self._db.run("UPDATE webhooks SET disabled = ? WHERE id = ?", disabled, webhook.id)
            if disabled:
                self._db.run("DELETE FROM webhook_deliveries WHERE webhook = ?", webhook.id)
        return self._need(webhook.id)

    def delete(self, webhook: Webhook) -> None:
        """Delete a webhook, and what waits for it."""
        self._db.run("DELETE FROM webhooks WHERE id = ?", webhook.id)

    def enabled(self) -> list[tuple[Webhook, Account]]:
        """All webhooks that are to be told, each with its account."""
        rows = self._db.rows("SELECT * FROM webhooks WHERE NOT disabled ORDER BY created, id")
        if not rows:
            return []
        accounts = {
            row["id"]: Account.of(row)
            for row in self._db.rows("SELECT * FROM accounts WHERE id IN (SELECT account FROM webhooks)")
        }
        return [(Webhook.of(row), accounts[row["account"]]) for row in rows]

    # Deliveries --------------------------------------------------------------------------------------------------

    def queue(self, webhook: Webhook, body: dict[str, Any]) -> bool:
        """Keep something to deliver; False when too much waits for this webhook already."""
        added = self._db.run(
            "INSERT INTO webhook_deliveries (webhook, body, due) SELECT ?, ?, ? WHERE "
            "(SELECT COUNT(*) FROM webhook_deliveries WHERE webhook = ?) < ?",
            webhook.id, json.dumps(body), time.time(), webhook.id, MOST_WAITING,
        )  # fmt: skip
        return added > 0

    def due(self) -> list[Delivery]:
        """What to deliver now: of each webhook the oldest, if its time has come. Nothing overtakes it.

        What is due later than anything can be was written before the clock was set back.
        """
        rows = self._db.rows(
            "SELECT webhooks.*, d.id AS number, body, tries FROM webhook_deliveries AS d "
            "JOIN webhooks ON webhooks.id = d.webhook WHERE (d.due <= ? OR d.due > ?) AND d.id = "
            "(SELECT MIN(id) FROM webhook_deliveries WHERE webhook = d.webhook) ORDER BY d.id",
            time.time(), time.time() + 2 * WAITS[-1],
        )  # fmt: skip
        return [Delivery(row["number"], Webhook.of(row), row["body"], row["tries"]) for row in rows]

    def next_due(self) -> float | None:
        """When the next delivery is due (seconds since the epoch); None when none waits."""
        row = self._db.row(
            "SELECT MIN(due) AS due FROM webhook_deliveries WHERE id IN "
            "(SELECT MIN(id) FROM webhook_deliveries GROUP BY webhook)"
        )
        return None if row is None or row["due"] is None else float(row["due"])

    def settle(self, delivery: Delivery, *, delivered: bool) -> bool:
        """Forget a delivery that arrived, or one that failed too often; try any other later. Whether it is dropped."""
        dropped = not delivered and delivery.tries >= len(WAITS)
        if delivered or dropped:
            self._db.run("DELETE FROM webhook_deliveries WHERE id = ?", delivery.id)
        else:
            self._db.run(
                "UPDATE webhook_deliveries SET tries = tries + 1, due = ? WHERE id = ?",
                time.time() + WAITS[delivery.tries], delivery.id,
            )  # fmt: skip
        return dropped

    def _need(self, identity: str) -> Webhook:
        row = self._db.row("SELECT * FROM webhooks WHERE id = ?", identity)
        if row is None:
            raise UsageError("This webhook was deleted meanwhile.")
        return Webhook.of(row)


def is_local(url: str) -> bool:
    """Whether an address is this machine's by its own words: no name is looked up, which could lead elsewhere."""
    host = _host(url)
    if host is None or urlsplit(url).scheme != "http":
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(url: str) -> str | None:
    """The host of an http or https address, or None."""
    try:
        parts = urlsplit(url)
        named = parts.scheme in {"http", "https"} and parts.port != 0  # the port is read: it may be no number
        return parts.hostname if named else None
    except ValueError:
        return None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200
