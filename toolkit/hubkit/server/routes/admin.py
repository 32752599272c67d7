"""What is this Hub's own: its status, its accounts, its scripted faults."""

from __future__ import annotations

import os
import re

from starlette.responses import JSONResponse, Response

from hubkit import __version__
from hubkit.core.errors import UsageError
from hubkit.server.accounts import TokenRole
from hubkit.server.faults import Fault, Faults
from hubkit.server.folder import proof
from hubkit.server.grants import Grants
from hubkit.server.http import Call, Refusal, Spec, whole
from hubkit.server.pages.sessions import LOCAL, own_address
from hubkit.server.routes.common import need_user

_NONCE = re.compile(r"[0-9a-f]{32}")


def status(call: Call) -> Response:
    """Which process and version serves; to a ``nonce`` of 32 hexadecimal digits the proof that it has the folder."""
    said = {"version": __version__, "pid": os.getpid(), "faults": bool(call.hub.faults)}
    nonce = call.query.get("nonce", "")
    if _NONCE.fullmatch(nonce):
        said["proof"] = proof(call.hub.database.meta("secret"), call.request.scope["server"][1], nonce)
    return JSONResponse(said)


def _need_owner(call: Call) -> None:
    need_user(call)
    assert call.actor is not None
    if not call.actor.account.admin or call.actor.role != "write" or call.actor.grants is not None:
        raise Refusal(403, "Only the owner of this Hub may do this.")


def accounts(call: Call) -> Response:
    """Every account, with its tokens' labels."""
    _need_owner(call)
    found = call.hub.accounts.all()
    return JSONResponse(
        [
            {
                "name": item.name,
                "kind": item.kind,
                "fullname": item.fullname,
                "admin": item.admin,
                "created": item.created,
            }
            | ({"tokens": call.hub.accounts.tokens(item.name)} if item.kind == "user" else {})
            for item in found
        ]
    )


def add_user(call: Call) -> Response:
    """``{name, fullname?}``: a new user."""
    _need_owner(call)
    user = call.hub.accounts.add_user(call.text("name"), fullname=call.text("fullname", "") or None)
    return JSONResponse({"name": user.name, "id": user.id})


def add_org(call: Call) -> Response:
    """``{name, fullname?, private?, members?: {user: role}}``: a new organisation."""
    _need_owner(call)
    members = call.fields().get("members") or {}
    if not isinstance(members, dict):
        raise Refusal(400, "'members' must map user names to roles.")
    org = call.hub.accounts.add_org(
        call.text("name"), fullname=call.text("fullname", "") or None,
        private_repos=call.fields().get("private") is True, members=members,
    )  # fmt: skip
    return JSONResponse({"name": org.name, "id": org.id})


def add_token(call: Call) -> Response:
    """``{user, role?, label?, value?, fineGrained?, lives?}``: a new token, shown this once; it lives some seconds."""
    _need_owner(call)
    role: TokenRole = "read" if call.text("role", "write") == "read" else "write"
    if call.text("role", "write") != role:
        raise Refusal(400, "'role' must be 'read' or 'write'.")
    token = call.hub.accounts.add_token(
        call.text("user"),
        role=role,
        label=call.text("label", "token"),
        value=call.text("value", "") or None,
        grants=Grants.of(call.fields()["fineGrained"]) if "fineGrained" in call.fields() else None,
        lives=float(whole(str(call.fields()["lives"]), 0)) if "lives" in call.fields() else None,
    )
    return JSONResponse({"token": token, "role": role})


def add_publisher(call: Call) -> Response:
    """``{repo, secret, claims}``: a job whose identity, signed with ``secret``, has these claims may write to a model.

    Unlike the real Hub, which fetches the keys of known CI services, this one is told a shared key: it stays offline.
    """
    _need_owner(call)
    assert call.actor is not None
    claims = call.fields().get("claims")
    repo = call.hub.store.find("model", call.text("repo"))
    if repo is None or not isinstance(claims, dict) or not claims:
        raise Refusal(400, "A trusted publisher needs a 'repo' that is there, and 'claims'.")
    call.hub.accounts.trust(repo.uid, call.actor.account, call.text("secret"), claims)
    return JSONResponse({})


def revoke_token(call: Call) -> Response:
    """Forget a token by the id that the list of accounts shows."""
    _need_owner(call)
    if not call.hub.accounts.revoke_token(call.params["user"], call.params["token"]):
        raise Refusal(404, "There is no such token.")
    return JSONResponse({})


def log_in(call: Call) -> Response:
    """``{next?}``: an address that logs a browser in as the caller, once, within a minute, and leads to ``next``."""
    need_user(call)
    scheme, _, token = call.request.headers["authorization"].partition(" ")
    if scheme.lower() != "bearer":
        raise Refusal(400, "A login is asked for with a bearer token.")
    next_page = call.text("next", "/") if call.value is not None else "/"
    if not LOCAL.fullmatch(next_page):
        raise Refusal(400, "'next' must be a path of this Hub.")
    key = call.hub.sessions.key(token.strip(), next_page)
    return JSONResponse({"url": f"{own_address(call.request)}/login?key={key}"})


def set_faults(call: Call) -> Response:
    """A list of faults replaces the script."""
    _need_owner(call)
    if not isinstance(call.value, list):
        raise Refusal(400, "The body must be a list of faults.")
    _faults(call).set([Fault.of(item) for item in call.value])
    return JSONResponse({})


def show_faults(call: Call) -> Response:
    """The script, its counts, and the requests since it was set."""
    _need_owner(call)
    return JSONResponse(_faults(call).shown())


def _faults(call: Call) -> Faults:
    if call.hub.faults is None:
        raise Refusal(404, "This Hub was started without --faults.")
    return call.hub.faults


def usage_refusal(error: UsageError) -> Refusal:
    """400 with the sentence of a usage error."""
    return Refusal(400, str(error))


SPECS = [
    Spec("GET", "/api/hubkit/status", status),
    Spec("GET", "/api/hubkit/accounts", accounts),
    Spec("POST", "/api/hubkit/users", add_user, "json"),
    Spec("POST", "/api/hubkit/orgs", add_org, "json"),
    Spec("POST", "/api/hubkit/tokens", add_token, "json"),
    Spec("POST", "/api/hubkit/publishers", add_publisher, "json"),
    Spec("DELETE", "/api/hubkit/tokens/{user}/{token}", revoke_token),
    Spec("POST", "/api/hubkit/session", log_in, "json"),
    Spec("GET", "/api/hubkit/faults", show_faults),
    Spec("PUT", "/api/hubkit/faults", set_faults, "json"),
]
