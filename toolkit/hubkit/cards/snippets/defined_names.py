"""Names that a piece of Python uses and nobody defines: what a reader who copies it gets a NameError for.

The scopes are those of the compiler itself (:mod:`symtable`).
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterator

_KNOWN = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__", "__builtins__", "__annotations__"}


def undefined(source: str) -> dict[str, int]:
    """Names by the line (from 1) of their first use; empty when ``source`` is not Python or imports ``*``."""
    table = _table(source)
    if table is None:
        return {}
    tree = ast.parse(source)
    if any(
        isinstance(node, ast.ImportFrom) and any(item.name == "*" for item in node.names) for node in ast.walk(tree)
    ):
        return {}
    wanted = {name for scope in _scopes(table) for name in _open_names(scope)} - defined(source) - _KNOWN
    lines: dict[str, int] = {}
    own = _own_of_functions(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in wanted:
            if any(first <= node.lineno <= last for first, last in own.get(node.id, ())):
                continue  # a parameter of the same name
            lines[node.id] = min(node.lineno, lines.get(node.id, node.lineno))
    return dict(sorted(lines.items(), key=lambda item: (item[1], item[0])))


def _own_of_functions(tree: ast.Module) -> dict[str, list[tuple[int, int]]]:
    """The lines of the functions that have a parameter of a name, by name."""
    found: dict[str, list[tuple[int, int]]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            for item in (*given.posonlyargs, *given.args, *given.kwonlyargs):
                found.setdefault(item.arg, []).append((node.lineno, node.end_lineno or node.lineno))
    return found


def defined(source: str) -> set[str]:
    """Names that ``source`` binds in its module."""
    table = _table(source)
    if table is None:
        return set()
    found = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    for scope in _scopes(table):
        found |= {
            symbol.get_name() for symbol in scope.get_symbols() if symbol.is_declared_global() and symbol.is_assigned()
        }
    return found


def _table(source: str) -> symtable.SymbolTable | None:
    try:
        return symtable.symtable(source, "<card>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def _open_names(scope: symtable.SymbolTable) -> Iterator[str]:
    """Names that ``scope`` reads and leaves to the module."""
    for symbol in scope.get_symbols():
        own = symbol.is_assigned() or symbol.is_imported() or symbol.is_parameter()
        if symbol.is_referenced() and (symbol.is_global() or scope.get_type() == "module") and not own:
            yield symbol.get_name()
