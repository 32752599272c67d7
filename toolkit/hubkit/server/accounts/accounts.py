"""Users, organizations and their tokens.

A token is kept as its sha256 only; the owner's alone is also kept in a file (mode 0600) for the command line. The apps
of Spaces cannot see it: they are confined (:mod:`hubkit.core.processes.confinement`). The user's keyring would not be
safer: it opens for any program of the same user, so it too takes the confinement, and a server has none.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from hubkit.core.errors import HubkitError, UsageError
from hubkit.core.files import write_atomic
from hubkit.core.fine_grained import FineGrained, Scope
from hubkit.core.names import repo_id_problem
from hubkit.server.accounts.grants import Limits, Publisher, from_text, to_text
from hubkit.server.storage.database import Database, now, stamp
from hubkit.server.storage.folder import Folder

OWNER = "hubkit"
_RESERVED = """
api collections datasets spaces models kernels lfs hubkit static settings oauth login join docs new zero-gpu
"""
RESERVED = frozenset(_RESERVED.split())
_TOKEN = re.compile(r"[!-~]{1,500}")
TokenRole = Literal["read", "write"]
MemberRole = Literal["admin", "write", "read"]


@dataclass(frozen=True)
class Account:
    """A user or an organization. ``admin`` users may write everywhere."""

    id: str
    kind: str
    name: str
    fullname: str
    admin: bool
    private_repos: bool
    created: str

    @classmethod
    def of(cls, row: sqlite3.Row) -> Account:
        """An account from its row."""
        return cls(
            row["id"], row["kind"], row["name"], row["fullname"],
            bool(row["admin"]), bool(row["private_repos"]), row["created"],
        )  # fmt: skip


@dataclass(frozen=True)
class Actor:
    """Who sent a request: an account, through one of its tokens. ``limits`` are what the token may do of what it may.

    A trusted publisher's token stands for no person: its account is nobody's, so that nothing of the account that set
    the publisher up is within its reach.
    """

    account: Account
    role: TokenRole
    label: str
    created: str
    limits: Limits | None = None
    number: int = 0
    """By which a signed address names the token, instead of its digest."""
    digest: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """The account's name."""
        return self.account.name

    def wrote(self, author: str, created: str) -> bool:
        """Whether something by this author, made at that time, is this account's: not of an earlier one of the name."""
        return self.account.name == author and self.account.created <= created

    @property
    def fine_grained(self) -> FineGrained | None:
        """The rights of a fine-grained token; None for any other."""
        return self.limits if isinstance(self.limits, FineGrained) else None

    @property
    def publisher(self) -> Publisher | None:
        """What a trusted publisher's token is for; None for any other."""
        return self.limits if isinstance(self.limits, Publisher) else None


def _publisher_account(publisher: Publisher) -> Account:
    """Nobody's account, under the name that commits of the job show: no user can have one with brackets."""
    name = f"[OIDC] {publisher.subject}".strip()
    return Account(id="", kind="oidc", name=name, fullname=name, admin=False, private_repos=False, created="")


class Accounts:
    """The accounts of one data folder."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def together(self) -> AbstractContextManager[None]:
        """A block whose changes are all made, or none."""
        return self._db.transaction()

    def find(self, name: str) -> Account | None:
        """The account called ``name``, whatever the case of its letters."""
        row = self._db.row("SELECT * FROM accounts WHERE key = ?", name.lower())
        return Account.of(row) if row else None

    def all(self) -> list[Account]:
        """Every account, by name."""
        return [Account.of(row) for row in self._db.rows("SELECT * FROM accounts ORDER BY key")]

    def add_user(self, name: str, *, fullname: str | None = None, admin: bool = False) -> Account:
        """A new user; UsageError when the name is taken or cannot be one."""
        return self._add("user", name, fullname, admin=admin)

    def add_org(
        self, name: str, *, fullname: str | None = None, private_repos: bool = False,
        members: dict[str, MemberRole] | None = None,
    ) -> Account:  # fmt: skip
        """A new organization with ``members`` (user to role); ``private_repos``: new repos are private by default."""
        with self._db.transaction():
            org = self._add("org", name, fullname, private_repos=private_repos)
            for user, role in (members or {}).items():
                self.set_member(name, user, role)
            return org

    def _add(
        self, kind: str, name: str, fullname: str | None, *, admin: bool = False, private_repos: bool = False
    ) -> Account:
        if problem := namespace_problem(name):
            raise UsageError(f"{name!r} cannot be an account's name: {problem}.", hint="Choose another name.")
        with self._db.transaction():
            if self.find(name):
                raise UsageError(f"There is already an account called {name}.", hint="Choose another name.")
            self._db.run(
                "INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                uuid.uuid4().hex[:24], kind, name, name.lower(), fullname or name, admin, private_repos, now(),
            )  # fmt: skip
            return self._need(name, kind)

    def _need(self, name: str, kind: str | None = None) -> Account:
        account = self.find(name)
        if account is None or (kind and account.kind != kind):
            what = {"user": "user", "org": "organization", None: "account"}[kind]
            raise UsageError(
                f"There is no {what} called {name!r}.", hint="List them: hubkit hub user list, hubkit hub org list"
            )
        return account

    def set_member(self, org: str, user: str, role: MemberRole) -> None:
        """Give ``user`` the ``role`` in ``org``."""
        if role not in ("admin", "write", "read"):
            raise UsageError(f"{role!r} is not a role: admin, write or read.")
        self._db.run(
            "INSERT INTO members VALUES (?, ?, ?) ON CONFLICT (org, user) DO UPDATE SET role = excluded.role",
            self._need(org, "org").id, self._need(user, "user").id, role,
        )  # fmt: skip

    def remove_member(self, org: str, user: str) -> bool:
        """Take ``user`` out of ``org``; False when it was no member."""
        organization, account = self._need(org, "org"), self._need(user, "user")
        return self._db.run("DELETE FROM members WHERE org = ? AND user = ?", organization.id, account.id) > 0

    def members(self, org: str) -> list[tuple[Account, str]]:
        """The members of an organization, with their roles."""
        rows = self._db.rows(
            "SELECT accounts.*, members.role AS role FROM members JOIN accounts ON accounts.id = members.user "
            "WHERE members.org = ? ORDER BY accounts.key",
            self._need(org, "org").id,
        )
        return [(Account.of(row), row["role"]) for row in rows]

    def remove(self, name: str, kind: Literal["user", "org"]) -> None:
        """Remove an account with its tokens and memberships; UsageError for the owner's and one that has repos."""
        with self._db.transaction():
            account = self._need(name, kind)
            if account.name == OWNER:
                raise UsageError(f"{OWNER} owns this Hub and cannot be removed.", hint="Name another account.")
            for table, what in (("repos", "repositories"), ("collections", "collections")):
                key = account.name.lower()
                row = self._db.row(f"SELECT COUNT(*) AS n FROM {table} WHERE LOWER(namespace) = ?", key)
                if row and row["n"]:
                    raise UsageError(
                        f"{account.name} still has {what}: {row['n']}.", hint="Move or delete them first, then retry."
                    )
            self._db.run("DELETE FROM accounts WHERE id = ?", account.id)

    def change(self, name: str, *, fullname: str | None = None, private_repos: bool | None = None) -> Account:
        """Set the full name of an account, or whether new repos in an organization are private."""
        with self._db.transaction():
            account = self._need(name)
            if fullname is not None:
                self._db.run("UPDATE accounts SET fullname = ? WHERE id = ?", fullname, account.id)
            if private_repos is not None:
                self._db.run("UPDATE accounts SET private_repos = ? WHERE id = ?", private_repos, account.id)
            return self._need(name)

    def orgs_of(self, account: Account) -> list[tuple[Account, str]]:
        """The organizations of a user, with the role there."""
        rows = self._db.rows(
            "SELECT accounts.*, members.role AS role FROM members JOIN accounts ON accounts.id = members.org "
            "WHERE members.user = ? ORDER BY accounts.key",
            account.id,
        )
        return [(Account.of(row), row["role"]) for row in rows]

    def add_token(
        self, name: str, *, role: TokenRole = "write", label: str = "token", value: str | None = None,
        limits: Limits | None = None, lives: float | None = None,
    ) -> str:  # fmt: skip
        """A new token of user ``name``; it cannot be read again. ``value`` sets it instead of a random one.

        ``limits`` make it a fine-grained one or a trusted publisher's, and it ends after ``lives`` seconds.
        """
        if role not in ("read", "write"):
            raise UsageError(f"{role!r} is not a role of a token: read or write.")
        if value is not None and not _TOKEN.fullmatch(value):
            raise UsageError(
                "A token must be 1 to 500 visible ASCII characters without spaces.", hint="Choose another token."
            )
        token = value or "hf_" + secrets.token_hex(17)
        account, holder = self._need(name, "user"), self.identify(token) if value else None
        if holder is not None and holder.account.id != account.id:
            raise UsageError(f"This token of {name} is another account's already.", hint="Choose another token.")
        digest, until = _digest(token), None if lives is None else time.time() + lives
        with self._db.transaction():
            self._db.run(
                "DELETE FROM tokens WHERE digest IN (SELECT digest FROM token_limits WHERE expires <= ?)", time.time()
            )
            self._db.run("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?, ?, ?)", digest, account.id, label, role, now())
            if limits is not None or until is not None:
                text = None if limits is None else to_text(limits)
                self._db.run("INSERT OR REPLACE INTO token_limits VALUES (?, ?, ?)", digest, text, until)
        return token

    def tokens(self, name: str) -> list[dict[str, str]]:
        """The tokens of a user: ``label``, ``role``, ``created`` and ``id`` (to revoke it), if it ends ``expires``;
        never the token.
        """
        rows = self._db.rows(
            "SELECT tokens.*, token_limits.grants, token_limits.expires FROM tokens LEFT JOIN token_limits "
            "ON token_limits.digest = tokens.digest WHERE account = ? ORDER BY created",
            self._need(name, "user").id,
        )
        return [
            {
                "id": row["digest"][:12], "label": row["label"], "created": row["created"],
                "role": row["role"] if row["grants"] is None else "fine-grained",
            }
            | ({} if row["expires"] is None else {"expires": stamp(datetime.fromtimestamp(row["expires"], UTC))})
            for row in rows
        ]  # fmt: skip

    def revoke_token(self, name: str, token_id: str) -> bool:
        """Revoke a token by the ``id`` that :meth:`tokens` returns; False when there is none."""
        if len(token_id) != 12 or not token_id.isalnum():
            return False
        account = self._need(name, "user")
        return self._db.run("DELETE FROM tokens WHERE account = ? AND digest LIKE ? || '%'", account.id, token_id) > 0

    def identify(self, token: str) -> Actor | None:
        """The account and the rights of a token; None for an unknown or expired one."""
        digest = _digest(token)
        actor = self._actor("tokens.digest = ?", digest)
        return actor if actor and hmac.compare_digest(actor.digest, digest) else None

    def numbered(self, number: int) -> Actor | None:
        """Whom the token with this ``number`` stands for; None when it was revoked or has expired."""
        return self._actor("tokens.rowid = ?", number)

    def _actor(self, where: str, value: str | int) -> Actor | None:
        row = self._db.row(
            "SELECT accounts.*, tokens.rowid AS number, tokens.digest, tokens.label, tokens.role AS token_role, "
            "tokens.created AS token_created, token_limits.grants, token_limits.expires "
            "FROM tokens JOIN accounts ON accounts.id = tokens.account "
            f"LEFT JOIN token_limits ON token_limits.digest = tokens.digest WHERE {where}",
            value,
        )
        if row is None or (row["expires"] is not None and row["expires"] <= time.time()):
            return None
        limits = None if row["grants"] is None else from_text(row["grants"])
        account = _publisher_account(limits) if isinstance(limits, Publisher) else Account.of(row)
        return Actor(
            account, row["token_role"], row["label"], row["token_created"], limits, row["number"], row["digest"]
        )

    def bound(self, rights: FineGrained) -> FineGrained:
        """The rights on repos that exist now, and not on others that may get their names later."""

        def one(scope: Scope) -> Scope:
            row = self._db.row(
                "SELECT uid, namespace, name FROM repos WHERE type = ? AND key = ? UNION ALL "
                "SELECT uid, namespace, name FROM repos JOIN aliases ON repos.uid = aliases.repo "
                "WHERE aliases.type = ? AND aliases.key = ? LIMIT 1",
                scope.kind, scope.name.lower(), scope.kind, scope.name.lower(),
            )  # fmt: skip
            return replace(scope, name=f"{row['namespace']}/{row['name']}", uid=row["uid"]) if row else scope

        return replace(rights, scopes=tuple(map(one, rights.scopes)))

    def add_publisher(self, repo: str, account: Account, secret: str, claims: Mapping[str, Any]) -> None:
        """Let jobs whose identity has these ``claims``, signed with ``secret``, write to the repo ``repo`` (uid)."""
        self._db.run("INSERT INTO publishers VALUES (?, ?, ?, ?)", repo, account.id, secret, json.dumps(dict(claims)))

    def remove_publishers(self, repo: str) -> int:
        """Trust no job with the repo ``repo`` (uid) any more, and revoke the tokens that jobs got for it; how many
        publishers there were.
        """
        with self._db.transaction():
            for row in self._db.rows("SELECT digest, grants FROM token_limits WHERE grants IS NOT NULL"):
                limits = from_text(row["grants"])
                if isinstance(limits, Publisher) and limits.repo == repo:
                    self._db.run("DELETE FROM tokens WHERE digest = ?", row["digest"])
            return self._db.run("DELETE FROM publishers WHERE repo = ?", repo)

    def publishers(self, repo: str) -> list[tuple[str, str, dict[str, Any]]]:
        """The trusted publishers of a repo (uid): account's name, secret, claims."""
        rows = self._db.rows(
            "SELECT accounts.name, publishers.* FROM publishers JOIN accounts ON accounts.id = account WHERE repo = ?",
            repo,
        )
        return [(row["name"], row["secret"], json.loads(row["claims"])) for row in rows]

    def role_in(self, actor: Actor | None, namespace: str) -> str | None:
        """``admin``, ``write``, ``read`` or None: what the actor's account is in a namespace."""
        if actor is None:
            return None
        if actor.account.admin or actor.name.lower() == namespace.lower():
            return "admin"
        row = self._db.row(
            "SELECT role FROM members JOIN accounts ON accounts.id = members.org "
            "WHERE accounts.key = ? AND members.user = ?",
            namespace.lower(), actor.account.id,
        )  # fmt: skip
        return str(row["role"]) if row else None

    def ensure_namespace(self, name: str, owner: Actor) -> Account:
        """The account behind ``name``; a new organization of ``owner`` when there is none."""
        with self._db.transaction():
            return self.find(name) or self.add_org(name, members={owner.name: "admin"})

    def ensure_owner(self, folder: Folder) -> str:
        """The owner's token; the account and the token are created when they are missing."""
        with self._db.transaction():
            if self.find(OWNER) is None:
                self.add_user(OWNER, fullname="hubkit", admin=True)
            if folder.owner_token.exists():
                token = folder.owner_token.read_text(encoding="utf-8").strip()
                if self.identify(token):
                    return token
            token = self.add_token(OWNER, label="owner")
            write_atomic(folder.owner_token, token + "\n", mode=0o600)
            return token


def namespace_problem(name: str) -> str | None:
    """Why ``name`` cannot be an account's, or None when it can."""
    if name.lower() in RESERVED and name != OWNER:
        return "the Hub uses this word in its addresses"
    return repo_id_problem(f"{name}/x") or repo_id_problem(f"x/{name}")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def open_accounts(data: str | os.PathLike[str]) -> Accounts:
    """The accounts of a data folder, whether or not a server serves it."""
    return Accounts(_database(data))


@contextmanager
def accounts_of(data: str | os.PathLike[str]) -> Iterator[Accounts]:
    """The accounts of a data folder for as long as the block lasts; a server that serves it sees each change at once.

    A folder without a Hub becomes one, with its owner.
    """
    database = _database(data)
    try:
        accounts = Accounts(database)
        accounts.ensure_owner(Folder(Path(data)))
        yield accounts
    except sqlite3.Error as error:
        message = f"The database of the Hub in {data} could not be used: {error}."
        raise HubkitError(message, hint="Run the command again; check the folder with hubkit hub fsck.") from error
    finally:
        database.close()


def _database(data: str | os.PathLike[str]) -> Database:
    folder = Folder(Path(data))
    folder.create()
    return Database(folder.database)
