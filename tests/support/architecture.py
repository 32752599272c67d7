"""The structure of the house, read from the tree itself.

Run as a program it writes the generated part of docs/architecture.md: ``python tests/support/architecture.py``.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOOLKIT = ROOT / "toolkit" / "hubkit"
STAGES = ROOT / "stages" / "hubkit_stages"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- tree: begin -->", "<!-- tree: end -->"
_WIDTH = 36


def rooms() -> tuple[str, ...]:
    """The packages directly under toolkit/hubkit."""
    return tuple(sorted(path.parent.name for path in TOOLKIT.glob("*/__init__.py")))


def modules(*roots: Path) -> list[Path]:
    """Every Python file below ``roots``."""
    return sorted(path for root in roots for path in root.rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines) of each function in ``path``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def contracts() -> dict[str, dict[str, Any]]:
    """The import rules of pyproject.toml by name."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {item["name"]: item for item in settings["tool"]["importlinter"]["contracts"]}


def first_line(path: Path) -> str:
    """The first line of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n", 1)[0].rstrip(".")


def tree() -> str:
    """Every package and module of hubkit and its stages, each with the first line of its docstring."""
    lines: list[str] = []
    for root in (TOOLKIT, STAGES):
        lines += [*_folder(root, 0), ""]
    return "```\n" + "\n".join(lines).rstrip() + "\n```"


def _folder(folder: Path, depth: int) -> Iterator[str]:
    name = str(folder.relative_to(ROOT)) if depth == 0 else folder.name
    yield _line(f"{name}/", first_line(folder / "__init__.py"), depth)
    entries = [path for path in folder.iterdir() if not path.name.startswith(("__", "."))]
    packages = sorted(path for path in entries if (path / "__init__.py").exists())
    for path in packages:
        yield from _folder(path, depth + 1)
    for path in sorted(path for path in entries if path.suffix == ".py"):
        yield _line(path.name, first_line(path), depth + 1)


def _line(name: str, text: str, depth: int) -> str:
    return f"{'  ' * depth + name:<{_WIDTH}} {text}".rstrip()


def page() -> str:
    """docs/architecture.md with today's tree."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tree()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
