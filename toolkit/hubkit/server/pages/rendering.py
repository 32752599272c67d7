"""Cards and files as HTML for pages: rendered in a child process with limits, and cached by their content."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from hubkit.core import numbers
from hubkit.core.processes.parent import JobFailed, run_job
from hubkit.server.pages import markup
from hubkit.server.repos import metadata
from hubkit.server.repos.git import Entry, Git

CARD_LIMIT = 2**20
"""Largest card that is rendered, in bytes."""
CODE_LIMIT = 2**18
"""Largest file that is shown line by line, in bytes."""
_LINES = 20_000
"""Most lines that get a number each; a file with more is shown as plain text."""
_MEMORY, _SECONDS, _PATIENCE = 2**31, 3, 30.0
_OUTPUT_LIMIT = 2**22
"""Characters that a text may become: some grow a hundredfold."""
_CACHE_LIMIT = 2**25
_RENDERING = threading.BoundedSemaphore(2)
_WAITING = threading.BoundedSemaphore(12)
"""Requests that render or wait to render: each holds one of the Hub's forty threads, which others need too."""
_T = TypeVar("_T")
log = logging.getLogger("hubkit.server")


class _BusyError(Exception):
    """Too many requests wait for texts to be rendered."""


class _Cache(Generic[_T]):
    """Rendered texts by key, up to ``most`` characters together; the least recently used is evicted first."""

    def __init__(self, most: int, length: Callable[[_T], int]) -> None:
        self._most, self._length, self._total = most, length, 0
        self._lock = threading.Lock()
        self._texts: OrderedDict[Hashable, _T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """The text of ``key``, rendered by ``make`` if it is not cached. _BusyError when too many requests wait."""
        if key not in self:
            if not _WAITING.acquire(blocking=False):
                raise _BusyError
            try:
                with _RENDERING:
                    if key not in self:  # another request may have rendered it meanwhile
                        return self._keep(key, make())
            finally:
                _WAITING.release()
        with self._lock:
            if (text := self._texts.get(key)) is not None:
                self._texts.move_to_end(key)
                return text
        return self.get(key, make)  # it was evicted meanwhile

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._texts

    def _keep(self, key: Hashable, text: _T) -> _T:
        with self._lock:
            if (old := self._texts.pop(key, None)) is not None:
                self._total -= self._length(old)
            self._texts[key] = text
            self._total += self._length(text)
            while self._total > self._most:
                self._total -= self._length(self._texts.popitem(last=False)[1])
        return text


@dataclass(frozen=True)
class Card:
    """A README: its text as safe ``html``, or ``plain`` when it cannot be rendered; what is wrong with it."""

    html: str = ""
    plain: str = ""
    note: str = ""
    metadata_error: str = ""


@dataclass(frozen=True)
class Code:
    """A text file: its ``lines`` as safe HTML, ``plain`` when they cannot be highlighted."""

    lines: tuple[str, ...] = ()
    plain: str = ""


_cards: _Cache[Card] = _Cache(_CACHE_LIMIT, lambda one: len(one.html) + len(one.plain) + 1000)
_codes: _Cache[Code] = _Cache(
    _CACHE_LIMIT, lambda one: sum(map(len, one.lines)) + 60 * len(one.lines) + len(one.plain) + 1000
)


def card(git: Git, path: Path, commit: str, place: markup.Place) -> Card | None:
    """The card of a repo (its git folder is ``path``) at a commit; None when it has none."""
    entry = git.entry(commit, "README.md")
    if entry is None or entry.folder:
        return None
    if entry.pointer or entry.size > CARD_LIMIT:
        return Card(note=f"The card is too large to show here ({numbers.size(entry.size)}).")
    try:
        return _cards.get((path, entry.oid, place), lambda: _card(path, entry.oid, place))
    except _BusyError:
        return Card(note="Too many cards are being rendered; reload this page.")


def _card(path: Path, blob: str, place: markup.Place) -> Card:
    text = Git(path).blob(blob).decode("utf-8", "replace")
    problem = ""
    try:
        metadata.read(text)
    except metadata.MetadataError as error:
        problem = str(error)
    body = metadata.body(text)
    if not problem and body != text and metadata.front_matter(text) is None:
        problem = "the block is not closed by a line of three dashes"
    if not body.strip():
        return Card(metadata_error=problem)
    html = _child({"card": body, "web": place.web, "revision": place.revision})
    if isinstance(html, str):
        return Card(html=html, metadata_error=problem)
    note = "This card takes too long to render, or its HTML is too large. This is its source."
    return Card(plain=body, note=note, metadata_error=problem)


def code(path: Path, entry: Entry) -> Code | None:
    """The lines of a text file; None for what is no text, or too large to show."""
    if entry.pointer or entry.size > CODE_LIMIT:
        return None
    try:
        text = Git(path).blob(entry.oid).decode("utf-8")
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    name = entry.path.rpartition("/")[2]
    try:
        return _codes.get((entry.oid, name), lambda: _code(text, name))
    except _BusyError:
        return Code(plain=text)


def _code(text: str, name: str) -> Code:
    if not text:
        return Code()
    lines = _child({"code": text, "name": name}) if text.count("\n") < _LINES else None
    return Code(lines=tuple(lines)) if isinstance(lines, list) else Code(plain=text)


def _child(job: dict[str, str]) -> Any:
    """The result of :mod:`markup` for a job, in a process of its own; None when it exceeds a limit."""
    script, limited_job = Path(markup.__file__), {**job, "most": _OUTPUT_LIMIT}
    try:
        return run_job(script, limited_job, memory=_MEMORY, cpu_seconds=_SECONDS, timeout=_PATIENCE)
    except JobFailed as failed:
        log.warning("a text was not rendered: %s: %s", failed, failed.errors)
        return None
