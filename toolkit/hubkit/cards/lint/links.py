"""Relative links and pictures, held against the files that are there."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator
from urllib.parse import unquote, urlsplit

from hubkit.cards.lint.document import Document
from hubkit.cards.lint.finding import Fault


def find(document: Document, files: Collection[str]) -> Iterator[Fault]:
    """Links and pictures that name no file of ``files`` (paths in the folder or repo) and no folder of them."""
    folders = {folder for path in files for folder in _folders(path)}
    for link in document.links:
        target = _relative(link.target)
        if target is None:
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(document.path), target))
        if path not in files and path not in folders:
            kind = "picture" if link.picture else "link"
            yield Fault(
                "dead-link", document.path, link.line, f"The {kind} {link.target!r} names a file that is not there.",
                "Add the file, or write the whole address.",
            )  # fmt: skip


def _folders(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path
    yield "."


def _relative(target: str) -> str | None:
    """The path that a relative link names; None for an address, a place on the page, or a page of the Hub."""
    try:
        parts = urlsplit(target.strip())
    except ValueError:
        return None
    if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
        return None
    return unquote(parts.path)
