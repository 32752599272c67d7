"""The tensors and the metadata of safetensors files, a page of them at a time. No HTML here."""

from __future__ import annotations

import posixpath
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hubkit.server.pages.views import RepoView
from hubkit.server.repos.reader import Entry
from hubkit.server.repos.safetensors import Header, Tensor, header_at, header_of, read_index

ROWS = 100
"""Tensors of one page."""
_IN_GIT, _INDEX = 2**25, 2**25
"""Bytes of a file in git itself that is read, and of an index."""
_SHARDS = 200


@dataclass(frozen=True)
class TensorPage:
    """Some of the tensors of a file, or of all the files that an index names."""

    problem: str = ""
    rows: tuple[dict[str, Any], ...] = ()
    """``{name, tensor, file}``: ``tensor`` is None where it cannot be read, ``file`` is set in an index."""
    total: int = 0
    matching: int = 0
    parameters: int = 0
    types: tuple[tuple[str, int], ...] = ()
    bytes: int = 0
    metadata: tuple[tuple[str, str], ...] = ()
    left_out: int = 0
    damaged: int = 0
    files: int = 0


def is_index(path: str) -> bool:
    """Whether a file is the index of weights in several files."""
    return path.endswith(".safetensors.index.json")


def shown(view: RepoView, entry: Entry, search: str, number: int) -> TensorPage | None:
    """A page of the tensors of a file; None for what is neither safetensors nor an index, or is not stored here."""
    if is_index(entry.path):
        return _of_index(view, entry, search, number) if entry.size <= _INDEX and not entry.pointer else None
    if not entry.path.endswith(".safetensors"):
        return None
    header = _header(view, entry)
    if header is None:
        return None
    if header.problem:
        return TensorPage(f"{entry.path.rpartition('/')[2]} {header.problem}.")
    matching = [tensor for tensor in header.tensors if search.lower() in tensor.name.lower()]
    rows = [{"name": tensor.name, "tensor": tensor, "file": ""} for tensor in _page(matching, number)]
    return _summed(header.tensors, rows, len(header.tensors), len(matching), header.metadata, header.left_out)


def _header(view: RepoView, entry: Entry) -> Header | None:
    lfs = view.request.hub.lfs
    if entry.pointer:
        return header_at(lfs.path(entry.pointer.oid)) if lfs.has(view.repo.uid, entry.pointer.oid) else None
    return header_of(view.git.blob(entry.oid)) if entry.size <= _IN_GIT else None


def _page(items: list[Any], number: int) -> list[Any]:
    return items[number * ROWS : (number + 1) * ROWS]


def _summed(
    tensors: tuple[Tensor, ...], rows: list[dict[str, Any]], total: int, matching: int,
    metadata: tuple[tuple[str, str], ...], left_out: int = 0, files: int = 0,
) -> TensorPage:  # fmt: skip
    types: Counter[str] = Counter()
    for tensor in tensors:
        types[tensor.dtype] += tensor.parameters
    return TensorPage(
        "", tuple(rows), total, matching, types.total(), tuple(types.most_common()),
        sum(tensor.bytes for tensor in tensors), metadata, left_out,
        sum(bool(tensor.problem) for tensor in tensors), files,
    )  # fmt: skip


def _of_index(view: RepoView, entry: Entry, search: str, number: int) -> TensorPage:
    index = read_index(view.git.blob(entry.oid))
    if index.problem:
        return TensorPage(f"{entry.path.rpartition('/')[2]} {index.problem}.")
    matching = [item for item in index.files if search.lower() in item[0].lower()]
    folder = entry.path.rpartition("/")[0]
    names = list(dict.fromkeys(file for _, file in index.files))
    tensors = {file: _by_name(view, folder, file) for file in names[:_SHARDS]}
    rows = [
        {"name": name, "tensor": tensors.get(file, {}).get(name), "file": _place(folder, file)}
        for name, file in _page(matching, number)
    ]
    listed = dict(index.files)
    known = tuple(tensor for file, held in tensors.items() for name, tensor in held.items() if listed.get(name) == file)
    return _summed(known, rows, len(index.files), len(matching), index.metadata, files=len(names))


def _by_name(view: RepoView, folder: str, file: str) -> dict[str, Tensor]:
    """The tensors of a file that an index names; none when the repo does not have it."""
    entry = view.git.entry(view.commit, _place(folder, file)) if _place(folder, file) else None
    if entry is None or entry.folder or not file.endswith(".safetensors"):
        return {}
    header = _header(view, entry)
    return {tensor.name: tensor for tensor in header.tensors} if header else {}


def _place(folder: str, file: str) -> str:
    """The path of a file that an index in ``folder`` names; "" for one outside the repo."""
    path = posixpath.normpath(posixpath.join(folder, file)) if file else ""
    return "" if path.startswith(("/", "..")) or path == "." else path
