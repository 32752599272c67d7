"""Cards and files made ready for a page: within limits, in a child process, and kept by the id of their content."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hubkit.server import metadata
from hubkit.server.git import Entry, Git
from hubkit.server.pages import markup

CARD_LIMIT = 2**20
"""Bytes of a card that is shown at all."""
CODE_LIMIT = 2**18
"""Bytes of a file that is shown line by line."""
_MEMORY, _SECONDS, _PATIENCE = 2**31, 3, 30.0
_AT_ONCE = threading.BoundedSemaphore(2)
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
    """A text file: its ``lines`` as safe HTML, ``plain`` when they cannot be coloured."""

    lines: tuple[str, ...] = ()
    plain: str = ""


def card(git: Git, path: Path, commit: str, place: markup.Place) -> Card | None:
    """The card of a repo (its git folder is ``path``) at a commit; None when it has none."""
    entry = git.entry(commit, "README.md")
    if entry is None or entry.folder:
        return None
    if entry.pointer or entry.size > CARD_LIMIT:
        return Card(note=f"The card is too large to show here ({entry.size:,} bytes).")
    return _card(path, entry.oid, place)


@lru_cache(maxsize=64)
def _card(path: Path, blob: str, place: markup.Place) -> Card:
    text = Git(path).blob(blob).decode("utf-8", "replace")
    problem = ""
    try:
        metadata.read(text)
    except metadata.BadMetadata as error:
        problem = str(error)
    body = metadata.body(text)
    if not problem and body != text and metadata.front_matter(text) is None:
        problem = "the block is not closed by a line of three dashes"
    if not body.strip():
        return Card(metadata_error=problem)
    html = _child({"card": body, "web": place.web, "revision": place.revision})
    if isinstance(html, str):
        return Card(html=html, metadata_error=problem)
    return Card(plain=body, note="This card takes too long to render; here is its text.", metadata_error=problem)


def code(path: Path, entry: Entry) -> Code | None:
    """The lines of a text file; None for what is no text, or too large to show."""
    if entry.pointer or entry.size > CODE_LIMIT:
        return None
    return _code(path, entry.oid, entry.path.rpartition("/")[2])


@lru_cache(maxsize=64)
def _code(path: Path, blob: str, name: str) -> Code | None:
    content = Git(path).blob(blob)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    lines = _child({"code": text, "name": name}) if text else []
    return Code(lines=tuple(lines)) if isinstance(lines, list) else Code(plain=text)


def _child(job: dict[str, str]) -> Any:
    """What :mod:`markup` makes of a job in a process of its own, or None when its limits end it."""
    command = [sys.executable, "-I", markup.__file__, str(_MEMORY), str(_SECONDS)]
    with _AT_ONCE, contextlib.suppress(ValueError, subprocess.TimeoutExpired):
        done = subprocess.run(command, input=json.dumps(job).encode(), capture_output=True, timeout=_PATIENCE)
        if done.returncode == 0:
            return json.loads(done.stdout)
        log.warning("a text was not rendered (%d): %s", done.returncode, done.stderr[-500:].decode("utf-8", "replace"))
    return None
