"""Files by name: HEAD returns their headers, GET their content or a byte range of it."""

from __future__ import annotations

from starlette.responses import Response

from hubkit.server.http.access import find_readable_repo
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.files import disposition, media_type, send_bytes, send_object
from hubkit.server.http.request import Request
from hubkit.server.http.revisions import require_commit
from hubkit.server.http.routing import repo_routes
from hubkit.server.repos.store import Repo


def resolve(request: Request) -> Response:
    """A file at a revision; of a large file its content."""
    return _file(request, pointer=False)


def raw(request: Request) -> Response:
    """A file at a revision as git keeps it; of a large file the pointer."""
    return _file(request, pointer=True)


def _file(request: Request, *, pointer: bool) -> Response:
    repo = find_readable_repo(request)
    git = request.hub.store.git(repo)
    commit = require_commit(git, request.path_params["rev"])
    path = request.path_params["path"]
    entry = git.entry(commit, path)
    if entry is None or entry.folder:
        raise HTTPException(404, f"Entry not found: {path}", "EntryNotFound", headers={"X-Repo-Commit": commit})
    # What not everybody may read must not stay in the cache of a browser for the next person, or after the login ends.
    closed = repo.private or repo.gated
    headers = {"Cache-Control": "private, no-store", "Vary": "Authorization, Cookie"} if closed else {}
    headers |= {
        "X-Repo-Commit": commit, "ETag": f'"{entry.etag}"', "Content-Type": media_type(path),
        "Content-Disposition": disposition(path, "attachment" if request.flag("download") else "inline"),
    }  # fmt: skip
    if entry.pointer is None or pointer:
        headers["ETag"] = f'"{entry.oid}"'
        return send_bytes(request, git.blob(entry.oid), headers)
    headers |= {"X-Linked-Size": str(entry.size), "X-Linked-Etag": f'"{entry.etag}"'}
    headers |= _xet(request, repo, commit, entry.pointer.oid)
    if not request.hub.lfs.require_sound(repo.uid, entry.pointer.oid, entry.pointer.size):
        raise HTTPException(404, "The content of this large file was never uploaded to this repo.", "EntryNotFound")
    return send_object(request, entry.pointer.oid, entry.size, headers)


def _xet(request: Request, repo: Repo, commit: str, oid: str) -> dict[str, str]:
    """The headers by which clients download a file by Xet, when it was uploaded so."""
    if (digest := request.hub.xet.index.hash_of(repo.uid, oid)) is None:
        return {}
    refresh = f"{request.origin}/api/{repo.type}s/{repo.id}/xet-read-token/{commit}"
    return {"X-Xet-Hash": digest, "X-Xet-Refresh-Route": refresh, "Link": f'<{refresh}>; rel="xet-auth"'}


ROUTES = [
    *repo_routes("GET", "/resolve/{rev}/{path:path}", resolve, cookie=True),
    *repo_routes("GET", "/raw/{rev}/{path:path}", raw, cookie=True),
]
