"""Trusted publishing: a CI job's identity is exchanged for a token that may write to one repo, for an hour."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.server.grants import DISCUSS, READ, WRITE, Grants
from hubkit.server.http import SMALL_LIMIT, Call, Refusal, Spec

_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
_SUBJECT = "urn:ietf:params:oauth:token-type:id_token"
_LIVES = 3600


def exchange(call: Call) -> Response:
    """RFC 8693: ``{grant_type, subject_token_type, subject_token, resource}`` for ``{access_token, expires_in}``."""
    if call.text("grant_type") != _GRANT or call.text("subject_token_type") != _SUBJECT:
        raise Refusal(400, "unsupported_grant_type: this Hub exchanges id tokens only.")
    repo = call.hub.store.find("model", call.text("resource"))
    for account, secret, wanted in call.hub.accounts.publishers(repo.uid) if repo else ():
        claims = _claims(call.text("subject_token"), secret)
        if claims is None or claims.get("aud") != call.base or not float(claims.get("exp") or 0) > time.time():
            continue
        if all(claims.get(name) == value for name, value in wanted.items()):
            assert repo is not None
            grants = Grants(scoped=(("model", repo.id.lower(), frozenset({READ, WRITE, DISCUSS})),))
            token = call.hub.accounts.add_token(account, label="trusted publisher", grants=grants, lives=_LIVES)
            return JSONResponse({"access_token": token, "token_type": "bearer", "expires_in": _LIVES})
    raise Refusal(400, "invalid_grant: no trusted publisher of this repo matches the token.")


def _claims(token: str, secret: str) -> dict[str, Any] | None:
    """The claims of a JSON Web Token signed by HMAC-SHA256 with ``secret``; None when it is not."""
    head, _, signature = token.rpartition(".")
    wanted = hmac.new(secret.encode(), head.encode(), hashlib.sha256).digest()
    try:
        if not hmac.compare_digest(_decoded(signature), wanted):
            return None
        header, claims = (json.loads(_decoded(part)) for part in head.split("."))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) and header == {"alg": "HS256", "typ": "JWT"} else None


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


SPECS = [Spec("POST", "/oauth/token", exchange, "json", anonymous=True, limit=SMALL_LIMIT)]
