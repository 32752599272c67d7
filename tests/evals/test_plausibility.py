"""Each doubt, with the value that raises it and its neighbour that does not. Nothing is ever changed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubkit.evals.plausibility import implausible_values
from hubkit.evals.results import Metric, Results, Settings, Subject, SuiteResult, TaskResult


def _results(
    *tasks: tuple[str, str, float, float | None], n: int = 0, available: int | None = None, limit: int | None = None
) -> Results:
    made: dict[str, dict[str, Metric]] = {}
    for name, metric, value, stderr in tasks:
        made.setdefault(name, {})[metric] = Metric(value=value, stderr=stderr, n=n)
    suite = {
        name: TaskResult(name=name, version="1", n_shot=0, n=n, available=available, metrics=metrics)
        for name, metrics in made.items()
    }
    return Results.of(
        suites={"s": SuiteResult.of("s", "S", "own", suite)},
        subject=Subject(repo="a/b", form="other"),
        settings=Settings(
            backend="hf", apply_chat_template=True, limit=limit, dtype="bfloat16", batch_size=8, device="cpu"
        ),
        libraries={},
        seconds=1.0,
    )


def _codes(results: Results) -> list[str]:
    before = results.model_dump_json()
    found = [item.code for item in implausible_values(results)]
    assert results.model_dump_json() == before
    return found


def _error(value: float, n: int) -> float:
    return math.sqrt(value * (1 - value) / (n - 1))


@pytest.mark.parametrize(
    ("task", "metric", "value", "stderr", "n", "codes"),
    [
        ("t", "acc", 0.61, _error(0.61, 500), 500, []),
        ("t", "acc", 0.61, None, 500, []),
        ("t", "acc", 61.0, 2.2, 0, ["not-a-share"]),
        ("t", "acc_norm", -0.1, 0.01, 0, ["not-a-share"]),
        ("t", "word_perplexity", 61.0, 2.2, 0, []),
        ("t", "mc2", 1.2, 0.01, 0, ["not-a-share"]),
        ("t", "acc", 0.6, -0.01, 0, ["negative-error"]),
        ("t", "acc", 0.5, _error(0.5, 1000), 1000, ["chance"]),
        ("t", "acc", 0.5, _error(0.5, 10), 10, []),
        ("t", "acc", 0.501, _error(0.501, 1000), 1000, []),
        ("t", "acc", 0.0, 0.0, 1000, ["none-right"]),
        ("t", "acc", 1.0, 0.0, 1000, []),
        ("leaderboard_bbh_date_understanding", "acc_norm", 1 / 6, 0.0236, 250, ["chance"]),
        ("leaderboard_bbh_date_understanding", "acc_norm", 0.05, _error(0.05, 250), 250, ["below-chance"]),
        ("leaderboard_bbh_date_understanding", "acc_norm", 0.15, _error(0.15, 250), 250, []),
        ("t", "acc", 0.61, 0.01, 500, ["error-does-not-fit"]),
        ("t", "acc", 0.61, 0.0, 0, ["error-does-not-fit"]),
        ("t", "acc", 0.61, math.sqrt(0.61 * 0.39 / 500), 500, []),
        ("t", "f1", 0.61, 0.01, 500, []),
    ],
)
def test_each_rule(task: str, metric: str, value: float, stderr: float | None, n: int, codes: list[str]) -> None:
    assert _codes(_results((task, metric, value, stderr), n=n)) == codes


def test_two_tasks_that_are_equal_in_value_and_error() -> None:
    pair = ("a", "acc", 0.5067, 0.0289), ("b", "acc", 0.5067, 0.0289)
    assert _codes(_results(*pair)) == ["equal"]
    assert implausible_values(_results(*pair))[0].tasks == ("a", "b")
    assert _codes(_results(pair[0], ("b", "acc", 0.5067, 0.0288))) == []
    assert _codes(_results(pair[0], ("b", "acc_norm", 0.5067, 0.0289))) == []
    assert _codes(_results(pair[0], ("a", "acc_norm", 0.5067, 0.0289))) == []
    # Exact values that only agree when they are rounded are two measurements.
    assert _codes(_results(pair[0], ("b", "acc", 0.50671, 0.0289))) == []
    error = _error(0.4, 10)
    assert _codes(_results(("a", "acc", 0.4, error), ("b", "acc", 0.4, error), n=10)) == []


def test_errors_of_one_task_must_fit_one_number_of_questions() -> None:
    assert _codes(_results(("a", "acc", 0.7379, 0.0307), ("a", "acc_norm", 0.7282, 0.0311))) == []
    assert _codes(_results(("a", "acc", 0.7379, 0.0307), ("a", "acc_norm", 0.7282, 0.0150))) == ["error-does-not-fit"]


def test_questions_left_out_without_a_limit() -> None:
    assert _codes(_results(("a", "acc", 0.61, None), n=200, available=817)) == ["not-all-questions"]
    assert _codes(_results(("a", "acc", 0.61, None), n=200, available=817, limit=200)) == []


@given(st.integers(2, 20_000), st.data())
def test_what_a_harness_measures_and_rounds_always_fits(n: int, data: st.DataObject) -> None:
    """Any share of n questions, with the error that lm-eval gives it, exact or rounded as tables show it."""
    value = data.draw(st.integers(0, n)) / n
    stderr = _error(value, n)
    assert "error-does-not-fit" not in _codes(_results(("a", "acc", value, stderr), n=n))
    rounded = round(value, 4), round(stderr, 4)
    if rounded[1] > 0.0001 and 0 < rounded[0] < 1:
        assert "error-does-not-fit" not in _codes(_results(("a", "acc", *rounded), n=n))
        assert "error-does-not-fit" not in _codes(_results(("a", "acc", *rounded), ("a", "exact_match", *rounded)))


@given(st.integers(20, 20_000), st.data())
def test_two_metrics_of_the_same_questions_fit_each_other(n: int, data: st.DataObject) -> None:
    one, two = (data.draw(st.integers(1, n - 1)) / n for _ in range(2))
    rows = [(name, round(value, 4), round(_error(value, n), 4)) for name, value in (("acc", one), ("acc_norm", two))]
    results = _results(*(("a", name, value, error) for name, value, error in rows if 0 < value < 1))
    assert "error-does-not-fit" not in [code for code in _codes(results) if all(error > 0 for _, _, error in rows)]
