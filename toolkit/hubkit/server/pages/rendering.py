"""Cards and files as HTML for pages: rendered in a child process with limits, and cached by their content."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core import numbers
from hubkit.core.processes.parent import JobFailed, run_job
from hubkit.server.pages import markup
from hubkit.server.repos import metadata
from hubkit.server.repos.git import Entry, Git
from hubkit.server.storage.cache import BusyError, ResultCache

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
_COMMENT_LIMIT = 2**16
"""Characters of a comment that is rendered."""
log = logging.getLogger("hubkit.server")


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


_cards: ResultCache[Card] = ResultCache(_CACHE_LIMIT, lambda one: len(one.html) + len(one.plain) + 1000)
_comments: ResultCache[tuple[str | None, ...]] = ResultCache(
    _CACHE_LIMIT, lambda texts: sum(2 * len(text or "") + 200 for text in texts) + 1000
)
_codes: ResultCache[Code] = ResultCache(
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
    except BusyError:
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


def comments(texts: list[str], place: markup.Place, accounts: dict[str, str]) -> list[Card]:
    """Comments as safe HTML, each ``plain`` when it cannot be rendered. ``accounts``: those that they may mention."""
    key = tuple(texts), place, tuple(sorted(accounts.items()))
    try:
        rendered = _comments.get(key, lambda: _rendered_comments(texts, place, accounts)) if texts else ()
    except BusyError:
        rendered = (None,) * len(texts)
    return [Card(html=one) if one is not None else Card(plain=text) for one, text in zip(rendered, texts, strict=True)]


def _rendered_comments(
    texts: list[str], place: markup.Place, accounts: dict[str, str]
) -> tuple[str | None, ...]:  # fmt: skip
    # One that is long is not worth that all others wait for it.
    short = [text if len(text) <= _COMMENT_LIMIT else "" for text in texts]
    job = {
        "comments": short, "web": place.web, "revision": place.revision, "prefix": place.prefix, "accounts": accounts,
    }  # fmt: skip
    found = _child(job)
    rendered = found if isinstance(found, list) else [None] * len(texts)
    return tuple(one if text == sent else None for one, text, sent in zip(rendered, texts, short, strict=True))


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
    except BusyError:
        return Code(plain=text)


def _code(text: str, name: str) -> Code:
    if not text:
        return Code()
    lines = _child({"code": text, "name": name}) if text.count("\n") < _LINES else None
    return Code(lines=tuple(lines)) if isinstance(lines, list) else Code(plain=text)


def _child(job: dict[str, Any]) -> Any:
    """The result of :mod:`markup` for a job, in a process of its own; None when it exceeds a limit."""
    script, limited_job = Path(markup.__file__), {**job, "most": _OUTPUT_LIMIT}
    try:
        return run_job(script, limited_job, memory=_MEMORY, cpu_seconds=_SECONDS, timeout=_PATIENCE)
    except JobFailed as failed:
        log.warning("a text was not rendered: %s: %s", failed, failed.errors)
        return None
