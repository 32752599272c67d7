"""The embedded Hub's own API: its status, its accounts, logins, scripted faults."""

from __future__ import annotations

import os
import re
from dataclasses import asdict

from starlette.responses import JSONResponse, Response

from hubkit import __version__
from hubkit.core.fine_grained import FineGrained
from hubkit.server.accounts.accounts import TokenRole
from hubkit.server.accounts.grants import checked
from hubkit.server.accounts.sessions import LOCAL, own_address
from hubkit.server.backup import snapshot
from hubkit.server.faults import Fault, FaultScript
from hubkit.server.garbage import collect_here
from hubkit.server.http.access import require_owner, require_person
from hubkit.server.http.bodies import BATCH_LIMIT, SMALL_LIMIT
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import parse_int
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Route
from hubkit.server.storage.folder import proof

_NONCE = re.compile(r"[0-9a-f]{32}")


def status(request: Request) -> Response:
    """Which process and version serves; to a ``nonce`` of 32 hexadecimal digits the proof that it has the folder."""
    value = {"version": __version__, "pid": os.getpid(), "faults": bool(request.hub.faults)}
    policy = request.hub.spaces.policy
    value["spaces"] = {"run": policy.mode, "confinement": policy.way()}
    nonce = request.query_params.get("nonce", "")
    if _NONCE.fullmatch(nonce):
        value["proof"] = proof(request.hub.database.meta("secret"), request.scope["server"][1], nonce)
    return JSONResponse(value)


def accounts(request: Request) -> Response:
    """Every account, with its tokens' labels."""
    require_owner(request)
    return JSONResponse(
        [
            {
                "name": item.name,
                "kind": item.kind,
                "fullname": item.fullname,
                "admin": item.admin,
                "created": item.created,
            }
            | ({"tokens": request.hub.accounts.tokens(item.name)} if item.kind == "user" else {})
            for item in request.hub.accounts.all()
        ]
    )


def add_user(request: Request) -> Response:
    """``{name, fullname?}``: a new user."""
    require_owner(request)
    user = request.hub.accounts.add_user(
        request.json_string("name"), fullname=request.json_string("fullname", "") or None
    )
    return JSONResponse({"name": user.name, "id": user.id})


def add_org(request: Request) -> Response:
    """``{name, fullname?, private?, members?: {user: role}}``: a new organization."""
    require_owner(request)
    members = request.json_object().get("members") or {}
    if not isinstance(members, dict):
        raise HTTPException(400, "'members' must map user names to roles.")
    org = request.hub.accounts.add_org(
        request.json_string("name"), fullname=request.json_string("fullname", "") or None,
        private_repos=request.json_object().get("private") is True, members=members,
    )  # fmt: skip
    return JSONResponse({"name": org.name, "id": org.id})


def add_token(request: Request) -> Response:
    """``{user, role?, label?, value?, fineGrained?, lives?}``: a new token, shown only now; ``lives`` in seconds."""
    require_owner(request)
    role: TokenRole = "read" if request.json_string("role", "write") == "read" else "write"
    if request.json_string("role", "write") != role:
        raise HTTPException(400, "'role' must be 'read' or 'write'.")
    token = request.hub.accounts.add_token(
        request.json_string("user"),
        role=role,
        label=request.json_string("label", "token"),
        value=request.json_string("value", "") or None,
        limits=_fine_grained(request) if "fineGrained" in request.json_object() else None,
        lives=float(parse_int(str(request.json_object()["lives"]), 0)) if "lives" in request.json_object() else None,
    )
    return JSONResponse({"token": token, "role": role})


def _fine_grained(request: Request) -> FineGrained:
    """The rights that the body gives: on repos that exist now, and not on others that may get their names later."""
    return request.hub.accounts.bound(checked(request.json_object()["fineGrained"]))


def add_publisher(request: Request) -> Response:
    """``{repo, secret, claims}``: a job whose identity, signed with ``secret``, has these claims may write to a model.

    Unlike the real Hub, which fetches the keys of known CI services, this one is given a shared key: it stays offline.
    """
    owner = require_owner(request)
    claims = request.json_object().get("claims")
    repo = request.hub.store.find("model", request.json_string("repo"))
    if repo is None or not isinstance(claims, dict) or not claims:
        raise HTTPException(400, "A trusted publisher needs a 'repo' that exists, and 'claims'.")
    request.hub.accounts.add_publisher(repo.uid, owner.account, request.json_string("secret"), claims)
    return JSONResponse({})


def remove_publishers(request: Request) -> Response:
    """``{repo}``: trust no job with a model any more; the tokens that jobs have for it end at once."""
    require_owner(request)
    repo = request.hub.store.find("model", request.json_string("repo"))
    removed = request.hub.accounts.remove_publishers(repo.uid) if repo else 0
    return JSONResponse({"removed": removed})


def revoke_token(request: Request) -> Response:
    """Revoke a token by the id that the list of accounts shows."""
    require_owner(request)
    if not request.hub.accounts.revoke_token(request.path_params["user"], request.path_params["token"]):
        raise HTTPException(404, "Token not found.")
    return JSONResponse({})


def log_in(request: Request) -> Response:
    """``{next?}``: an address that logs a browser in as the caller, once, within a minute, and leads to ``next``."""
    require_person(request)
    scheme, _, token = request.headers["authorization"].partition(" ")
    if scheme.lower() != "bearer":
        raise HTTPException(400, "Authenticate with a bearer token.")
    next_page = request.json_string("next", "/") if request.json_body is not None else "/"
    if not LOCAL.fullmatch(next_page):
        raise HTTPException(400, "'next' must be a path of this Hub.")
    key = request.hub.sessions.key(token.strip(), next_page)
    return JSONResponse({"url": f"{own_address(request)}/login?key={key}"})


def make_snapshot(request: Request) -> Response:
    """A consistent copy of all data in a folder on this machine, which `hubkit hub backup` copies and removes."""
    require_owner(request)
    return JSONResponse({"folder": str(snapshot(request.hub))})


def collect_garbage(request: Request) -> Response:
    """``{days, dryRun}``: remove what no ref leads to and is older; what was removed."""
    require_owner(request)
    days, dry_run = request.json_object().get("days"), request.json_object().get("dryRun")
    if not isinstance(days, int) or not 0 <= days <= 36_500 or not isinstance(dry_run, bool):
        raise HTTPException(400, "'days' must be a number of days, and 'dryRun' true or false.")
    return JSONResponse(asdict(collect_here(request.hub, days=days, dry_run=dry_run)))


def set_faults(request: Request) -> Response:
    """Replace the script by a list of faults."""
    require_owner(request)
    if not isinstance(request.json_body, list):
        raise HTTPException(400, "The body must be a list of faults.")
    _faults(request).set([Fault.of(item) for item in request.json_body])
    return JSONResponse({})


def show_faults(request: Request) -> Response:
    """The script, its counts, and the requests since it was set."""
    require_owner(request)
    return JSONResponse(_faults(request).to_json())


def _faults(request: Request) -> FaultScript:
    if request.hub.faults is None:
        raise HTTPException(404, "This Hub was started without --faults.")
    return request.hub.faults


ROUTES = [
    Route("GET", "/api/hubkit/status", status),
    Route("GET", "/api/hubkit/accounts", accounts),
    Route("POST", "/api/hubkit/users", add_user, "json", limit=SMALL_LIMIT),
    Route("POST", "/api/hubkit/orgs", add_org, "json", limit=SMALL_LIMIT),
    Route("POST", "/api/hubkit/tokens", add_token, "json", limit=SMALL_LIMIT),
    Route("POST", "/api/hubkit/publishers", add_publisher, "json", limit=SMALL_LIMIT),
    Route("DELETE", "/api/hubkit/publishers", remove_publishers, "json", limit=SMALL_LIMIT),
    Route("DELETE", "/api/hubkit/tokens/{user}/{token}", revoke_token),
    Route("POST", "/api/hubkit/session", log_in, "json", limit=SMALL_LIMIT),
    Route("POST", "/api/hubkit/snapshot", make_snapshot),
    Route("POST", "/api/hubkit/gc", collect_garbage, "json", limit=SMALL_LIMIT),
    Route("GET", "/api/hubkit/faults", show_faults),
    Route("PUT", "/api/hubkit/faults", set_faults, "json", limit=BATCH_LIMIT),
]
