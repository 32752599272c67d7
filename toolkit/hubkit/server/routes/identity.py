"""Who am I, may I, and the small questions that clients ask in passing."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from hubkit.server import metadata
from hubkit.server.accounts import Account
from hubkit.server.http import SMALL_LIMIT, Call, Refusal, Spec
from hubkit.server.routes.common import api, find_repo, need_files, need_user, need_write


def whoami(call: Call) -> Response:
    """The account and the token of the caller."""
    need_user(call)
    actor = call.actor
    assert actor is not None
    token: dict[str, Any] = {"displayName": actor.label, "role": actor.role, "createdAt": actor.created}
    if actor.grants is not None:
        token |= {"role": "fineGrained", "fineGrained": actor.grants.shown()}
    orgs = [_org(account, role) for account, role in call.hub.accounts.orgs_of(actor.account)]
    return JSONResponse(
        {
            "type": "user", "id": actor.account.id, "name": actor.name, "fullname": actor.account.fullname,
            "email": None, "emailVerified": False, "canPay": False, "isPro": False, "avatarUrl": "", "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": token},
        }
    )  # fmt: skip


def _org(account: Account, role: str) -> dict[str, Any]:
    return {
        "type": "org", "id": account.id, "name": account.name, "fullname": account.fullname, "email": None,
        "canPay": False, "avatarUrl": "", "roleInOrg": role,
    }  # fmt: skip


def auth_check(call: Call) -> Response:
    """200 when the caller may read the files; ``/write``: when they may change them."""
    repo = find_repo(call)
    need_files(call, repo)
    if call.params.get("right") == "write":
        need_write(call, repo)
    return JSONResponse({})


def validate_yaml(call: Call) -> Response:
    """What is wrong with a README's metadata; plain text for those who ask for it."""
    kind = call.text("repoType", "model")
    errors, warnings = metadata.check(call.text("content"), kind)
    status = 400 if errors else 200
    if "text/plain" in call.request.headers.get("accept", ""):
        lines = [f"- Error: {text}" for text in errors] + [f"- Warning: {text}" for text in warnings]
        return PlainTextResponse("\n".join(lines), status_code=status)
    value = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return JSONResponse(value, status_code=status)


def overview(call: Call) -> Response:
    """The public face of a user or an organisation."""
    account = call.hub.accounts.find(call.params["account"])
    if account is None or account.kind != call.params["which"].removesuffix("s").replace("organization", "org"):
        raise Refusal(404, "This user or organization does not exist.")
    return JSONResponse(
        {
            "_id": account.id,
            "user": account.name,
            "name": account.name,
            "fullname": account.fullname,
            "type": account.kind,
        }
    )


def nothing(call: Call) -> Response:
    """Telemetry and the like: taken note of by nobody."""
    return Response(status_code=204)


def no_harnesses(call: Call) -> Response:
    """The list of agent programs that clients report; this Hub keeps none."""
    return JSONResponse({"standardEnvVars": [], "harnesses": {}})


def repo_tags(call: Call) -> Response:
    """The catalogue of tags, empty here."""
    return JSONResponse({})


SPECS = [
    Spec("GET", "/api/whoami-v2", whoami),
    Spec("POST", "/api/validate-yaml", validate_yaml, "json", anonymous=True, limit=SMALL_LIMIT),
    Spec("GET", "/api/agent-harnesses", no_harnesses),
    Spec("GET", "/api/telemetry/{topic:path}", nothing),
    Spec("GET", "/api/models-tags-by-type", repo_tags),
    Spec("GET", "/api/datasets-tags-by-type", repo_tags),
    Spec("GET", "/api/users/{account}/overview", overview, fixed={"which": "users"}),
    Spec("GET", "/api/organizations/{account}/overview", overview, fixed={"which": "organizations"}),
    api("GET", "/auth-check", auth_check),
    api("GET", "/auth-check/{right}", auth_check),
]
