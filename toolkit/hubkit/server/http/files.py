"""Responses with the content of files: media types that are safe to open, conditional requests, byte ranges.

Not Starlette's FileResponse: it opens the file only when it sends it (an object may be deleted until then), has no
form for content in memory, and answers several ranges and malformed ones otherwise than the Hub.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

from starlette.responses import Response

from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.request import Request
from hubkit.server.http.sending import FileResponse
from hubkit.server.repos.lfs import READ_AT_ONCE

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_TEXT = re.compile(
    r".*\.(md|txt|json|jsonl|yaml|yml|py|csv|tsv|jinja|toml|cfg|ini|sh|gitattributes|gitignore|html|js|css|xml)",
    re.IGNORECASE,
)
IMAGES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp",
    ".avif": "image/avif", ".svg": "image/svg+xml",
}  # fmt: skip
"""Media types that pages show in an ``<img>``, where an SVG runs no script; opened alone it is sandboxed."""


def media_type(path: str) -> str:
    """The media type of a file by its name: text is plain text.

    Nothing that a browser would run outside the sandbox of :func:`_complete_headers`.
    """
    if _TEXT.fullmatch(path.rsplit("/", 1)[-1]):
        return "text/plain; charset=utf-8"
    return IMAGES.get(Path(path).suffix.lower(), "application/octet-stream")


def disposition(path: str, kind: str) -> str:
    """The ``Content-Disposition`` of a file; ``kind`` is ``inline`` or ``attachment``."""
    name = path.rsplit("/", 1)[-1]
    plain = re.sub(r'[^ -~]|["\\]', "_", name)
    return f"{kind}; filename*=UTF-8''{quote(name, safe='')}; filename=\"{plain}\";"


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last that ``Range`` asks for; None: everything. 416 when it cannot be met."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        if first and last and int(last) < int(first):
            return None
        raise HTTPException(416, "The range is not within the file.", headers={"Content-Range": f"bytes */{size}"})
    return start, end


def _complete_headers(request: Request, size: int, headers: dict[str, str]) -> tuple[int, int, int]:
    """Status, start and end of what is to be sent; completes ``headers``."""
    headers |= {
        "Accept-Ranges": "bytes", "X-Content-Type-Options": "nosniff", "Date": formatdate(usegmt=True),
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    }  # fmt: skip
    if request.headers.get("if-none-match") == headers["ETag"]:
        return 304, 0, 0
    condition = request.headers.get("if-range")
    span = None if condition and condition != headers["ETag"] else parse_range(request.headers.get("range"), size)
    start, end = span or (0, size)
    headers["Content-Length"] = str(end - start)
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return 206 if span else 200, start, end


def send_bytes(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    """A response with bytes in memory, or the part that ``Range`` asks for."""
    status, start, end = _complete_headers(request, len(content), headers)
    body = b"" if request.method == "HEAD" or status == 304 else content[start:end]
    return Response(body, status, headers)


def send_object(request: Request, oid: str, size: int, headers: dict[str, str]) -> Response:
    """A response with an LFS object that :meth:`LfsStore.require_sound` found sound, or with a part of it."""
    return send_file(request, request.hub.lfs.path(oid), headers, sha256=oid if size > READ_AT_ONCE else "")


def send_file(request: Request, path: Path, headers: dict[str, str], *, sha256: str = "") -> Response:
    """A response with a file on disk, or the part that ``Range`` asks for.

    With ``sha256`` the last piece of a whole file is sent only when the digest is right: else the connection breaks.
    """
    status, start, end = _complete_headers(request, path.stat().st_size, headers)
    if request.method == "HEAD" or status == 304:
        return Response(b"", status, headers)
    # Opened now: should the object be deleted meanwhile, this response is still complete.
    file = path.open("rb", buffering=0)
    return FileResponse(file, start, end, status, headers, sha256=sha256 if status == 200 else "")
