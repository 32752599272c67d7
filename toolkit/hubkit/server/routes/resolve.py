"""Files by name: HEAD tells what they are, GET sends them whole or in part."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from hubkit.server.git import Entry
from hubkit.server.http import Call, Refusal
from hubkit.server.routes.common import find_repo, need_commit, need_files, web

_BLOCK = 2**20
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_TEXT = re.compile(
    r".*\.(md|txt|json|jsonl|yaml|yml|py|csv|tsv|jinja|toml|cfg|ini|sh|gitattributes|gitignore|html|js|css|xml)",
    re.IGNORECASE,
)
IMAGES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp",
    ".avif": "image/avif", ".svg": "image/svg+xml",
}  # fmt: skip
"""What a page may show in an ``<img>``, where a drawing runs no script; opened by itself it stands in a sandbox."""


def resolve(call: Call) -> Response:
    """A file at a revision."""
    repo = find_repo(call)
    need_files(call, repo)
    git = call.hub.store.git(repo)
    commit = need_commit(git, call.params["rev"])
    path = call.params["path"]
    entry = git.entry(commit, path)
    if entry is None or entry.folder:
        raise Refusal(404, f"Entry not found: {path}", "EntryNotFound", headers={"X-Repo-Commit": commit})
    headers = {
        "X-Repo-Commit": commit, "ETag": f'"{entry.etag}"', "Content-Type": _media(path),
        "Content-Disposition": _disposition(path, "attachment" if call.flag("download") else "inline"),
    }  # fmt: skip
    if entry.pointer is None or call.params["way"] == "raw":
        headers["ETag"] = f'"{entry.oid}"'
        return send_bytes(call, git.blob(entry.oid), headers)
    headers |= {"X-Linked-Size": str(entry.size), "X-Linked-Etag": f'"{entry.etag}"'}
    return _large(call, entry, repo.uid, headers)


def _large(call: Call, entry: Entry, uid: str, headers: dict[str, str]) -> Response:
    assert entry.pointer is not None
    if not call.hub.objects.has(uid, entry.pointer.oid):
        raise Refusal(404, "The content of this large file was never uploaded to this repo.", "EntryNotFound")
    return send_file(call, call.hub.objects.path(entry.pointer.oid), headers)


def _media(path: str) -> str:
    """Nothing that a browser would run outside the sandbox of :func:`_prepare`: text is plain text."""
    if _TEXT.fullmatch(path.rsplit("/", 1)[-1]):
        return "text/plain; charset=utf-8"
    return IMAGES.get(Path(path).suffix.lower(), "application/octet-stream")


def _disposition(path: str, way: str) -> str:
    name = path.rsplit("/", 1)[-1]
    plain = re.sub(r'[^ -~]|["\\]', "_", name)
    return f"{way}; filename*=UTF-8''{quote(name, safe='')}; filename=\"{plain}\";"


def wanted_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last that ``Range`` asks for; None: everything. 416 when it cannot be met."""
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found[1], found[2]
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        if first and last and int(last) < int(first):
            return None
        raise Refusal(416, "The range is not within the file.", headers={"Content-Range": f"bytes */{size}"})
    return start, end


def _prepare(call: Call, size: int, headers: dict[str, str]) -> tuple[int, int, int]:
    """Status, start and end of what is to be sent; completes ``headers``."""
    headers |= {
        "Accept-Ranges": "bytes", "X-Content-Type-Options": "nosniff", "Date": formatdate(usegmt=True),
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    }  # fmt: skip
    if call.request.headers.get("if-none-match") == headers["ETag"]:
        return 304, 0, 0
    condition = call.request.headers.get("if-range")
    span = None if condition and condition != headers["ETag"] else wanted_range(call.request.headers.get("range"), size)
    start, end = span or (0, size)
    headers["Content-Length"] = str(end - start)
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return 206 if span else 200, start, end


def send_bytes(call: Call, content: bytes, headers: dict[str, str]) -> Response:
    """Answer with bytes in memory, or the part that ``Range`` asks for."""
    status, start, end = _prepare(call, len(content), headers)
    body = b"" if call.request.method == "HEAD" or status == 304 else content[start:end]
    return Response(body, status, headers)


def send_file(call: Call, path: Path, headers: dict[str, str]) -> Response:
    """Answer with a file on disk, or the part that ``Range`` asks for."""
    status, start, end = _prepare(call, path.stat().st_size, headers)
    if call.request.method == "HEAD" or status == 304:
        return Response(b"", status, headers)
    # Opened now: should the object go meanwhile, this answer is still whole.
    file = path.open("rb")

    def pieces() -> Iterator[bytes]:
        with file:
            file.seek(start)
            left = end - start
            while left > 0 and (piece := file.read(min(_BLOCK, left))):
                left -= len(piece)
                yield piece

    return StreamingResponse(pieces(), status, headers)


SPECS = [
    *web("GET", "/resolve/{rev}/{path:path}", resolve, way="resolve", cookie=True),
    *web("GET", "/raw/{rev}/{path:path}", resolve, way="raw", cookie=True),
]
