"""Who sent a request: the owner of its token, or for pages the person who logged in with this browser."""

from __future__ import annotations

import base64
import binascii

from hubkit.server.accounts.accounts import Actor
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.request import Request


def authenticate(request: Request, *, cookie: bool) -> Actor | None:
    """The caller, None without credentials; 401 for an unknown token, even where none is needed.

    ``cookie``: a browser's login counts too, for reading only.
    """
    header = request.headers.get("authorization")
    if not header:
        return request.hub.sessions.actor(request) if cookie and request.method in {"GET", "HEAD"} else None
    scheme, _, credentials = header.partition(" ")
    token = credentials.strip()
    if scheme.lower() == "basic":
        token = _basic_password(token)
    elif scheme.lower() != "bearer":
        token = ""
    actor = request.hub.accounts.identify(token) if token else None
    if actor is None:
        raise HTTPException(401, "Invalid credentials in Authorization header")
    return actor


def _basic_password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
