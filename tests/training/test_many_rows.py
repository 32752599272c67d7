"""Rows are mapped from their file, never a list in memory: a training begins in the same memory whatever their number.

`make test` tries 60,000 rows, `make soak` a million; tests/benchmarks/data.py measures the data step before it too.
"""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from held_memory import Memory
from many_rows import case_of, first_step
from soak_figures import record

pytestmark = pytest.mark.train
FEW = 1000
BYTES = 100
"""Memory for each further row: the sampler shuffles their numbers as a list of Python's, 36 bytes each, perhaps twice.
A row as lists of tokens takes more than a thousand."""


@pytest.mark.parametrize(
    ("method", "count"),
    [
        ("dpo", 60_000),
        pytest.param("dpo", 1_000_000, marks=pytest.mark.soak),
        pytest.param("sft", 1_000_000, marks=pytest.mark.soak),
    ],
)
def test_the_first_step_takes_no_more_memory_with_many_rows(method: str, count: int, tmp_path: Path) -> None:
    peaks, seconds = {}, {}
    for rows in (FEW, FEW, count):  # the first time libraries allocate what they keep
        folder = tmp_path / f"{rows}-{len(peaks)}"
        folder.mkdir()
        case_of(folder, method, rows)
        gc.collect()
        memory = Memory()
        memory.start()
        took = first_step(folder, method)
        peaks[rows], seconds[rows] = memory.end(), took["seconds"]
        assert took["rows"] == rows
    each = (peaks[count] - peaks[FEW]) / count
    if count >= 1_000_000:
        figure = f"{peaks[count] / 1e6:,.0f} MB at most ({each:.0f} bytes for each row beyond {FEW:,})"
        record(f"the first {method} step of a million rows", f"after {seconds[count]:.1f} s, {figure}")
    assert each < BYTES, (peaks, seconds)
