"""A seed: the users, tokens and organizations that a Hub is to have, from a JSON file. It can be applied many times.

    {"users": [{"name": "ann", "fullname": "Ann", "token": "hf_…", "role": "write"}],
     "orgs": [{"name": "team", "members": {"ann": "admin"}, "default_visibility": "private"}]}

The role of a user is that of the token: read, write, or fine-grained with ``permissions`` as ``whoami`` shows them;
``admin`` is a write token of a user who administers the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hubkit.core.bounded_json import JsonError, load_json
from hubkit.core.errors import UsageError
from hubkit.core.files import os_error
from hubkit.core.fine_grained import FineGrained
from hubkit.server.accounts.accounts import Accounts, MemberRole, TokenRole, namespace_problem
from hubkit.server.accounts.grants import checked

TOKEN_ROLES = ("read", "write", "fine-grained")
MEMBER_ROLES = ("admin", "write", "read")
_USER_KEYS = {"name": str, "fullname": str, "token": str, "role": str, "permissions": dict}
_ORG_KEYS = {"name": str, "fullname": str, "members": dict, "default_visibility": str}
_KINDS: dict[type, str] = {str: "a string", dict: "an object", list: "a list"}


@dataclass(frozen=True)
class SeedUser:
    """A user, and the token to give to it, if any."""

    name: str
    fullname: str | None
    token: str | None
    role: TokenRole
    admin: bool
    limits: FineGrained | None


@dataclass(frozen=True)
class SeedOrg:
    """An organization with its members."""

    name: str
    fullname: str | None
    members: Mapping[str, MemberRole]
    private: bool


@dataclass(frozen=True)
class Seed:
    """What a Hub is to have."""

    users: tuple[SeedUser, ...]
    orgs: tuple[SeedOrg, ...]

    def apply(self, accounts: Accounts) -> dict[str, int]:
        """Create what is missing, all or nothing; how many users, organizations and tokens are new.

        Accounts that exist get the full name, the members and the visibility of the seed; nothing is removed.
        """
        made = {"users": 0, "orgs": 0, "tokens": 0}
        with accounts.together():
            for user in self.users:
                found = accounts.find(user.name)
                if found is None:
                    accounts.add_user(user.name, fullname=user.fullname, admin=user.admin)
                    made["users"] += 1
                elif found.kind != "user" or found.admin < user.admin:
                    what = "an organization" if found.kind != "user" else "no administrator"
                    raise UsageError(f"{found.name} exists already and is {what}.", hint="Choose another name.")
                else:
                    accounts.change(user.name, fullname=user.fullname)
                made["tokens"] += self._give_token(accounts, user)
            for org in self.orgs:
                made["orgs"] += self._have_org(accounts, org)
        return made

    def _give_token(self, accounts: Accounts, user: SeedUser) -> bool:
        if user.token is None:
            return False
        limits = None if user.limits is None else accounts.bound(user.limits)
        actor = accounts.identify(user.token)
        if actor and actor.name.lower() == user.name.lower() and (actor.role, actor.limits) == (user.role, limits):
            return False
        accounts.add_token(user.name, role=user.role, value=user.token, label="seed", limits=limits)
        return True

    def _have_org(self, accounts: Accounts, org: SeedOrg) -> bool:
        found = accounts.find(org.name)
        if found is not None and found.kind != "org":
            raise UsageError(f"{found.name} exists already and is a user.", hint="Choose another name.")
        if found is None:
            accounts.add_org(org.name, fullname=org.fullname, private_repos=org.private)
        else:
            accounts.change(org.name, fullname=org.fullname, private_repos=org.private)
        for member, role in org.members.items():
            accounts.set_member(org.name, member, role)
        return found is None


def read_seed(path: Path) -> Seed:
    """The seed in a JSON file; UsageError that names the place of the first mistake."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise os_error(error, path) from error
    try:
        value = load_json(content)
    except JsonError as error:
        raise UsageError(f"{path} {error}.", hint="Correct the file, then run the command again.") from None
    return _Reader(path).seed(value)


class _Reader:
    """Reads the value of one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _wrong(self, where: str, problem: str) -> UsageError:
        return UsageError(f"{self._path}: {where} {problem}.", hint="Correct the file, then run the command again.")

    def seed(self, value: Any) -> Seed:
        """The seed in the value of the file."""
        whole = self._fields(value, "the seed", {"users": list, "orgs": list})
        users = [self._user(item, f"users[{index}]") for index, item in enumerate(whole.get("users", []))]
        orgs = [self._org(item, f"orgs[{index}]") for index, item in enumerate(whole.get("orgs", []))]
        names: set[str] = set()
        for where, name in [
            *((f"users[{index}].name", user.name) for index, user in enumerate(users)),
            *((f"orgs[{index}].name", org.name) for index, org in enumerate(orgs)),
        ]:
            if name.lower() in names:
                raise self._wrong(where, f"is used twice: {name}")
            names.add(name.lower())
        return Seed(tuple(users), tuple(orgs))

    def _fields(self, value: Any, where: str, keys: Mapping[str, type]) -> dict[str, Any]:
        """``value`` as an object with only these keys, each of its type; null counts as absent."""
        if not isinstance(value, dict):
            raise self._wrong(where, "must be an object")
        for key, item in value.items():
            if key not in keys:
                raise self._wrong(where, f"has an unknown key {key!r}; known are {', '.join(keys)}")
            if item is not None and not isinstance(item, keys[key]):
                raise self._wrong(f"{where}.{key}", f"must be {_KINDS[keys[key]]}")
        return {key: item for key, item in value.items() if item is not None}

    def _name(self, fields: Mapping[str, Any], where: str) -> str:
        name = fields.get("name")
        if name is None:
            raise self._wrong(where, "has no 'name'")
        if problem := namespace_problem(str(name)):
            raise self._wrong(f"{where}.name", f"cannot be {name!r}: {problem}")
        return str(name)

    def _user(self, value: Any, where: str) -> SeedUser:
        fields = self._fields(value, where, _USER_KEYS)
        role = fields.get("role", "write")
        if role not in (*TOKEN_ROLES, "admin"):
            raise self._wrong(f"{where}.role", f"must be read, write, fine-grained or admin, not {role!r}")
        limits = None
        if role == "fine-grained":
            try:
                limits = checked(fields.get("permissions", {}))
            except UsageError as error:
                raise self._wrong(f"{where}.permissions", f"cannot be read: {error}".rstrip(".")) from None
        elif "permissions" in fields:
            raise self._wrong(f"{where}.permissions", "needs the role fine-grained")
        return SeedUser(
            self._name(fields, where), fields.get("fullname"), fields.get("token"),
            "read" if role == "read" else "write", role == "admin", limits,
        )  # fmt: skip

    def _org(self, value: Any, where: str) -> SeedOrg:
        fields = self._fields(value, where, _ORG_KEYS)
        members = fields.get("members", {})
        for member, role in members.items():
            if role not in MEMBER_ROLES:
                raise self._wrong(f"{where}.members.{member}", f"must be admin, write or read, not {role!r}")
        visibility = fields.get("default_visibility", "public")
        if visibility not in ("public", "private"):
            raise self._wrong(f"{where}.default_visibility", f"must be public or private, not {visibility!r}")
        return SeedOrg(
            self._name(fields, where), fields.get("fullname"), cast(dict[str, MemberRole], members),
            visibility == "private",
        )  # fmt: skip
