"""Trusted publishing: a CI job's identity is exchanged for a token that may write to one repo, for an hour."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.server.accounts.grants import Publisher
from hubkit.server.http.bodies import SMALL_LIMIT
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Route

_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
_SUBJECT = "urn:ietf:params:oauth:token-type:id_token"
_LIVES = 3600
_NEVER = 10.0**11
_UNUSUAL = re.compile(r"[^\w ./:@#=-]")
"""What the name of a job does not need, and the name of a commit's author may not have."""


def exchange(request: Request) -> Response:
    """RFC 8693: ``{grant_type, subject_token_type, subject_token, resource}`` for ``{access_token, expires_in}``."""
    if request.json_string("grant_type") != _GRANT or request.json_string("subject_token_type") != _SUBJECT:
        raise HTTPException(400, "unsupported_grant_type: this Hub exchanges id tokens only.")
    repo = request.hub.store.find("model", request.json_string("resource"))
    for account, secret, wanted in request.hub.accounts.publishers(repo.uid) if repo else ():
        claims = _claims(request.json_string("subject_token"), secret)
        if claims is None or not _is_for_this_hub(request, claims) or not _is_current(claims):
            continue
        if all(name in claims and claims[name] == value for name, value in wanted.items()):
            assert repo is not None
            limits = Publisher(repo.uid, _UNUSUAL.sub("?", str(claims.get("sub", "")))[:200])
            token = request.hub.accounts.add_token(account, label="trusted publisher", limits=limits, lives=_LIVES)
            return JSONResponse({"access_token": token, "token_type": "bearer", "expires_in": _LIVES})
    raise HTTPException(400, "invalid_grant: no trusted publisher of this repo matches the token.")


def _is_for_this_hub(request: Request, claims: dict[str, Any]) -> bool:
    """Whether the identity was issued for this server, by its own port and not by the Host that the client sent: one
    that was issued for another Hub on this machine is not accepted here.
    """
    port = request.scope["server"][1]
    own = [f"http://{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]")]
    return claims.get("aud") in [*own, *([request.origin] if request.scope.get("public") else [])]


def _is_current(claims: dict[str, Any]) -> bool:
    """Whether the identity has not expired yet; one that does not say when it expires has."""
    until = claims.get("exp")
    return isinstance(until, int | float) and not isinstance(until, bool) and time.time() < until < _NEVER


def _claims(token: str, secret: str) -> dict[str, Any] | None:
    """The claims of a JSON Web Token signed by HMAC-SHA256 with ``secret``; None when it is not."""
    head, _, signature = token.rpartition(".")
    expected = hmac.new(secret.encode(), head.encode(), hashlib.sha256).digest()
    try:
        if not hmac.compare_digest(_decoded(signature), expected):
            return None
        header, claims = (json.loads(_decoded(part)) for part in head.split("."))
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) and header == {"alg": "HS256", "typ": "JWT"} else None


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


ROUTES = [Route("POST", "/oauth/token", exchange, "json", anonymous=True, limit=SMALL_LIMIT)]
