"""Git LFS: the batch call, and the transfers at addresses that the server has signed."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.server.http import Call, Refusal, Spec, whole
from hubkit.server.objects import OID
from hubkit.server.routes.common import find_repo, need_files, web
from hubkit.server.routes.resolve import send_file
from hubkit.server.routes.upload import need_propose
from hubkit.server.store import Repo

_MEDIA = "application/vnd.git-lfs+json"
MOST_BYTES = 2**40
_BATCH = 10_000


def batch(call: Call) -> Response:
    """For each object: where to send it, where to get it, or nothing when it is here already."""
    repo = find_repo(call)
    value = call.fields()
    operation, objects = value.get("operation"), value.get("objects")
    if operation not in ("upload", "download") or not isinstance(objects, list) or len(objects) > _BATCH:
        raise Refusal(422, "The batch needs an 'operation' (upload or download) and its 'objects'.")
    if value.get("hash_algo", "sha256") != "sha256":
        raise Refusal(409, "Objects are named by their sha256 here.")
    if operation == "upload":
        need_propose(call, repo)
    else:
        need_files(call, repo)
    answers = [_object(call, repo, item, operation) for item in objects]
    return JSONResponse({"transfer": "basic", "objects": answers, "hash_algo": "sha256"}, media_type=_MEDIA)


def _object(call: Call, repo: Repo, item: Any, operation: str) -> dict[str, Any]:
    oid, size = (item.get("oid"), item.get("size")) if isinstance(item, dict) else (None, None)
    if not isinstance(oid, str) or not OID.fullmatch(oid) or not isinstance(size, int) or not 0 <= size <= MOST_BYTES:
        return {"oid": str(oid)[:64], "size": 0, "error": {"code": 422, "message": "Not a sha256 with a size."}}
    answer: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
    objects = call.hub.objects
    place = f"{call.base}/lfs/{repo.uid}/{oid}"
    if operation == "download":
        if not objects.has(repo.uid, oid):
            return answer | {"error": {"code": 404, "message": "Object does not exist"}}
        return answer | {"actions": {"download": {"href": f"{place}?{objects.sign('get', repo.uid, oid, size)}"}}}
    stored = call.hub.claim_object(repo, oid, call.actor)
    if stored is not None and not _sound(call, oid):
        stored = None  # damaged on disk: sent again, it is whole again
    if stored is not None and stored != size:
        return answer | {"error": {"code": 422, "message": f"This object has {stored} bytes."}}
    if stored is None:
        answer["actions"] = {
            "upload": {"href": f"{place}?{objects.sign('put', repo.uid, oid, size)}"},
            "verify": {"href": f"{call.base}/{repo.web}.git/info/lfs/verify"},
        }
    return answer


def _sound(call: Call, oid: str) -> bool:
    try:
        return call.hub.objects.sound(oid)
    except FileNotFoundError:
        return False


def _signed(call: Call, action: str) -> tuple[Repo, str, int]:
    """Repo, object and size of a signed address; 403 when it was not signed here or has expired."""
    uid, oid = call.params["uid"], call.params["oid"]
    size, expires = whole(call.query.get("size"), 0, most=MOST_BYTES), whole(call.query.get("expires"), 0)
    signature = call.query.get("signature", "")
    if not OID.fullmatch(oid) or not call.hub.objects.signed(action, uid, oid, size, expires, signature):
        raise Refusal(403, "The address of this transfer is not valid any more.")
    repo = call.hub.store.by_uid(uid)
    if repo is None:
        raise Refusal(404, "The repo of this transfer is gone.")
    return repo, oid, size


def check_put(call: Call) -> None:
    """Refuse an upload before its body is read."""
    _, _, size = _signed(call, "put")
    call.most = size
    length = call.request.headers.get("content-length")
    if length is not None and length != str(size):
        raise Refusal(400, f"The object has {size} bytes; {length[:20]} were announced.")


def put(call: Call) -> Response:
    """Take an object in, when it is what its name says."""
    repo, oid, size = _signed(call, "put")
    assert call.spooled is not None
    if call.spooled.size != size or call.spooled.sha256 != oid:
        raise Refusal(400, f"The bytes that arrived are not the object {oid}: send them again.")
    call.hub.objects.keep(call.spooled.path, repo.uid, oid, size)
    return Response(status_code=200, headers={"ETag": f'"{oid}"'})


def get(call: Call) -> Response:
    """Send an object out."""
    repo, oid, _ = _signed(call, "get")
    if not call.hub.objects.has(repo.uid, oid):
        raise Refusal(404, "Object does not exist")
    return send_file(call, call.hub.objects.path(oid), {"ETag": f'"{oid}"', "Content-Type": "application/octet-stream"})


def verify(call: Call) -> Response:
    """Whether an object has arrived whole."""
    repo = find_repo(call)
    need_propose(call, repo)
    oid, size = call.fields().get("oid"), call.fields().get("size")
    if not isinstance(oid, str) or not OID.fullmatch(oid) or not call.hub.objects.has(repo.uid, oid):
        raise Refusal(404, "Object does not exist")
    if call.hub.objects.size(oid) != size:
        raise Refusal(422, "The object has another size.")
    return JSONResponse({}, media_type=_MEDIA)


SPECS = [
    Spec("PUT", "/lfs/{uid}/{oid}", put, "file", anonymous=True, limit=MOST_BYTES, before=check_put),
    Spec("GET", "/lfs/{uid}/{oid}", get),
    *web("POST", ".git/info/lfs/objects/batch", batch, "json", anonymous=True),
    *web("POST", ".git/info/lfs/verify", verify, "json"),
]
