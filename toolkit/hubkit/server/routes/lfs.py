"""Git LFS: the batch endpoint, and the transfers at addresses that the server has signed."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.server.http.access import find_repo, repo_type, require_propose, require_read
from hubkit.server.http.bodies import BATCH_LIMIT, SMALL_LIMIT
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.files import send_object
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Route, repo_routes
from hubkit.server.http.transfers import MOST_BYTES, signed_transfer
from hubkit.server.http.xet_access import token_headers
from hubkit.server.repos.lfs import MEDIA, OID
from hubkit.server.repos.store import Repo
from hubkit.server.repos.transfers import SECONDS, Action, Transfer

_SHA256 = ("sha256", "sha_256")  # @huggingface/hub writes the second
_BATCH = 1000


def batch(request: Request) -> Response:
    """For each object: its upload or download address; no address when it was uploaded already."""
    repo = find_repo(request)
    value = request.json_object()
    operation, objects = value.get("operation"), value.get("objects")
    if operation not in ("upload", "download") or not isinstance(objects, list) or len(objects) > _BATCH:
        raise HTTPException(422, "The batch needs an 'operation' (upload or download) and its 'objects'.")
    if value.get("hash_algo", "sha256") not in _SHA256:
        raise HTTPException(409, "Objects are named by their sha256 here.")
    if operation == "upload":
        require_propose(request, repo)
    else:
        require_read(request, repo)
    name = request.hub.transfers.batch()
    results = [_batch_result(request, repo, item, operation, name) for item in objects]
    transfer, offered = "basic", value.get("transfers")
    if operation == "upload" and isinstance(offered, list) and "xet" in offered:
        transfer = "xet"
        _by_xet(request, repo, results)
    return JSONResponse({"transfer": transfer, "objects": results, "hash_algo": "sha256"}, media_type=MEDIA)


def _by_xet(request: Request, repo: Repo, results: list[dict[str, Any]]) -> None:
    """Let git-xet upload the objects: it is given a token, and where to get the next one."""
    headers = token_headers(request, repo, "write")
    href = f"{request.origin}/api/{repo.type}s/{repo.id}/xet-write-token/main"
    for result in results:
        if "upload" in result.get("actions", {}):
            result["actions"]["upload"] |= {"href": href, "header": headers}


def _batch_result(request: Request, repo: Repo, item: Any, operation: str, batch: str) -> dict[str, Any]:
    oid, size = (item.get("oid"), item.get("size")) if isinstance(item, dict) else (None, None)
    if not isinstance(oid, str) or not OID.fullmatch(oid) or not isinstance(size, int) or not 0 <= size <= MOST_BYTES:
        return {"oid": str(oid)[:64], "size": 0, "error": {"code": 422, "message": "Not a sha256 with a size."}}
    result: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
    lfs = request.hub.lfs
    url = f"{request.origin}/lfs/{repo.uid}/{oid}"

    def signed(action: Action, address: str = url) -> dict[str, Any]:
        query = request.hub.transfers.sign(Transfer(action, repo, oid, size, request.actor), batch)
        return {"href": f"{address}?{query}", "expires_in": SECONDS}

    if operation == "download":
        if not lfs.has(repo.uid, oid):
            return result | {"error": {"code": 404, "message": "Object does not exist"}}
        return result | {"actions": {"download": signed("get")}}
    stored = request.hub.claim_object(repo, oid, request.actor)
    if stored is not None and not _is_intact(request, oid):
        stored = None  # damaged on disk: the client uploads it again
    if stored is not None and stored != size:
        return result | {"error": {"code": 422, "message": f"Wrong size: expected {stored} bytes."}}
    if stored is None:
        result["actions"] = {
            "upload": signed("put"),
            "verify": signed("verify", f"{request.origin}/{repo.web}.git/info/lfs/verify"),
        }
    return result


def _is_intact(request: Request, oid: str) -> bool:
    try:
        return request.hub.lfs.is_intact(oid)
    except FileNotFoundError:
        return False


def _of_object(request: Request, action: Action, *, begun: bool = False) -> Transfer:
    repo = request.hub.store.by_uid(request.path_params["uid"])
    return signed_transfer(request, action, repo, request.path_params["oid"], begun=begun)


def check_put(request: Request) -> None:
    """Refuse an upload before its body is read."""
    request.body_limit = size = _of_object(request, "put").size
    length = request.headers.get("content-length")
    if length is not None and length != str(size):
        raise HTTPException(400, f"Wrong Content-Length: expected {size} bytes, got {length[:20]}.")
    request.at_end.append(request.hub.transfers.begin(request.query_params["batch"]))


def put(request: Request) -> Response:
    """Store an uploaded object, when its size and sha256 are right."""
    transfer = _of_object(request, "put", begun=True)
    repo, oid, size = transfer.repo, transfer.oid, transfer.size
    assert request.spooled is not None
    if request.spooled.size != size or request.spooled.sha256 != oid:
        raise HTTPException(
            400, f"The received bytes do not match {oid}: expected {size} bytes with that sha256. Upload them again."
        )
    request.hub.lfs.keep(request.spooled.file, repo.uid, oid, size)
    return Response(status_code=200, headers={"ETag": f'"{oid}"'})


def get(request: Request) -> Response:
    """Download an object."""
    transfer = _of_object(request, "get")
    repo, oid = transfer.repo, transfer.oid
    if not request.hub.lfs.require_sound(repo.uid, oid, transfer.size):
        raise HTTPException(404, "Object does not exist")
    headers = {"ETag": f'"{oid}"', "Content-Type": "application/octet-stream", "Cache-Control": "private, no-store"}
    return send_object(request, oid, transfer.size, headers)


def verify(request: Request) -> Response:
    """200 when an object was uploaded with the size that the client gives.

    The address is signed as that of the upload is: git-lfs sends no token to it, because the batch says that it needs
    none. A client that sends one needs no signature.
    """
    oid, size = request.json_object().get("oid"), request.json_object().get("size")
    if request.actor is None and "signature" in request.query_params:
        repo = signed_transfer(request, "verify", _named_repo(request), str(oid)).repo
    else:
        repo = find_repo(request)
        require_propose(request, repo)
    if not isinstance(oid, str) or not OID.fullmatch(oid) or not request.hub.lfs.has(repo.uid, oid):
        raise HTTPException(404, "Object does not exist")
    if request.hub.lfs.size(oid) != size:
        raise HTTPException(422, f"Wrong size: expected {request.hub.lfs.size(oid)} bytes.")
    return JSONResponse({}, media_type=MEDIA)


def _named_repo(request: Request) -> Repo | None:
    """The repo that the path names, whoever asks: a signature says whether it may be known of."""
    params = request.path_params
    return request.hub.store.find(repo_type(params["kind"]), f"{params['ns']}/{params['name']}")


ROUTES = [
    Route("PUT", "/lfs/{uid}/{oid}", put, "file", anonymous=True, limit=MOST_BYTES, before=check_put, hashed=True),
    Route("GET", "/lfs/{uid}/{oid}", get),
    *repo_routes("POST", ".git/info/lfs/objects/batch", batch, "json", anonymous=True, limit=BATCH_LIMIT),
    *repo_routes("POST", ".git/info/lfs/verify", verify, "json", anonymous=True, limit=SMALL_LIMIT),
]
