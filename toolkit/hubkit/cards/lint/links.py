"""Relative links and pictures whose file does not exist."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator
from urllib.parse import unquote, urlsplit

from hubkit.cards.lint.document import Document
from hubkit.cards.lint.rules import DEAD_LINK
from hubkit.core.findings import Finding


def find(document: Document, files: Collection[str]) -> Iterator[Finding]:
    """Links and pictures that name no file of ``files`` (paths in the folder or repo) and no folder of them."""
    folders = {folder for path in files for folder in _folders(path)}
    for link in document.links:
        target = _relative(link.target)
        if target is None:
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(document.path), target))
        if path not in files and path not in folders:
            kind = "picture" if link.picture else "link"
            yield DEAD_LINK.finding(
                f"The {kind} {link.target!r} points to a file that does not exist.",
                "Add the file, or use a full URL.",
                file=document.path,
                line=link.line,
            )


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
