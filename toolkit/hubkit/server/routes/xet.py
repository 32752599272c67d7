"""Xet: tokens for it, and what its clients send and ask for. The formats and the store are in ``server.xet``."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from hubkit.server.http.access import find_readable_repo, find_repo, require_propose
from hubkit.server.http.bodies import TEXT_LIMIT
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.files import parse_range
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Route, api_route
from hubkit.server.http.transfers import signed_transfer
from hubkit.server.http.xet_access import authenticate_xet, granted_repo, may_read, sender_of, token_headers
from hubkit.server.repos.store import Repo
from hubkit.server.repos.transfers import Transfer
from hubkit.server.smart.turns import Turns
from hubkit.server.xet import chunk_list, shards, xorbs
from hubkit.server.xet.downloads import as_xorb, spans
from hubkit.server.xet.grants import Scope
from hubkit.server.xet.hashes import HEX, from_hex

_Place = tuple[str, str, dict[str, int], dict[str, int]]


def read_token(request: Request) -> Response:
    """A token to read files of the repo by Xet."""
    return _token(request, find_readable_repo(request), "read")


def write_token(request: Request) -> Response:
    """A token to upload files to the repo by Xet: for whoever may commit to it or propose a change."""
    repo = find_repo(request)
    require_propose(request, repo)
    request.hub.xet.expire()
    return _token(request, repo, "write")


def _token(request: Request, repo: Repo, scope: Scope) -> Response:
    headers = token_headers(request, repo, scope)
    url, token, expires = headers.values()
    body = {"casUrl": url, "accessToken": token, "exp": int(expires)}
    return JSONResponse(body, headers=headers | {"Cache-Control": "private, no-store"})


def check_upload(request: Request) -> None:
    """Refuse who may not upload before the body is read."""
    granted_repo(request, "write")
    if "hash" in request.path_params:
        _hash(request)


def put_xorb(request: Request) -> Response:
    """Keep a xorb until a shard says which files it is of."""
    assert request.spooled is not None
    inserted = request.hub.xet.pending.keep(sender_of(request).token, request.spooled.file, from_hex(_hash(request)))
    return JSONResponse({"was_inserted": inserted})


def put_shard(request: Request) -> Response:
    """Store the files that a shard names."""
    assert request.spooled is not None
    request.hub.xet.intake.register(request.spooled.file, sender_of(request))
    return JSONResponse({"result": 1})


def get_chunk(request: Request) -> Response:
    """A shard with a chunk and its neighbors, when the caller may read a file that has it."""
    granted_repo(request, "write")
    shard = request.hub.xet.dedupe(_hash(request), partial(may_read, request))
    if shard is None:
        raise HTTPException(404, "This chunk is not known here.")
    return Response(shard, media_type="application/octet-stream", headers={"Cache-Control": "private, no-store"})


def reconstruction(request: Request) -> Response:
    """Of which xorbs a file, or the range of it that is asked for, consists; each with its addresses."""
    answer, places = _reconstruction(request)
    info: dict[str, list[Any]] = {}
    for url, xorb, span, chunks in places:
        info.setdefault(xorb, []).append({"url": url, "url_range": span, "range": chunks})
    return JSONResponse(answer | {"fetch_info": info})


def reconstruction_v2(request: Request) -> Response:
    """As :func:`reconstruction`, in the second version of the answer."""
    answer, places = _reconstruction(request)
    info: dict[str, list[Any]] = {}
    for url, xorb, span, chunks in places:
        info.setdefault(xorb, []).append({"url": url, "ranges": [{"chunks": chunks, "bytes": span}]})
    return JSONResponse(answer | {"xorbs": info})


def _reconstruction(request: Request) -> tuple[dict[str, Any], list[_Place]]:
    """What both versions have, and where each run of chunks is: its address, its xorb, the bytes, the chunks."""
    name, hub, repo = _hash(request), request.hub, granted_repo(request, "read")
    oid = hub.xet.index.oid_of(name)
    size = hub.lfs.size(oid) if oid else None
    if oid is None or size is None or not hub.lfs.require_sound(repo.uid, oid, size):
        raise HTTPException(404, "This file is not known here.")
    start, end = parse_range(request.headers.get("range"), size) or (0, size)
    query = hub.transfers.sign(Transfer("get", repo, oid, size, request.actor), hub.transfers.batch())
    found = spans(hub.xet.index, name, start, end)
    terms: list[dict[str, Any]] = []
    places: dict[tuple[str, int, int], _Place] = {}  # parts of one file may be the same xorb: all zeros, say
    for span in found:
        chunks = {"start": span.first, "end": span.last}
        terms.append({"hash": span.part.xorb, "unpacked_length": span.length, "range": chunks})
        url = f"{request.origin}/api/xet/data/{repo.uid}/{name}/{span.part.first}?{query}"
        place = (url, span.part.xorb, {"start": span.start, "end": span.end - 1}, chunks)
        places[span.part.xorb, span.first, span.last] = place
    offset = start - found[0].offset if found else 0
    return {"offset_into_first_range": offset, "terms": terms}, list(places.values())


def data(request: Request) -> Response:
    """A part of a stored file as a xorb, or the range of it that is asked for; the address is signed."""
    hub, name = request.hub, _hash(request)
    oid, number = hub.xet.index.oid_of(name), request.path_params["first"]
    transfer = signed_transfer(request, "get", hub.store.by_uid(request.path_params["uid"]), oid or "")
    part = next((part for part in hub.xet.index.parts(name) if str(part.first) == number), None)
    if oid is None or part is None or not hub.lfs.require_sound(transfer.repo.uid, oid, transfer.size):
        raise HTTPException(404, "This file is not known here.")
    size = chunk_list.framed(part.length, part.last - part.first)
    span = parse_range(request.headers.get("range"), size)
    start, end = span or (0, size)
    headers = {"Content-Length": str(end - start), "Cache-Control": "private, no-store", "Accept-Ranges": "bytes"}
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    body = as_xorb(hub.xet, name, oid, part, start, end)
    return StreamingResponse(body, 206 if span else 200, headers, media_type="application/octet-stream")


def telemetry(request: Request) -> Response:
    """Nothing is done with it."""
    return JSONResponse({})


def _hash(request: Request) -> str:
    value = request.path_params["hash"]
    if not HEX.fullmatch(value):
        raise HTTPException(400, "A hash has 64 hexadecimal digits, in lower case.")
    return value


# A small shard may name millions of chunks.
_SHARDS = Turns(3, 2, 60.0)
_CAS = partial(Route, identify=authenticate_xet)
_AT = "/api/xet/{address}"

ROUTES = [
    api_route("GET", "/xet-read-token/{rev}", read_token),
    api_route("GET", "/xet-write-token/{rev}", write_token),
    Route("GET", "/api/xet/data/{uid}/{hash}/{first}", data),
    _CAS("POST", f"{_AT}/v1/xorbs/default/{{hash}}", put_xorb, "file", limit=xorbs.BODY_LIMIT, before=check_upload),
    _CAS(
        "POST", f"{_AT}/v1/shards", put_shard, "file", limit=shards.BODY_LIMIT, before=check_upload, turn=_SHARDS.turn
    ),
    _CAS("GET", f"{_AT}/v1/chunks/{{prefix}}/{{hash}}", get_chunk),
    _CAS("GET", f"{_AT}/v1/reconstructions/{{hash}}", reconstruction),
    _CAS("GET", f"{_AT}/v2/reconstructions/{{hash}}", reconstruction_v2),
    _CAS("POST", f"{_AT}/v1/telemetry", telemetry, "json", anonymous=True, limit=TEXT_LIMIT),
]
