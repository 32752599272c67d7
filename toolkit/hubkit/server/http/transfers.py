"""The signed addresses of transfers, as requests bring them back."""

from __future__ import annotations

from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import parse_int
from hubkit.server.http.request import Request
from hubkit.server.repos.lfs import OID
from hubkit.server.repos.store import Repo
from hubkit.server.repos.transfers import Action, Transfer

MOST_BYTES = 2**40


def signed_transfer(request: Request, action: Action, repo: Repo | None, oid: str, *, begun: bool = False) -> Transfer:
    """What the address of the request allows; 403 when it was not signed here, has ended, or allows no longer.

    It has ended when its token was revoked or has expired, or when that token may not read or propose any more.
    """
    query, hub = request.query_params, request.hub
    size, expires = parse_int(query.get("size"), 0, most=MOST_BYTES), parse_int(query.get("expires"), 0)
    number = parse_int(query.get("token"), 0)
    actor = hub.accounts.numbered(number) if number else None
    if repo is not None and OID.fullmatch(oid) and (actor is not None or number == 0):
        transfer = Transfer(action, repo, oid, size, actor)
        signature = query.get("signature", "")
        may = hub.permissions.may_read if action == "get" else hub.permissions.may_propose
        signed = hub.transfers.is_signed(transfer, query.get("batch", ""), expires, signature, begun=begun)
        if signed and may(actor, repo):
            return transfer
    raise HTTPException(403, "The address of this transfer is invalid or has expired. Run the command again.")
