"""Revisions and servers that a block names, found in its syntax tree and exchanged in place.

Only literals are exchanged, at their own place in the text, so that lines and columns of everything else stay.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from hubkit.snippets.blocks import tree_of

_LOCAL = {"localhost", "127.0.0.1", "0.0.0.0", "::1"}


@dataclass(frozen=True)
class Pin:
    """``branch`` of ``repo`` is to be read at ``commit``."""

    repo: str
    branch: str
    commit: str


def pinned(source: str, pin: Pin) -> tuple[str, int]:
    """``source`` with the branch's literals exchanged for the commit, and how many there were.

    A revision is a literal that is given to a name or an argument ``revision``, or the end of a literal
    'repo@branch', as servers take it.
    """
    changes = []
    for node in _revisions(source):
        if node.value == pin.branch:
            changes.append((node, pin.commit))
    for node in _literals(source):
        if node.value == f"{pin.repo}@{pin.branch}":
            changes.append((node, f"{pin.repo}@{pin.commit}"))
    return _exchanged(source, changes), len(changes)


def revision_of(source: str) -> str | None:
    """The revision that a block is pinned to; None when it names none."""
    for node in _revisions(source):
        return str(node.value)
    for node in _literals(source):
        name, at, revision = str(node.value).partition("@")
        if at and revision and name.count("/") == 1 and not re.search(r"\s|:", str(node.value)):
            return revision
    return None


def names_repo(source: str, repo: str) -> bool:
    """Whether a literal of ``source`` is ``repo``, with a revision or without."""
    return any(str(node.value).partition("@")[0] == repo for node in _literals(source))


def texts(source: str) -> set[str]:
    """All literals of text."""
    return {str(node.value) for node in _literals(source)}


def asks_local_server(source: str) -> bool:
    """Whether a block is a client of a server on the reader's own machine."""
    return any(True for _ in _addresses(source))


def with_server(source: str, url: str) -> str:
    """``source`` with the address of its local server exchanged for ``url``, the path kept."""
    return _exchanged(source, [(node, url + urlsplit(str(node.value)).path) for node in _addresses(source)])


def serve_arguments(shell: str, pin: Pin | None = None) -> list[str] | None:
    """The arguments of the ``transformers serve`` in ``shell``, without host and port; None when it has none.

    Nothing of ``shell`` goes to a shell: what a shell would expand or redirect stays as it is written.
    """
    for line in re.sub(r"\\\r?\n", " ", shell).splitlines():
        try:
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        except ValueError:
            continue
        if words[:2] != ["transformers", "serve"]:
            continue
        found: list[str] = []
        rest = iter(words[2:])
        for word in rest:
            if word in {"--host", "--port"}:
                next(rest, None)
            elif not word.startswith(("--host=", "--port=")) and word != "&":
                whole = pin and f"{pin.repo}@{pin.branch}" == word
                found.append(f"{pin.repo}@{pin.commit}" if pin and whole else word)
        return found
    return None


def _literals(source: str) -> Iterator[ast.Constant]:
    for node in ast.walk(tree_of(source) or ast.Module([], [])):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node


def _revisions(source: str) -> Iterator[ast.Constant]:
    """Literals of text that a block uses as a revision."""
    for node in ast.walk(tree_of(source) or ast.Module([], [])):
        if isinstance(node, ast.Assign):
            pairs = [pair for target in node.targets for pair in _pairs(target, node.value)]
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            pairs = list(_pairs(node.target, node.value))
        elif isinstance(node, ast.keyword) and node.arg == "revision":
            pairs = [("revision", node.value)]
        else:
            continue
        for name, value in pairs:
            if name == "revision" and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Names and what they are given, also in ``a, b = x, y``."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
        for one, other in zip(target.elts, value.elts, strict=False):
            yield from _pairs(one, other)


def _addresses(source: str) -> Iterator[ast.Constant]:
    for node in ast.walk(tree_of(source) or ast.Module([], [])):
        if isinstance(node, ast.keyword) and node.arg == "base_url" and isinstance(node.value, ast.Constant):
            try:
                host = urlsplit(str(node.value.value)).hostname
            except ValueError:
                continue
            if host in _LOCAL:
                yield node.value


def _exchanged(source: str, changes: Sequence[tuple[ast.Constant, str]]) -> str:
    """``source`` with other literals in the places of these; the tree counts columns in UTF-8."""
    lines = [line.encode() for line in source.split("\n")]
    for node, value in sorted(changes, key=lambda change: (change[0].lineno, change[0].col_offset), reverse=True):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
        lines[first : last + 1] = [before + repr(value).encode() + after] + [b""] * (last - first)
    return b"\n".join(lines).decode()
