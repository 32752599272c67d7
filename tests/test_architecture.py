"""The structure stays as docs/architecture.md describes it, and the import rules name everything that there is."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path
from statistics import median, quantiles

import architecture
import pytest
from architecture import ROOT, STAGES, TOOLKIT

RULES = architecture.contracts()
ROOMS = {f"hubkit.{room}" for room in architecture.rooms()}


def test_the_page_shows_the_tree_as_it_is() -> None:
    assert architecture.PAGE.read_text(encoding="utf-8") == architecture.page(), "run `make architecture`"


def test_there_are_few_rooms() -> None:
    entries = [path for path in TOOLKIT.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 14, sorted(path.name for path in entries)
    strays = [path.name for path in entries if path.suffix == ".py" and path.name != "__init__.py"]
    assert strays == [], "a module belongs into a package"


@pytest.mark.parametrize("package", sorted(path.parent for path in TOOLKIT.rglob("__init__.py")), ids=lambda p: p.name)
def test_each_package_says_what_it_is_for(package: Path) -> None:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert 1 <= len(text.splitlines()) <= 12


def test_modules_and_functions_are_small() -> None:
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in architecture.modules(TOOLKIT, STAGES)]
    assert max(lengths) <= 450
    assert median(lengths) <= 200
    found = [lines for path in architecture.modules(TOOLKIT, STAGES) for _, lines in architecture.functions(path)]
    assert quantiles(found, n=20)[-1] <= 40
    assert max(found) <= 100


def test_test_files_are_small() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > 450} == {}


def test_the_order_of_the_rooms_names_every_room() -> None:
    layers = RULES["Packages import the packages below them"]["layers"]
    assert {f"hubkit.{layer}" for layer in layers} == ROOMS
    assert len(layers) == len(set(layers))


def test_the_embedded_hub_is_kept_from_every_room_but_core() -> None:
    forbidden = set(RULES["The embedded Hub imports core alone"]["forbidden_modules"])
    assert forbidden >= ROOMS - {"hubkit.server", "hubkit.core"}
    assert "huggingface_hub" in forbidden
    assert forbidden >= {"hubkit.core.output"}
    sources = set(RULES["Only the command line knows the embedded Hub"]["source_modules"])
    assert sources == ROOMS - {"hubkit.server", "hubkit.cli"}


def test_every_stage_is_kept_from_the_others() -> None:
    there = {f"hubkit_stages.{path.stem}" for path in STAGES.glob("*.py") if path.name != "__init__.py"}
    assert set(RULES["Stages do not import each other"]["modules"]) == there


def test_every_stage_is_offered_by_its_entry_point() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for path in STAGES.glob("*.py"):
        if path.name != "__init__.py":
            assert f'"hubkit_stages.{path.stem}"' in text


@pytest.mark.parametrize("guard", ["", "if TYPE_CHECKING:\n    "])
def test_a_circle_is_refused_even_one_for_types(tmp_path: Path, guard: str) -> None:
    """The rule that pyproject.toml names, on a small package with a circle of imports."""
    kinds = {rule["type"] for rule in RULES.values()}
    assert "acyclic_siblings" in kinds
    package = tmp_path / "small"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from typing import TYPE_CHECKING\n\nimport small.two\n")
    (package / "two.py").write_text(f"from typing import TYPE_CHECKING\n\n{guard}import small.one\n")
    settings = """\
        [tool.importlinter]
        root_package = "small"
        [[tool.importlinter.contracts]]
        name = "No circles"
        type = "acyclic_siblings"
        ancestors = ["small"]
        """
    (tmp_path / "pyproject.toml").write_text(textwrap.dedent(settings))
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert ".two -> .one" in done.stdout and "BROKEN" in done.stdout
