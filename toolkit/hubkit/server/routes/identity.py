"""Identity of the caller, metadata validation, and small endpoints that clients call in passing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from hubkit.core.fine_grained import FineGrained, Scope
from hubkit.server.accounts.accounts import Account
from hubkit.server.http.access import find_readable_repo, require_person, require_write
from hubkit.server.http.bodies import TEXT_LIMIT
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Route, api_route
from hubkit.server.repos import metadata


def whoami(request: Request) -> Response:
    """The account and the token of the caller; 403 for a trusted publisher's, which stands for a repo."""
    actor = require_person(request)
    token: dict[str, Any] = {"displayName": actor.label, "role": actor.role, "createdAt": actor.created}
    if actor.fine_grained is not None:
        token |= {"role": "fineGrained", "fineGrained": _under_present_names(request, actor.fine_grained).to_json()}
    orgs = [_org(account, role) for account, role in request.hub.accounts.orgs_of(actor.account)]
    return JSONResponse(
        {
            "type": "user", "id": actor.account.id, "name": actor.name, "fullname": actor.account.fullname,
            "email": None, "emailVerified": False, "canPay": False, "isPro": False, "avatarUrl": "", "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": token},
        }
    )  # fmt: skip


def _under_present_names(request: Request, rights: FineGrained) -> FineGrained:
    """The rights with the names that their repos have now, as far as the caller may know of them."""

    def named(scope: Scope) -> Scope:
        repo = request.hub.store.by_uid(scope.uid) if scope.uid else None
        return replace(scope, name=repo.id) if repo and request.hub.permissions.may_see(request.actor, repo) else scope

    return replace(rights, scopes=tuple(map(named, rights.scopes)))


def _org(account: Account, role: str) -> dict[str, Any]:
    return {
        "type": "org", "id": account.id, "name": account.name, "fullname": account.fullname, "email": None,
        "canPay": False, "avatarUrl": "", "roleInOrg": role,
    }  # fmt: skip


def auth_check(request: Request) -> Response:
    """200 when the caller may read the files; ``/write``: when they may change them."""
    repo = find_readable_repo(request)
    if request.path_params.get("right") == "write":
        require_write(request, repo)
    return JSONResponse({})


def validate_yaml(request: Request) -> Response:
    """Errors and warnings for a README's metadata; as plain text when the client accepts that."""
    kind = request.json_string("repoType", "model")
    errors, warnings = metadata.check(request.json_string("content"), kind)
    status = 400 if errors else 200
    if "text/plain" in request.headers.get("accept", ""):
        lines = [f"- Error: {text}" for text in errors] + [f"- Warning: {text}" for text in warnings]
        return PlainTextResponse("\n".join(lines), status_code=status)
    value = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return JSONResponse(value, status_code=status)


def nothing(request: Request) -> Response:
    """Telemetry: 204, nothing is kept."""
    return Response(status_code=204)


def no_harnesses(request: Request) -> Response:
    """The list of agent programs that clients report; empty here."""
    return JSONResponse({"standardEnvVars": [], "harnesses": {}})


def repo_tags(request: Request) -> Response:
    """The catalogue of tags, empty here."""
    return JSONResponse({})


ROUTES = [
    Route("GET", "/api/whoami-v2", whoami),
    Route("POST", "/api/validate-yaml", validate_yaml, "json", anonymous=True, limit=TEXT_LIMIT),
    Route("GET", "/api/agent-harnesses", no_harnesses),
    Route("GET", "/api/telemetry/{topic:path}", nothing),
    Route("GET", "/api/models-tags-by-type", repo_tags),
    Route("GET", "/api/datasets-tags-by-type", repo_tags),
    api_route("GET", "/auth-check", auth_check),
    api_route("GET", "/auth-check/{right}", auth_check),
]
