"""Git LFS: the batch endpoint, and the transfers at addresses that the server has signed."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.server.http.access import find_repo, require_propose, require_read
from hubkit.server.http.bodies import BATCH_LIMIT, SMALL_LIMIT
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.files import send_file
from hubkit.server.http.parsing import parse_int
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Route, repo_routes
from hubkit.server.repos.lfs import OID
from hubkit.server.repos.store import Repo

_MEDIA = "application/vnd.git-lfs+json"
MOST_BYTES = 2**40
_BATCH = 1000


def batch(request: Request) -> Response:
    """For each object: its upload or download address; no address when it was uploaded already."""
    repo = find_repo(request)
    value = request.json_object()
    operation, objects = value.get("operation"), value.get("objects")
    if operation not in ("upload", "download") or not isinstance(objects, list) or len(objects) > _BATCH:
        raise HTTPException(422, "The batch needs an 'operation' (upload or download) and its 'objects'.")
    if value.get("hash_algo", "sha256") != "sha256":
        raise HTTPException(409, "Objects are named by their sha256 here.")
    if operation == "upload":
        require_propose(request, repo)
    else:
        require_read(request, repo)
    results = [_batch_result(request, repo, item, operation) for item in objects]
    return JSONResponse({"transfer": "basic", "objects": results, "hash_algo": "sha256"}, media_type=_MEDIA)


def _batch_result(request: Request, repo: Repo, item: Any, operation: str) -> dict[str, Any]:
    oid, size = (item.get("oid"), item.get("size")) if isinstance(item, dict) else (None, None)
    if not isinstance(oid, str) or not OID.fullmatch(oid) or not isinstance(size, int) or not 0 <= size <= MOST_BYTES:
        return {"oid": str(oid)[:64], "size": 0, "error": {"code": 422, "message": "Not a sha256 with a size."}}
    result: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
    lfs = request.hub.lfs
    url = f"{request.origin}/lfs/{repo.uid}/{oid}"
    if operation == "download":
        if not lfs.has(repo.uid, oid):
            return result | {"error": {"code": 404, "message": "Object does not exist"}}
        return result | {"actions": {"download": {"href": f"{url}?{lfs.sign('get', repo.uid, oid, size)}"}}}
    stored = request.hub.claim_object(repo, oid, request.actor)
    if stored is not None and not _is_intact(request, oid):
        stored = None  # damaged on disk: the client uploads it again
    if stored is not None and stored != size:
        return result | {"error": {"code": 422, "message": f"Wrong size: expected {stored} bytes."}}
    if stored is None:
        result["actions"] = {
            "upload": {"href": f"{url}?{lfs.sign('put', repo.uid, oid, size)}"},
            "verify": {"href": f"{request.origin}/{repo.web}.git/info/lfs/verify"},
        }
    return result


def _is_intact(request: Request, oid: str) -> bool:
    try:
        return request.hub.lfs.is_intact(oid)
    except FileNotFoundError:
        return False


def _verify_signature(request: Request, action: str) -> tuple[Repo, str, int]:
    """Repo, object and size of a signed address; 403 when it was not signed here or has expired."""
    uid, oid = request.path_params["uid"], request.path_params["oid"]
    size, expires = (
        parse_int(request.query_params.get("size"), 0, most=MOST_BYTES),
        parse_int(request.query_params.get("expires"), 0),
    )
    signature = request.query_params.get("signature", "")
    if not OID.fullmatch(oid) or not request.hub.lfs.is_signed(action, uid, oid, size, expires, signature):
        raise HTTPException(403, "The URL of this transfer is invalid or has expired.")
    repo = request.hub.store.by_uid(uid)
    if repo is None:
        raise HTTPException(404, "The repo of this transfer does not exist.")
    return repo, oid, size


def check_put(request: Request) -> None:
    """Refuse an upload before its body is read."""
    _, _, size = _verify_signature(request, "put")
    request.body_limit = size
    length = request.headers.get("content-length")
    if length is not None and length != str(size):
        raise HTTPException(400, f"Wrong Content-Length: expected {size} bytes, got {length[:20]}.")


def put(request: Request) -> Response:
    """Store an uploaded object, when its size and sha256 are right."""
    repo, oid, size = _verify_signature(request, "put")
    assert request.spooled is not None
    if request.spooled.size != size or request.spooled.sha256 != oid:
        raise HTTPException(
            400, f"The received bytes do not match {oid}: expected {size} bytes with that sha256. Upload them again."
        )
    request.hub.lfs.keep(request.spooled.path, repo.uid, oid, size)
    return Response(status_code=200, headers={"ETag": f'"{oid}"'})


def get(request: Request) -> Response:
    """Download an object."""
    repo, oid, _ = _verify_signature(request, "get")
    if not request.hub.lfs.has(repo.uid, oid):
        raise HTTPException(404, "Object does not exist")
    return send_file(
        request, request.hub.lfs.path(oid), {"ETag": f'"{oid}"', "Content-Type": "application/octet-stream"}
    )


def verify(request: Request) -> Response:
    """200 when an object was uploaded with the size that the client gives."""
    repo = find_repo(request)
    require_propose(request, repo)
    oid, size = request.json_object().get("oid"), request.json_object().get("size")
    if not isinstance(oid, str) or not OID.fullmatch(oid) or not request.hub.lfs.has(repo.uid, oid):
        raise HTTPException(404, "Object does not exist")
    if request.hub.lfs.size(oid) != size:
        raise HTTPException(422, f"Wrong size: expected {request.hub.lfs.size(oid)} bytes.")
    return JSONResponse({}, media_type=_MEDIA)


ROUTES = [
    Route("PUT", "/lfs/{uid}/{oid}", put, "file", anonymous=True, limit=MOST_BYTES, before=check_put),
    Route("GET", "/lfs/{uid}/{oid}", get),
    *repo_routes("POST", ".git/info/lfs/objects/batch", batch, "json", anonymous=True, limit=BATCH_LIMIT),
    *repo_routes("POST", ".git/info/lfs/verify", verify, "json", limit=SMALL_LIMIT),
]
