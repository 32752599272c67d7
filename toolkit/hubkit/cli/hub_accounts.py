"""`hubkit hub user`, `hub org`, `hub token`: who may use the embedded Hub. A running Hub sees each change at once."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click

from hubkit.cli.options import output_of, output_options
from hubkit.core.errors import UsageError
from hubkit.core.home import hubkit_home

if TYPE_CHECKING:
    from hubkit.core.fine_grained import FineGrained
    from hubkit.server.accounts.accounts import Account, Accounts, MemberRole

_Command = TypeVar("_Command", bound=Callable[..., Any])
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}
_LIVES = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_WRITE_OR_READ = click.Choice(["write", "read", "fine-grained"])


def data_option(command: _Command) -> _Command:
    """Add ``--data``: the folder of the Hub."""
    return click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Use the Hub whose data is in this folder. Default: hub/ in HUBKIT_HOME.",
    )(command)


def data_folder(given: Path | None) -> Path:
    """The data folder that ``--data`` names, or the default one."""
    return given if given is not None else hubkit_home() / "hub"


@contextmanager
def _accounts(data: Path | None) -> Iterator[Accounts]:
    from hubkit.server.accounts.accounts import accounts_of

    with accounts_of(data_folder(data)) as accounts:
        yield accounts


def _listed(accounts: Accounts, kind: Literal["user", "org"]) -> list[Account]:
    return [account for account in accounts.all() if account.kind == kind]


@click.group()
def user() -> None:
    """Add, list and remove the users of the embedded Hub."""


@user.command("add")
@click.argument("name")
@click.option("--fullname", metavar="TEXT", help="Show this name on its page. Default: NAME.")
@click.option("--admin", is_flag=True, help="Let this user administer the Hub and write everywhere.")
@click.option("--role", type=_WRITE_OR_READ, help="Create a token of this role too, and print it.")
@data_option
@output_options
def add_user(name: str, fullname: str | None, admin: bool, role: str | None, data: Path | None) -> None:
    """Add a user.

    \b
    Example:
      hubkit hub user add ann --role write
    """
    with _accounts(data) as accounts, accounts.together():
        added = accounts.add_user(name, fullname=fullname, admin=admin)
        token = _new_token(accounts, added.name, role, label="token") if role else None
    output_of().say(f"Added the user {added.name}.")
    value = {"name": added.name, "id": added.id}
    if token is None:
        output_of().result(value)
        return
    output_of().say("Its token, which is shown only now:")
    output_of().new_token(token, value)


@user.command("list")
@data_option
@output_options
def list_users(data: Path | None) -> None:
    """List the users, their organizations and their tokens.

    \b
    Example:
      hubkit hub user list
    """
    from hubkit.core.output import table

    with _accounts(data) as accounts:
        values: list[dict[str, Any]] = [
            {
                "name": account.name, "fullname": account.fullname, "admin": account.admin,
                "created": account.created, "tokens": accounts.tokens(account.name),
                "orgs": {org.name: role for org, role in accounts.orgs_of(account)},
            }
            for account in _listed(accounts, "user")
        ]  # fmt: skip
    rows = [
        (value["name"], value["fullname"], "yes" if value["admin"] else "", _pairs(value["orgs"]), _roles(value))
        for value in values
    ]
    output_of().result(values, table(("user", "full name", "admin", "organizations", "tokens"), rows))


@user.command("remove")
@click.argument("name")
@data_option
@output_options
def remove_user(name: str, data: Path | None) -> None:
    """Remove a user and its tokens.

    A user who still has repos or collections is not removed.

    \b
    Example:
      hubkit hub user remove ann
    """
    _remove(name, "user", data)


@click.group()
def org() -> None:
    """Add, list and remove the organizations of the embedded Hub."""


@org.command("add")
@click.argument("name")
@click.option("--fullname", metavar="TEXT", help="Show this name on its page. Default: NAME.")
@click.option("--member", "members", multiple=True, metavar="USER=ROLE", help="Add a user: admin, write or read.")
@click.option(
    "--default-visibility",
    "visibility",
    type=click.Choice(["public", "private"]),
    default="public",
    show_default=True,
    help="Give new repos this visibility.",
)
@data_option
@output_options
def add_org(name: str, fullname: str | None, members: tuple[str, ...], visibility: str, data: Path | None) -> None:
    """Add an organization.

    \b
    Example:
      hubkit hub org add team --member ann=admin --member bob=read
    """
    with _accounts(data) as accounts:
        roles = dict(map(_member, members))
        added = accounts.add_org(name, fullname=fullname, private_repos=visibility == "private", members=roles)
    output_of().say(f"Added the organization {added.name}.")
    output_of().result({"name": added.name, "id": added.id, "members": roles})


@org.command("list")
@data_option
@output_options
def list_orgs(data: Path | None) -> None:
    """List the organizations and their members.

    \b
    Example:
      hubkit hub org list
    """
    from hubkit.core.output import table

    with _accounts(data) as accounts:
        values: list[dict[str, Any]] = [
            {
                "name": account.name, "fullname": account.fullname, "created": account.created,
                "members": {member.name: role for member, role in accounts.members(account.name)},
                "default_visibility": "private" if account.private_repos else "public",
            }
            for account in _listed(accounts, "org")
        ]  # fmt: skip
    rows = [
        (value["name"], value["fullname"], _pairs(value["members"]), value["default_visibility"]) for value in values
    ]
    output_of().result(values, table(("organization", "full name", "members", "new repos"), rows))


@org.command("remove")
@click.argument("name")
@data_option
@output_options
def remove_org(name: str, data: Path | None) -> None:
    """Remove an organization.

    One that still has repos or collections is not removed.

    \b
    Example:
      hubkit hub org remove team
    """
    _remove(name, "org", data)


@org.command("member")
@click.argument("name")
@click.argument("username")
@click.argument("role", type=click.Choice(["admin", "write", "read", "none"]))
@data_option
@output_options
def set_member(name: str, username: str, role: str, data: Path | None) -> None:
    """Set the role of a user in an organization; none removes it.

    \b
    Example:
      hubkit hub org member team bob write
    """
    with _accounts(data) as accounts:
        if role == "none":
            accounts.remove_member(name, username)
        else:
            _, checked = _member(f"{username}={role}")
            accounts.set_member(name, username, checked)
    output_of().say(f"The role of {username} in {name} is now: {role}.")
    output_of().result({"org": name, "user": username, "role": None if role == "none" else role})


@click.group()
def token() -> None:
    """Create, list and revoke the tokens of the embedded Hub's users."""


@token.command("add")
@click.argument("username", metavar="USER")
@click.option("--role", type=_WRITE_OR_READ, help="What it may do. Default: write, or fine-grained with --allow.")
@click.option(
    "--allow",
    multiple=True,
    metavar="RIGHT:WHERE",
    help="Allow read, write, discuss or collect in a namespace or repo; repeatable.",
)
@click.option("--label", default="token", metavar="TEXT", help="Show this name in lists.")
@click.option("--expires", metavar="TIME", help="End it after this time: 30m, 12h, 90d. Default: never.")
@click.option("--from-file", metavar="FILE", help="Use the token in this file instead of a random one; - is stdin.")
@data_option
@output_options
def add_token(
    username: str, role: str | None, allow: tuple[str, ...], label: str, expires: str | None, from_file: str | None,
    data: Path | None,
) -> None:  # fmt: skip
    """Create a token of a user, and print it.

    It cannot be shown again: only its digest is stored.

    \b
    Examples:
      hubkit hub token add ann --role read
      hubkit hub token add ann --allow read:team --allow write:datasets/team/notes
    """
    lives, value = _lives(expires), _token_from(from_file)
    with _accounts(data) as accounts:
        made = _new_token(accounts, username, role, label=label, allow=allow, lives=lives, value=value)
    if value is None:
        output_of().new_token(made, {"user": username})
        return
    output_of().say(f"Added the token to {username}.")
    output_of().result({"user": username, "token": None})


@token.command("list")
@click.argument("username", metavar="[USER]", required=False)
@data_option
@output_options
def list_tokens(username: str | None, data: Path | None) -> None:
    """List tokens by id, label and role.

    The tokens themselves are not stored.

    \b
    Example:
      hubkit hub token list ann
    """
    from hubkit.core.output import table

    with _accounts(data) as accounts:
        names = [username] if username else [account.name for account in _listed(accounts, "user")]
        values = [{"user": name, **item} for name in names for item in accounts.tokens(name)]
    rows = [
        (item["user"], item["id"], item["label"], item["role"], item["created"][:10], item.get("expires", "")[:16])
        for item in values
    ]
    output_of().result(values, table(("user", "id", "label", "role", "created", "expires"), rows))


@token.command("remove")
@click.argument("username", metavar="USER")
@click.argument("token_id", metavar="ID")
@data_option
@output_options
def remove_token(username: str, token_id: str, data: Path | None) -> None:
    """Revoke a token by the id that `hubkit hub token list` shows.

    \b
    Example:
      hubkit hub token remove ann 3f2a9c81d0b4
    """
    with _accounts(data) as accounts:
        if not accounts.revoke_token(username, token_id):
            raise UsageError(
                f"{username} has no token with the id {token_id!r}.", hint="List them: hubkit hub token list"
            )
    output_of().say(f"Revoked the token {token_id} of {username}.")
    output_of().result({"user": username, "id": token_id})


def _remove(name: str, kind: Literal["user", "org"], data: Path | None) -> None:
    with _accounts(data) as accounts:
        accounts.remove(name, kind)
    output_of().say(f"Removed the {'user' if kind == 'user' else 'organization'} {name}.")
    output_of().result({"removed": name})


def _new_token(
    accounts: Accounts, name: str, role: str | None, *, label: str, allow: tuple[str, ...] = (),
    lives: float | None = None, value: str | None = None,
) -> str:  # fmt: skip
    if allow and role not in (None, "fine-grained"):
        raise UsageError("--allow makes a fine-grained token.", hint=f"Leave out --role {role}, or --allow.")
    limits = accounts.bound(_rights(allow)) if allow or role == "fine-grained" else None
    return accounts.add_token(
        name, role="read" if role == "read" else "write", label=label, limits=limits, lives=lives, value=value
    )


def _rights(allow: tuple[str, ...]) -> FineGrained:
    """The rights that ``--allow`` gives: ``right:namespace``, ``right:ns/name``, ``right:datasets/ns/name``."""
    from hubkit.core import fine_grained as names

    known = {"read": [names.READ], "write": [names.READ, names.WRITE], "discuss": [names.DISCUSS]}
    known["collect"] = [names.SEE_COLLECTIONS, names.COLLECT]
    scopes = []
    for text in allow:
        right, _, where = text.partition(":")
        kind, parts = "user", where.split("/")
        if len(parts) > 1:
            kind = parts.pop(0).removesuffix("s") if parts[0] in ("datasets", "spaces", "models") else "model"
        if right not in known or not all(parts) or len(parts) > 2 or (kind != "user" and len(parts) != 2):
            raise UsageError(
                f"--allow {text}: write it as RIGHT:WHERE; a right is {', '.join(known)}.",
                hint="For example --allow read:ann or --allow write:datasets/ann/notes",
            )
        scopes.append(names.Scope(kind, "/".join(parts), frozenset(known[right])))
    return names.FineGrained(scopes=tuple(scopes))


def _member(text: str) -> tuple[str, MemberRole]:
    name, _, role = text.partition("=")
    if role in ("admin", "write", "read"):
        return name, cast("MemberRole", role)
    raise UsageError(f"--member {text}: a role is admin, write or read.", hint="Write it as USER=ROLE.")


def _lives(text: str | None) -> float | None:
    if text is None:
        return None
    match = _LIVES.fullmatch(text)
    if match is None:
        raise UsageError(f"--expires {text}: this is no time.", hint="Write minutes, hours or days: 30m, 12h, 90d.")
    return float(match[1]) * _SECONDS[match[2]]


def _token_from(path: str | None) -> str | None:
    """The token in a file, or on standard input; it never stands on a command line, which others can read."""
    if path is None:
        return None
    if path == "-":
        return sys.stdin.read(10_000).strip()
    return Path(path).read_text(encoding="utf-8", errors="replace").strip()


def _pairs(roles: dict[str, str]) -> str:
    return ", ".join(f"{name} ({role})" for name, role in roles.items())


def _roles(value: dict[str, Any]) -> str:
    return ", ".join(f"{item['label']} ({item['role']})" for item in value["tokens"])
