"""Two models compared: the difference, its error, and when neither may be believed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubkit.evals.comparing import compare
from hubkit.evals.results import Metric, Results, Settings, Subject, SuiteResult, TaskResult

SETTINGS = Settings(backend="hf", apply_chat_template=True, dtype="bfloat16", batch_size=8, device="cpu")


def _results(
    tasks: dict[str, dict[str, tuple[float, float | None]]], *, n: int = 100, version: str = "1.0", **settings: object
) -> Results:
    made: dict[str, TaskResult | None] = {
        name: TaskResult(
            name=name,
            version=version,
            n_shot=0,
            n=n,
            metrics={metric: Metric(value=value, stderr=error, n=n) for metric, (value, error) in metrics.items()},
        )
        for name, metrics in tasks.items()
    }
    return Results.of(
        suites={"s": SuiteResult.of("s", "S", "acc_norm else acc", made)},
        subject=Subject(repo="a/b", commit="c", form="other"),
        settings=SETTINGS.model_copy(update=settings),
        libraries={},
        seconds=1.0,
    )


def test_the_error_of_a_difference_is_the_root_of_both_squared() -> None:
    before = _results({"one": {"acc": (0.50, 0.03), "acc_norm": (0.40, 0.03)}})
    after = _results({"one": {"acc": (0.61, 0.04), "acc_norm": (0.39, 0.04)}})
    suite = compare(before, after).suites[0]
    acc, norm = suite.tasks
    assert (acc.metric, acc.counts, norm.metric, norm.counts) == ("acc", False, "acc_norm", True)
    assert acc.value == pytest.approx(0.11) and acc.stderr == pytest.approx(0.05)
    assert (acc.exceeds, acc.better) == (True, True)
    assert (norm.exceeds, norm.better) == (False, False)
    assert suite.average.value == pytest.approx(-0.01) and suite.average.stderr == pytest.approx(0.05)


def test_exactly_two_errors_do_not_exceed() -> None:
    before, after = _results({"one": {"acc": (0.0, 0.25)}}), _results({"one": {"acc": (0.5, 0.0)}})
    assert compare(before, after).suites[0].tasks[0].exceeds is False
    assert compare(before, _results({"one": {"acc": (0.5000001, 0.0)}})).suites[0].tasks[0].exceeds is True


def test_what_one_side_lacks_is_none_never_zero() -> None:
    before = _results({"one": {"acc": (0.5, None)}, "two": {"acc": (0.5, 0.1)}})
    after = _results({"one": {"acc": (0.9, 0.1)}})
    comparison = compare(before, after)
    one, two = comparison.suites[0].tasks
    assert one.value == pytest.approx(0.4) and one.stderr is None and one.exceeds is None
    assert two.after is None and two.value is None and two.better is None
    assert comparison.suites[0].average.notes == ("averages over different tasks",)


def test_different_versions_shots_questions_and_settings_are_said() -> None:
    before = _results({"one": {"acc": (0.5, 0.1)}})
    after = _results({"one": {"acc": (0.6, 0.1)}}, n=50, version="2.0", limit=50, apply_chat_template=False)
    comparison = compare(before, after)
    assert comparison.suites[0].tasks[0].notes == ("task versions 1.0 and 2.0", "100 and 50 questions")
    assert comparison.notes == ("chat template applied: yes and no", "limit: none and 50")
    unknown = _results({"one": {"acc": (0.6, 0.1)}}, n=0, version="", apply_chat_template=None)
    assert compare(before, unknown).notes == () and compare(before, unknown).suites[0].tasks[0].notes == ()


@given(st.floats(0, 1), st.floats(0, 0.2), st.floats(0, 1), st.floats(0, 0.2))
def test_the_other_way_round_changes_the_sign_alone(a: float, ea: float, b: float, eb: float) -> None:
    one, two = _results({"one": {"acc": (a, ea)}}), _results({"one": {"acc": (b, eb)}})
    there, back = compare(one, two).suites[0].tasks[0], compare(two, one).suites[0].tasks[0]
    assert there.value is not None and back.value is not None and there.stderr == back.stderr
    assert math.isclose(there.value, -back.value) and there.exceeds == back.exceeds
