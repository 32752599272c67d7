"""The tokens that clients of Xet get for one repo: to read from it or to upload to it, for a quarter of an hour.

A token names the one that it was given to by number. Whether that one may still do what the token is for is asked at
each request (``http.xet_access``), so a token that is revoked ends all that were given to it.
"""

from __future__ import annotations

import hmac
import re
import time
from dataclasses import dataclass
from typing import Literal

from hubkit.server.accounts.accounts import Actor
from hubkit.server.repos.store import Repo

SECONDS = 900
Scope = Literal["read", "write"]
_FORM = re.compile(r"xet_([0-9]{1,15})_([0-9a-f]{32})_(read|write)_([0-9]{1,12})_([0-9a-f]{64})")


@dataclass(frozen=True)
class Grant:
    """What a token says, before it is known to be true."""

    number: int
    repo: str
    scope: Scope
    expires: int
    signature: str


class Grants:
    """Writes and reads these tokens."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def issue(self, scope: Scope, repo: Repo, actor: Actor | None) -> tuple[str, int]:
        """A token, and the time when it ends."""
        expires, number = int(time.time()) + SECONDS, actor.number if actor else 0
        signature = self._signature(scope, repo, actor, expires)
        return f"xet_{number}_{repo.uid}_{scope}_{expires}_{signature}", expires

    def read(self, token: str) -> Grant | None:
        """What a token says; None for anything else."""
        if (match := _FORM.fullmatch(token)) is None:
            return None
        scope: Scope = "write" if match[3] == "write" else "read"
        return Grant(int(match[1]), match[2], scope, int(match[4]), match[5])

    def is_signed(self, grant: Grant, repo: Repo, actor: Actor | None) -> bool:
        """Whether a token was issued here for exactly this, and has not ended."""
        expected = self._signature(grant.scope, repo, actor, grant.expires)
        return hmac.compare_digest(expected, grant.signature) and time.time() < grant.expires

    def _signature(self, scope: Scope, repo: Repo, actor: Actor | None, expires: int) -> str:
        digest = actor.digest if actor else "-"
        text = f"xet {scope} {repo.uid} {repo.id} {repo.private:d}{repo.gated} {digest} {expires}"
        return hmac.new(self._secret, text.encode(), "sha256").hexdigest()
