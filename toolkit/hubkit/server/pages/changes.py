"""What a commit changed, file by file, as its page shows it. No HTML here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubkit.core.bounded_json import SETTINGS, JsonError, load_json
from hubkit.server.pages.views import RepoView
from hubkit.server.pages.visible import visible, visible_code
from hubkit.server.repos import comparing, metadata, weights
from hubkit.server.repos.history import changes as tree_changes
from hubkit.server.repos.reader import Entry
from hubkit.server.repos.weights import WeightChanges
from hubkit.server.storage.cache import BusyError

_FILES, _WITH_CONTENT = 300, 100
"""Files that are listed, and those of them whose content is compared."""
_KEYS, _VALUE, _DEEPEST = 200, 300, 30
"""Keys of one document that are listed, characters of a value, levels of keys."""
_BUSY = "Too many changes are being compared; reload this page."
_TOO_LARGE = "The change is too large to show here."
Line = tuple[str, str, str, str]
"""Sign, old number, new number, text."""


@dataclass(frozen=True)
class KeyChange:
    """A key of a document, by its path with dots; a value is None where the key is not there."""

    key: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class FileChange:
    """One file of a commit: before and after, and what of its content differs as far as that can be shown."""

    path: str
    before: Entry | None
    after: Entry | None
    note: str = ""
    """Why no content is shown, or not all of it."""
    hunks: tuple[tuple[str, tuple[Line, ...]], ...] = ()
    added: int = 0
    removed: int = 0
    keys: tuple[KeyChange, ...] = ()
    more_keys: int = 0
    tensors: WeightChanges | None = None

    @property
    def status(self) -> str:
        """Added, removed or changed."""
        return "added" if self.before is None else "changed" if self.after else "removed"

    @property
    def is_card(self) -> bool:
        """Whether ``keys`` are the metadata of a card."""
        return self.path == "README.md"


@dataclass
class _Content:
    """What the pages of one commit read of a repo, before and after."""

    view: RepoView
    old: str | None
    new: str
    lines: dict[str, Any] = field(default_factory=dict)

    def stored(self, entry: Entry | None) -> Path | None:
        """The stored bytes of a large file that the repo has."""
        lfs = self.view.request.hub.lfs
        if entry is None or entry.pointer is None or not lfs.has(self.view.repo.uid, entry.pointer.oid):
            return None
        return lfs.path(entry.pointer.oid)


def of_commit(view: RepoView, old: str | None, new: str) -> tuple[list[FileChange], int]:
    """The files that differ between two commits (at most 300), and how many there are. ``old`` None: there is none."""
    content = _Content(view, old, new)
    git, total = view.git, 0
    pairs: list[tuple[str, Entry | None, Entry | None]] = []
    before = git.links(old).tree if old else None
    for path, old_item, new_item in tree_changes(git, before, git.links(new).tree):
        total += 1
        if total <= _FILES:
            was, now = (git.entry_of(path, item) if item else None for item in (old_item, new_item))
            pairs.append((path, was, now))
    texts = [path for path, was, now in pairs[:_WITH_CONTENT] if _small_text(was) and _small_text(now)]
    busy = False
    try:
        content.lines = comparing.line_changes(git, old, new, texts) if texts else {}
    except BusyError:
        busy = True
    rows = [
        _file(content, path, was, now, busy) if place < _WITH_CONTENT else FileChange(path, was, now)
        for place, (path, was, now) in enumerate(pairs)
    ]
    return rows, total


def _small_text(entry: Entry | None) -> bool:
    return entry is None or (entry.pointer is None and entry.size <= comparing.FILE_LIMIT)


def _file(content: _Content, path: str, was: Entry | None, now: Entry | None, busy: bool) -> FileChange:
    if any(entry and entry.pointer for entry in (was, now)):
        return _large(content, path, was, now)
    if not (_small_text(was) and _small_text(now)):
        return FileChange(path, was, now, "This file is too large to compare here.")
    found = content.lines.get(path)
    if found is None:
        return FileChange(path, was, now, _BUSY if busy else _TOO_LARGE)
    if found.get("binary"):
        return FileChange(path, was, now, "This file is not text.")
    keys = list(_changed_keys(content, path, was, now))
    return FileChange(
        path, was, now, "The rest of the change is too long to show here." if found["cut"] else "",
        hunks=tuple((visible(head), tuple(map(_line, lines))) for head, lines in found["hunks"]),
        added=found["added"], removed=found["removed"], keys=tuple(keys[:_KEYS]), more_keys=max(0, len(keys) - _KEYS),
    )  # fmt: skip


def _line(line: list[Any]) -> Line:
    sign, old, new, text = line
    if sign not in "+- ":
        return "", "", "", "No newline at the end of the file"
    return sign.strip(), str(old) if old > 0 else "", str(new) if new > 0 else "", visible_code(text)


def _large(content: _Content, path: str, was: Entry | None, now: Entry | None) -> FileChange:
    """A file of git-lfs, before or after: weights by their tensors, others by their sizes alone."""
    if not path.endswith(".safetensors"):
        return FileChange(path, was, now, "This file is not text.")
    stored = [content.stored(entry) for entry in (was, now)]
    if any(entry and not file for entry, file in zip((was, now), stored, strict=True)):
        return FileChange(path, was, now, "The bytes of this file are not on this Hub.")
    try:
        found = weights.compare(*stored)
    except BusyError:
        return FileChange(path, was, now, _BUSY)
    return FileChange(path, was, now, f"This file {found.problem}." if found.problem else "", tensors=found)


# Documents by their keys ------------------------------------------------------------------------------------


def _changed_keys(content: _Content, path: str, was: Entry | None, now: Entry | None) -> Iterator[KeyChange]:
    """The keys of JSON, or of a card's metadata, whose values differ; none when either cannot be read."""
    if was is None or now is None or not (path == "README.md" or path.endswith(".json")):
        return
    documents = [_document(content, path, entry) for entry in (was, now)]
    if documents[0] is None or documents[1] is None:
        return
    before, after = (dict(_leaves(document)) for document in documents)
    for key in {**before, **after}:
        if before.get(key) != after.get(key):
            old, new = (side.get(key) for side in (before, after))
            yield KeyChange(visible(key, _VALUE), _value(old), _value(new))


def _value(text: str | None) -> str | None:
    return None if text is None else visible(text, _VALUE)


def _document(content: _Content, path: str, entry: Entry) -> Any:
    data = content.view.git.blob(entry.oid)
    try:
        if path == "README.md":
            return metadata.read(data.decode("utf-8", "replace"))
        value = load_json(data, SETTINGS)
    except (JsonError, metadata.MetadataError):
        return None
    return value if isinstance(value, dict) else None


def _leaves(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Each value of a document by its path with dots; a list is one value."""
    if isinstance(value, dict) and value and depth < _DEEPEST:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key), depth + 1)
    elif path:
        try:
            text = json.dumps(value, ensure_ascii=False)
        except RecursionError:
            text = "…"
        yield path, text
