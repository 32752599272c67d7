"""Test files are shared out among workers: a file, or files that share a costly fixture, to one; the longest first."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import scheduling

HERE = Path(__file__).parent
CONFTEST = """
import os, pathlib, pytest, scheduling
from scheduling import pytest_xdist_make_scheduler

scheduling.TOGETHER = {"test_b.py": "both", "sub/test_d.py": "both"}
scheduling.SECONDS = {"test_c.py": 9, "both": 5}

@pytest.fixture(autouse=True)
def _log(request):
    with open(pathlib.Path(__file__).with_name("log"), "a") as log:
        print(os.environ["PYTEST_XDIST_WORKER"], request.node.nodeid, file=log)
"""
TESTS = """
import pytest

@pytest.mark.parametrize("value", range(COUNT))
def test_it(value): ...

class TestMore:
    def test_that(self): ...
"""


def test_a_file_and_files_that_share_go_to_one_worker_and_the_longest_start_first(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "sub").mkdir()
    for name, count in {"test_a": 30, "test_b": 4, "test_c": 5, "sub/test_d": 6, "test_e": 20}.items():
        (tmp_path / f"{name}.py").write_text(TESTS.replace("COUNT", str(count)))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadscope",
         "--import-mode=importlib", "--rootdir", tmp_path, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [line.split(" ", 1) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(ran) == 70
    workers: dict[str, set[str]] = {}
    for worker, nodeid in ran:
        workers.setdefault(nodeid.partition("::")[0], set()).add(worker)
    assert len(workers["test_b.py"] | workers["sub/test_d.py"]) == 1, "a shared fixture would be made twice"
    assert all(len(names) == 1 for names in workers.values()), workers
    first = {worker: next(nodeid for name, nodeid in ran if name == worker) for worker in ("gw0", "gw1")}
    files = {nodeid.partition("::")[0] for nodeid in first.values()}
    assert "test_c.py" in files and files & {"test_b.py", "sub/test_d.py"}, first


def test_all_files_that_use_the_release_are_scheduled_together() -> None:
    users = set()
    for file in sorted((HERE / "e2e").glob("test_*.py")):
        functions = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef))
        if any(argument.arg == "released" for function in functions for argument in function.args.args):
            users.add(file.relative_to(HERE.parent).as_posix())
    assert users == {file for file, group in scheduling.TOGETHER.items() if group == scheduling.RELEASE}


def test_what_is_scheduled_is_there() -> None:
    files = {*scheduling.TOGETHER, *scheduling.SECONDS} - {scheduling.RELEASE}
    assert [file for file in sorted(files) if not (HERE.parent / file).is_file()] == []
