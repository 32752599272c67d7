"""The import rules refuse what they are there for: a planted circle, and a room that imports one above it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PLANTED = {
    "a circle for types alone": (
        "evals/measurements.py",
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from hubkit.evals.results import Results\n",
        "No circle of imports, those for types included BROKEN",
    ),
    "a room above": (
        "core/files.py",
        "def look() -> None:\n    import hubkit.models.load\n",
        "Packages import the packages below them BROKEN",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_import_is_refused(planted: str, tmp_path: Path) -> None:
    path, code, expected = PLANTED[planted]
    for name in ("toolkit", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    with (tmp_path / "toolkit" / "hubkit" / path).open("a", encoding="utf-8") as file:
        file.write(f"\n\n{code}")
    sources = os.pathsep.join(str(tmp_path / name) for name in ("toolkit", "stages"))
    child = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": sources}, capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == 1 and expected in child.stdout, child.stdout
