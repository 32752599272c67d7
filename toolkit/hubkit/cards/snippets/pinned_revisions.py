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

from hubkit.cards.snippets.blocks import tree_of
from hubkit.core.names import repo_id_problem

_LOCAL = {"localhost", "127.0.0.1", "0.0.0.0", "::1"}
_REPO_WORDS = frozenset({"model", "path", "pretrained_model_name_or_path", "repo", "repo_id"})
"""Keywords under which libraries take a repo."""
_FILE_WORDS = frozenset({"filename", "subfolder"})
"""Keywords whose text looks like a repo id and is none."""


@dataclass(frozen=True)
class Pin:
    """``branch`` of ``repo`` is to be read at ``commit``."""

    repo: str
    branch: str
    commit: str


def pinned(source: str, pin: Pin, before: Sequence[str] = ()) -> tuple[str, int]:
    """``source`` with the branch's literals exchanged for the commit, and how many there were.

    A revision is a literal that is given to a name or an argument ``revision``, or the end of a literal
    'repo@branch', as servers take it. That of another repo stays as it is; what names hold is also looked for in the
    blocks ``before``, from which this one goes on. Where nothing says whose a revision is, it is the pin's, unless
    ``source`` names another repo that has none of its own.
    """
    changes = []
    tree = tree_of(source) or ast.Module([], [])
    repos = _Repos(pin.repo, [*(tree_of(text) or ast.Module([], []) for text in before), tree])
    alone = not any(repos.other(text) for text in _unrevised(tree))
    for node, whose in _owned_revisions(tree, repos):
        if node.value == pin.branch and False not in whose and (True in whose or alone):
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
        if isinstance(node, ast.keyword) and node.arg == "revision":
            pairs = [("revision", node.value)]
        else:
            pairs = list(_given(node))
        for name, value in pairs:
            if name == "revision" and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value


class _Repos:
    """Which repo a call is about, as far as its literals and the names that hold literals tell."""

    def __init__(self, mine: str, trees: Sequence[ast.Module]) -> None:
        self._mine = mine
        self._held: dict[str, set[str | None]] = {}
        for node in (node for tree in trees for node in ast.walk(tree)):
            for name, value in _given(node):
                text = value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
                self._held.setdefault(name, set()).add(text)

    def other(self, text: str) -> bool:
        """Whether ``text`` is the id of another repo."""
        return text.partition("@")[0] != self._mine and not repo_id_problem(text.partition("@")[0])

    def whose(self, values: Sequence[ast.expr]) -> bool | None:
        """True when the first of ``values`` that names a repo names the pin's, False when it names another.

        None when what might name it holds no literal. Repos without a namespace cannot be told from other words:
        words alone are another's.
        """
        texts = [self._texts(value) for value in values]
        for held in texts:
            if held and any(text == self._mine or self.other(text) for text in held):
                return held == {self._mine}
        return False if texts and all(texts) else None

    def of_call(self, call: ast.Call) -> bool | None:
        """Whose revision a call takes."""
        words = [item for item in call.keywords if item.arg != "revision" and item.arg not in _FILE_WORDS]
        named = [item.value for item in words if item.arg in _REPO_WORDS or item.arg is None or self.is_id(item.value)]
        return self.whose([*call.args, *named])

    def is_id(self, value: ast.expr) -> bool:
        """Whether ``value`` may be the id of a repo."""
        return any(text == self._mine or self.other(text) for text in self._texts(value))

    def _texts(self, value: ast.expr) -> set[str]:
        """The literals that ``value`` may be; none when it may be anything."""
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return {value.value}
        held = self._held.get(value.id, set()) if isinstance(value, ast.Name) else set()
        return {text for text in held if text is not None} if None not in held else set()


def _owned_revisions(tree: ast.Module, repos: _Repos) -> Iterator[tuple[ast.Constant, set[bool | None]]]:
    """The literals of :func:`_revisions`, and whose each use of them is (see :meth:`_Repos.whose`)."""
    used: set[bool | None] = set()
    for node in ast.walk(tree):
        for word in node.keywords if isinstance(node, ast.Call) else ():
            if word.arg == "revision" and isinstance(node, ast.Call):
                if isinstance(word.value, ast.Constant) and isinstance(word.value.value, str):
                    yield word.value, {repos.of_call(node)}
                elif isinstance(word.value, ast.Name) and word.value.id == "revision":
                    used.add(repos.of_call(node))
    for node in ast.walk(tree):
        pairs = list(_given(node))
        beside = repos.whose([value for name, value in pairs if name != "revision" and repos.is_id(value)])
        for name, value in pairs:
            if name == "revision" and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value, used | {beside}


def _unrevised(tree: ast.Module) -> Iterator[str]:
    """Literals of text, but those in a call that says a revision outright, and 'repo@revision'."""
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "@" not in node.value:
            yield node.value
        words = node.keywords if isinstance(node, ast.Call) else []
        if not any(word.arg == "revision" and isinstance(word.value, ast.Constant) for word in words):
            left += ast.iter_child_nodes(node)


def _given(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names and what the statement ``node`` gives them."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _pairs(target, node.value)
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        yield from _pairs(node.target, node.value)


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
