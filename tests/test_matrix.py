"""The fault matrix is written by the run: what passed, what failed, and what nobody tested."""

import os
import subprocess
import sys
from pathlib import Path

CASES = """
import pytest

@pytest.mark.fault("F1", "F2")
@pytest.mark.parametrize("value", [1, 3])
def test_one(value, record_property):
    record_property("figure", f"took: {value} s")
    record_property("figure", "a | b")

@pytest.mark.fault("F2")
def test_two():
    raise AssertionError

@pytest.mark.fault("F3")
@pytest.mark.skip
def test_three(): ...

def test_no_fault(): ...
"""


def run(folder: Path, cases: str) -> subprocess.CompletedProcess[str]:
    plugin = "import matrix\npytest_configure = matrix.configure\n"
    (folder / "conftest.py").write_text(f"{plugin}def pytest_collection_modifyitems(items): matrix.mark(items)\n")
    (folder / "test_cases.py").write_text(cases)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HUBKIT_TEST_MATRIX": str(folder / "table.md")},
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_run_writes_the_table(tmp_path: Path) -> None:
    assert run(tmp_path, CASES).returncode == 1
    rows = {line.split(" | ")[0]: line for line in (tmp_path / "table.md").read_text().splitlines()}
    assert "| 1 | 2 | 2 passed | " in rows["| F1"] and "took: 1 to 3 s; a \\| b |" in rows["| F1"]
    assert "| 2 | 3 | 1 failed, 2 passed | " in rows["| F2"]
    assert "| 1 | 1 | 1 skipped | " in rows["| F3"]
    assert "| 0 | 0 | not tested |" in rows["| F4"] and "| not tested |" in rows["| P3"]


def test_a_row_that_there_is_not(tmp_path: Path) -> None:
    done = run(tmp_path, CASES.replace('"F3"', '"F33"'))
    assert done.returncode == 4 and "['F33']" in done.stdout + done.stderr
