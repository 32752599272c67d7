"""Logins of browsers, by a link, for pages only: a key that works once becomes a cookie that may read, never write.

The cookie counts for pages and for files of ``resolve`` and ``raw`` (the images of a private card). It is never
read below ``/api``, so no page can make a browser send an API request in the user's name.

One thing it cannot keep out: browsers send the cookies of a host to all of its ports. A program that listens on
another port of 127.0.0.1, and whose page the user opens there, is sent the cookie, and can read by it what the user
can read until the login ends. Spaces are served under ``localhost`` for that reason; logging out ends it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from dataclasses import dataclass, replace

from starlette.requests import Request

from hubkit.server.accounts.accounts import Accounts, Actor

KEY_SECONDS = 60.0
SESSION_SECONDS = 12 * 3600.0
_MOST = 1000
LOCAL = re.compile(r"/(?![/\\])[!-~]{0,2000}")
"""A path of this Hub, as a redirect may lead to it: ``//host`` and ``/\\host`` would lead away."""


@dataclass(frozen=True)
class _Grant:
    """The token behind a key or cookie: when the token is revoked, the grant ends."""

    token: str
    until: float
    next: str = "/"


class Sessions:
    """Keys and cookies, kept as digests in memory: a restart of the Hub ends all logins."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts, self._lock = accounts, threading.Lock()
        self._keys: dict[str, _Grant] = {}
        self._sessions: dict[str, _Grant] = {}

    def key(self, token: str, next_page: str) -> str:
        """A key that logs the owner of ``token`` in once, within a minute, and leads to ``next_page``."""
        return self._add(self._keys, _Grant(token, time.monotonic() + KEY_SECONDS, next_page))

    def redeem(self, key: str) -> tuple[str, str] | None:
        """The cookie's value and the page to go to, for a key that has not been used; else None."""
        with self._lock:
            grant = self._keys.pop(_digest(key), None)
        if grant is None or grant.until < time.monotonic():
            return None
        return self._add(self._sessions, replace(grant, until=time.monotonic() + SESSION_SECONDS)), grant.next

    def actor(self, request: Request) -> Actor | None:
        """The account that is logged in, with the right to read only."""
        grant = self._sessions.get(_digest(request.cookies.get(cookie_name(request), "")))
        if grant is None or grant.until < time.monotonic():
            return None
        actor = self._accounts.identify(grant.token)
        return replace(actor, role="read") if actor else None

    def end(self, request: Request) -> None:
        """End the session of a request."""
        with self._lock:
            self._sessions.pop(_digest(request.cookies.get(cookie_name(request), "")), None)

    def _add(self, grants: dict[str, _Grant], grant: _Grant) -> str:
        value = secrets.token_urlsafe(32)
        with self._lock:
            for digest in [digest for digest, held in grants.items() if held.until < time.monotonic()]:
                del grants[digest]
            while len(grants) >= _MOST:
                del grants[next(iter(grants))]
            grants[_digest(value)] = grant
        return value


def cookie_name(request: Request) -> str:
    """The cookie's name; browsers send the cookies of all ports of a host to each, so it names this server's."""
    return f"hubkit_{request.scope['server'][1]}"


def own_address(request: Request) -> str:
    """``http://127.0.0.1:port`` for a request to ``localhost``, which is the host of the Spaces; else as it was sent.

    Behind a reverse proxy that is the public address.

    Browsers keep cookies by host and not by port, so pages and Spaces must not share one.
    """
    host, colon, port = request.headers["host"].rpartition(":")
    if not host or port.endswith("]"):
        host, colon, port = request.headers["host"], "", ""
    own = str(request.scope["server"][0])
    if host.lower() == "localhost":
        host = f"[{own}]" if ":" in own else own
    return f"{request.scope.get('scheme', 'http')}://{host}{colon}{port}"


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
