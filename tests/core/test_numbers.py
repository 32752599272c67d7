"""How numbers are written: every kind, at the borders of its rules."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubkit.core import numbers

CASES: list[tuple[Callable[[float], str], list[tuple[float, str]]]] = [
    (
        numbers.share,
        [
            (0.9765625, "97.7 %"),
            (1, "100 %"),
            (1.0, "100 %"),
            (0, "0 %"),
            (0.0005, "0.1 %"),
            (0.98, "98.0 %"),
            (0.9999, "100.0 %"),
            (0.0001, "0.0 %"),
            (0.285, "28.5 %"),
            (1.1, "110.0 %"),
        ],
    ),
    (numbers.score, [(0.44205, "0.4421"), (1, "1.0000"), (-0.00001, "0.0000"), (0.0, "0.0000")]),
    (numbers.score_of_hundred, [(0.285, "28.50"), (0.44205, "44.21")]),
    (numbers.signed, [(0.0122, "+0.0122"), (-0.0061, "-0.0061"), (0, "0.0000"), (-0.00001, "0.0000")]),
    (numbers.count, [(7, "7"), (7000, "7,000"), (4321.9, "4,322"), (2**70, "1,180,591,620,717,411,303,424")]),
    (numbers.parameters, [(361_000, "361,000"), (1_048_576, "1.05 M"), (7_241_732_096, "7.24 B")]),
    (
        numbers.size,
        [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (1_400_000, "1.4 MB"),
            (14_480_000_000, "14.5 GB"),
            (1.2e12, "1.2 TB"),
            (5e15, "5000.0 TB"),
        ],
    ),
    (
        numbers.duration,
        [
            (0.44, "0.4 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (42.4, "42 s"),
            (59.4, "59 s"),
            (59.5, "1 min 00 s"),
            (185, "3 min 05 s"),
            (3599.4, "59 min 59 s"),
            (3599.5, "1 h 00 min"),
            (35280, "9 h 48 min"),
        ],
    ),
    (numbers.seconds, [(2.0, "2 s"), (0.5, "0.5 s"), (7200, "7,200 s")]),
    (numbers.token_rate, [(3.14, "3.1 tokens/s"), (9.96, "10 tokens/s"), (1234.4, "1,234 tokens/s")]),
    (numbers.loss, [(0.6931, "0.693"), (12, "12.000")]),
    (numbers.short, [(0.6097560975609756, "0.61"), (2.13e-05, "2.13e-05")]),
    (numbers.exact, [(5e-05, "5e-05"), (16, "16"), (2.0, "2"), (1024, "1024"), (0.1, "0.1")]),
]


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [(write, value, text) for write, samples in CASES for value, text in samples],
    ids=lambda item: getattr(item, "__name__", str(item)),
)
def test_each_kind_of_number(write: Callable[[float], str], value: float, text: str) -> None:
    assert write(value) == text


@pytest.mark.parametrize("write", [write for write, _ in CASES], ids=lambda write: write.__name__)
def test_what_was_not_measured_says_so(write: Callable[[float | None], str]) -> None:
    assert write(None) == "not measured"


def test_a_count_agrees_with_its_noun() -> None:
    assert [numbers.counted(n, "token") for n in (0, 1, 2, 1234)] == ["0 tokens", "1 token", "2 tokens", "1,234 tokens"]
    assert numbers.counted(2, "query", "queries") == "2 queries" and numbers.counted(1, "query", "queries") == "1 query"
    assert numbers.short_commit("0123456789abcdef") == "0123456789ab" and numbers.short_commit(None) == "not measured"


@given(st.floats(min_value=0, max_value=1e11, allow_nan=False))
def test_a_longer_time_and_a_larger_file_never_look_smaller(value: float) -> None:
    def seconds(text: str) -> float:
        units = {"s": 1, "min": 60, "h": 3600}
        words = text.replace(",", "").split()
        return sum(float(words[i]) * units[words[i + 1]] for i in range(0, len(words), 2))

    assert abs(seconds(numbers.duration(value)) - value) <= max(
        0.051, 0.51 if value >= 9.95 else 0, 30.1 if value >= 3599 else 0
    )
    amount, unit = numbers.size(value).split()
    assert float(amount) <= 1000
    assert abs(float(amount) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit] - value) <= max(0.51, 0.051 * value)


def test_it_can_be_copied_beside_the_app_of_a_space() -> None:
    """The standard library alone, and under its name there it shadows no module."""
    tree = ast.parse(Path(numbers.__file__).read_text(encoding="utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    assert "number_format" not in sys.stdlib_module_names
