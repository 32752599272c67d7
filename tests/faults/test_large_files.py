"""Configs, safetensors headers and manifests made as large as they may be: what reading them takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import large_files
import pytest

from hubkit.checks.screening import local_paths
from hubkit.core.bounded_json import LARGE, JsonError, JsonLimits, load_json

ROOT = Path(__file__).parents[2]
BOUNDS = {
    "a config.json of 64 MB": (10, 100e6, "too-large"),
    "settings of as many values as are read": (10, 400e6, None),
    "a tokenizer of 262,000 tokens": (10, 400e6, None),
    "a header of 250,000 tensors": (15, 300e6, None),
    "a manifest of 80,000 files": (6, 300e6, None),
}
"""Seconds of processor time, bytes, and the rule that must find something."""


@pytest.mark.fault("S15")
@pytest.mark.parametrize("kind", BOUNDS)
def test_a_large_file_takes_bounded_time_and_memory(
    kind: str, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    large_files.KINDS[kind](tmp_path)
    child = subprocess.run(
        [sys.executable, str(ROOT / "tests/support/large_files.py"), kind, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "toolkit", ROOT / "stages")))},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    report = json.loads(child.stdout)
    seconds, memory, rule = BOUNDS[kind]
    record_property("figure", f"{kind}: {report['seconds']:.1f} s, {report['bytes'] / 1e6:.0f} MB")
    assert report["seconds"] < seconds and report["bytes"] < memory, report
    assert rule is None or rule in report["rules"]


@pytest.mark.fault("S15")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"[" * 100_000, "is not valid JSON: nested too deeply"),
        (b"[" + b"[]," * 100, "has more than 100 values"),
        (b'{"a": 1' + b" " * 200_000 + b"}", "has 200,008 bytes; at most 200,000 bytes are read"),
        (b"1" * 5000, "is not valid JSON: Exceeds the limit"),
        (b"\xff", "is not valid JSON: 'utf-8' codec"),
        (b"", "is not valid JSON: Expecting value"),
    ],
)
def test_json_that_is_refused_is_one_error(text: bytes, problem: str) -> None:
    limits = LARGE if text[:2] == b"[[" and len(text) > 1000 else JsonLimits(200_000, 100)
    with pytest.raises(JsonError) as caught:
        load_json(text, limits)
    assert str(caught.value).startswith(problem)


@pytest.mark.fault("S15")
@pytest.mark.parametrize("piece", ["-", "\\", "a", " ", ":", "a:", "C:\\", "/home", "\\\\a", "- ", "~/"])
def test_a_line_of_a_megabyte_is_searched_in_one_pass(piece: str) -> None:
    line = "x" + piece * (1_000_000 // len(piece))
    start = time.process_time()
    local_paths.in_yaml(line[1:])
    local_paths.in_yaml(line)
    assert time.process_time() - start < 5


@pytest.mark.fault("S15")
def test_a_number_that_is_no_number_anywhere_else_is_read_as_python_reads_it() -> None:
    assert load_json(b'{"a": 1e999999, "b": [1, 2.5, null]}') == {"a": float("inf"), "b": [1, 2.5, None]}
