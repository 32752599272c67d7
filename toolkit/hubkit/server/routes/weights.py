"""The headers of all safetensors files of a model that has an index, in one response."""

from __future__ import annotations

import json
import posixpath
from typing import Any

from starlette.responses import Response

from hubkit.core.bounded_json import INDEX, JsonError, load_json
from hubkit.core.numbers import counted
from hubkit.server.http.access import find_readable_repo
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Route
from hubkit.server.repos.git import Git
from hubkit.server.repos.reader import Entry
from hubkit.server.repos.safetensors import Header, header_at, header_of, length_at, read_index
from hubkit.server.repos.store import Repo
from hubkit.server.smart.turns import Turns

_MOST_FILES, _MOST_BYTES = 1000, 64 * 2**20
"""Files that an index may name here, and bytes of their headers together: the largest models that are published have a
quarter of that. An index may name one large file a thousand times.
"""
# Reading a header takes many times its length for a moment.
_TURNS = Turns(4, 2, 60.0)


def metadata(request: Request) -> Response:
    """The metadata of an index and the headers of its files, at the head of ``main``."""
    repo = find_readable_repo(request)
    git, path = request.hub.store.git(repo), request.path_params["path"]
    commit = git.head()
    content = _content(request, repo, git, _entry(git, commit, path))
    index = read_index(content)
    files = sorted({file for _, file in index.files})
    if index.problem or len(files) > _MOST_FILES:
        raise HTTPException(400, f"{path} {index.problem or 'names too many files'}.")
    pieces, left = [b'{"index":', _json({"metadata": _index_metadata(content)}), b',"headers":{'], _MOST_BYTES
    for number, file in enumerate(files):
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
        entry = _entry(git, commit, place)
        left -= _length(request, repo, entry)
        if left < 0:
            raise HTTPException(
                400,
                f"The headers of the files that {path} names have more than {counted(_MOST_BYTES, 'byte')} together.",
            )
        shown = _json(_shown(place, _header(request, repo, git, entry)))
        pieces += [b"," if number else b"", _json(file), b":", shown]
    return Response(b"".join([*pieces, b"}}"]), media_type="application/json")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _entry(git: Git, commit: str, path: str) -> Entry:
    entry = git.entry(commit, path)
    if entry is None or entry.folder:
        raise HTTPException(404, f"Entry not found: {path}", "EntryNotFound", headers={"X-Repo-Commit": commit})
    return entry


def _content(request: Request, repo: Repo, git: Git, entry: Entry) -> bytes:
    if entry.size > INDEX.bytes:
        raise HTTPException(400, f"{entry.path} is too large for an index.")
    if entry.pointer is None:
        return git.blob(entry.oid)
    if not request.hub.lfs.require_sound(repo.uid, entry.pointer.oid, entry.pointer.size):
        raise HTTPException(404, f"The content of {entry.path} was never uploaded.", "EntryNotFound")
    return request.hub.lfs.path(entry.pointer.oid).read_bytes()


def _length(request: Request, repo: Repo, entry: Entry) -> int:
    """Bytes that are read for the header of a file: of a small one all."""
    if entry.pointer is None:
        return entry.size
    oid = entry.pointer.oid
    return length_at(request.hub.lfs.path(oid)) if request.hub.lfs.has(repo.uid, oid) else 0


def _header(request: Request, repo: Repo, git: Git, entry: Entry) -> Header:
    if entry.pointer is None:
        return header_of(git.blob(entry.oid))
    if not request.hub.lfs.has(repo.uid, entry.pointer.oid):
        raise HTTPException(404, f"The content of {entry.path} was never uploaded.", "EntryNotFound")
    return header_at(request.hub.lfs.path(entry.pointer.oid))


def _shown(path: str, header: Header) -> dict[str, Any]:
    """A header as it is in the file."""
    if header.problem:
        raise HTTPException(400, f"{path} {header.problem}.")
    tensors = {
        item.name: {"dtype": item.dtype, "shape": list(item.shape), "data_offsets": [item.start, item.end]}
        for item in header.tensors
    }
    return {"__metadata__": dict(header.metadata), **tensors}


def _index_metadata(content: bytes) -> Any:
    """What the index says of all files together, with its numbers as numbers."""
    try:
        value = load_json(content, INDEX)
    except JsonError:
        return None
    found = value.get("metadata") if isinstance(value, dict) else None
    return (
        {key: item for key, item in found.items() if isinstance(item, str | int)} if isinstance(found, dict) else None
    )


ROUTES = [
    Route(
        "GET",
        "/api/models/{ns}/{name}/safetensors-metadata/{path:path}",
        metadata,
        path_params={"kind": "models"},
        turn=_TURNS.turn,
    ),
]
