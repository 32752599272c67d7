"""The quality gate: its error rates in a simulation, which docs/quality-gate.md quotes, and what it compares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quality import measured

from hubkit.core.errors import UsageError
from hubkit.evals.paired import Stratum, holm, least_detectable, paired_drop, unpaired_drop
from hubkit.evals.quality_gate import Comparison, condition_problems, judge
from hubkit.evals.scores import SCORES_FILE, Measured, TaskScores, compact, parse_measured, write_measured
from hubkit.evals.suites import Suite
from hubkit.recipe.benchmark_keys import BenchmarkCondition

RUNS = 2_000


def rejected(n: int, changed: float, drop: float, margin: float, level: float = 0.05) -> float:
    """How often a drop counts, in ``RUNS`` pairs of models; the share ``changed`` of ``n`` questions changes."""
    lost, gained = (changed + drop) / 2, (changed - drop) / 2
    draws = np.random.default_rng(20).multinomial(n, [lost, gained, 1 - lost - gained], size=RUNS)
    known: dict[tuple[int, int], bool] = {}
    found = 0
    for worse, better, _ in draws.tolist():
        if (worse, better) not in known:
            drops = np.zeros(n)
            drops[:worse], drops[worse : worse + better] = 1, -1
            known[worse, better] = paired_drop([Stratum(drops.tolist())], margin).p <= level
        found += known[worse, better]
    return found / RUNS


@pytest.mark.parametrize("n", [50, 200, 1000])
@pytest.mark.parametrize("changed", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("margin", [0.0, 0.01, 0.05])
def test_a_model_that_is_as_much_worse_as_it_may_be_is_seldom_refused(n: int, changed: float, margin: float) -> None:
    # Exactly, over all counts, it is at most 4.8 %; what is beyond 5 % here is the error of 2,000 draws.
    assert rejected(n, changed, margin, margin) <= 0.05 + 3 * (0.05 * 0.95 / RUNS) ** 0.5


@pytest.mark.parametrize(
    ("n", "margin", "drop"), [(164, 0.0, 0.08), (1000, 0.0, 0.035), (1000, 0.01, 0.045), (10_000, 0.01, 0.02)]
)
def test_a_drop_is_found_with_a_power_of_nine_tenths(n: int, margin: float, drop: float) -> None:
    assert rejected(n, 0.1, drop, margin) >= 0.9
    assert drop >= least_detectable(n, margin), "what is said to be found is found"


def test_scores_that_are_no_counts_and_suites_of_several_tasks_have_the_same_error_rates() -> None:
    random, runs = np.random.default_rng(21), 200
    alarms = found = 0
    for _ in range(runs):
        before = random.beta(0.5, 0.5, 300)  # most scores near 0 or 1, as of F1
        after = np.where(random.random(300) < 0.3, random.beta(0.5, 0.5, 300), before)
        facts = np.where(random.random(100) < 0.1, random.choice([-1.0, 1.0], 100), 0.0)
        same = [Stratum((before - after).tolist(), 0.5), Stratum(facts.tolist(), 0.5)]
        alarms += paired_drop(same, 0.0).p <= 0.05
        worse = [Stratum((before - np.maximum(after - 0.1, 0)).tolist(), 0.5), same[1]]
        found += paired_drop(worse, 0.0).p <= 0.05
    assert alarms / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
    assert found / runs >= 0.5


def test_a_release_with_five_conditions_is_falsely_refused_as_seldom_as_one_with_one() -> None:
    random, alarms = np.random.default_rng(22), 0
    for _ in range(RUNS):
        lost = random.binomial(20, 0.5, size=5)
        strata = [[1.0] * int(count) + [-1.0] * int(20 - count) + [0.0] * 180 for count in lost]
        alarms += any(refuted for refuted, _ in holm([paired_drop([Stratum(item)], 0.0).p for item in strata]))
    assert alarms / RUNS <= 0.05 + 3 * (0.05 * 0.95 / RUNS) ** 0.5


def test_a_handful_of_changes_is_no_drop_and_mcnemar_is_exact() -> None:
    assert paired_drop([Stratum([1.0] * 4 + [0.0] * 96)], 0.0).p == pytest.approx(0.5**4)
    assert paired_drop([Stratum([1.0] * 10 + [-1.0] * 2 + [0.0] * 88)], 0.0).p == pytest.approx(79 / 4096, rel=0.2)
    assert paired_drop([Stratum([0.0] * 50)], 0.0).p == 1.0
    assert paired_drop([Stratum([1.0] * 50)], 0.1).p == 0.0, "all answers are wrong now"
    assert paired_drop([Stratum([0.1] * 5 + [0.0] * 50), Stratum([0.0] * 9)], 0.0).p == pytest.approx(0.5**5)
    assert (
        unpaired_drop((0.8, 0.02), (0.7, 0.02), 0.0, 400).p < 0.001 < unpaired_drop((0.8, 0.02), (0.75, 0.02), 0, 400).p
    )


def base_minus(margin: float, benchmark: str = "facts") -> BenchmarkCondition:
    return BenchmarkCondition(benchmark, "base", margin)


def verdict(condition: BenchmarkCondition, before: Measured | None, after: Measured, why: str = "") -> Any:
    return judge([Comparison(condition, after, before, why)])[0]


def answers(right: int, n: int = 200) -> list[int]:
    return [1] * right + [0] * (n - right)


def test_the_same_questions_are_compared_in_pairs() -> None:
    found = verdict(base_minus(0.01), measured(facts=answers(180)), measured(facts=answers(140)))
    assert (found.result, found.n, found.changed, found.note) == ("failed", 200, 40, None)
    assert (found.before, found.after, found.drop) == (0.9, 0.7, pytest.approx(0.2))
    assert found.p < 0.001 < found.level == 0.05 and 0.01 < found.detectable < 0.2
    assert verdict(base_minus(0.01), measured(facts=answers(180)), measured(facts=answers(176))).result == "passed"
    assert verdict(base_minus(0.01), measured(facts=answers(140)), measured(facts=answers(180))).result == "passed"


def test_a_suite_is_compared_by_the_mean_of_its_tasks() -> None:
    before, after = measured(a=answers(180), b=answers(30, 60)), measured(a=answers(180), b=answers(10, 60))
    found = verdict(base_minus(0.0, "all"), before, after)
    assert (found.result, found.drop, found.n) == ("failed", pytest.approx(1 / 6), 260)
    assert verdict(base_minus(0.0, "a"), before, after).result == "passed"
    assert verdict(base_minus(0.0, "b"), before, after).result == "failed"


def test_fewer_questions_than_before_are_paired_with_those() -> None:
    found = verdict(base_minus(0.0), measured(facts=answers(150)), measured(facts=answers(100, 100)))
    assert (found.result, found.n, found.changed) == ("passed", 100, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "2"}, "measured otherwise: version 1 of facts, now 2"),
        ({"shots": 5}, "measured otherwise: 0 examples in the prompt of facts, now 5"),
        ({"template": False}, "measured otherwise: chat template applied: yes then, no now"),
    ],
)
def test_what_was_measured_otherwise_is_not_compared(change: Mapping[str, Any], said: str) -> None:
    found = verdict(base_minus(0.0), measured(facts=answers(190)), measured(facts=answers(10), **change))
    assert (found.result, found.note, found.p) == ("not compared", said, None)


def test_without_the_scores_of_the_questions_the_standard_errors_decide() -> None:
    before, after = measured(facts=answers(180)), measured(facts=answers(120))
    found = verdict(base_minus(0.0), Measured(before.results), after)
    assert (found.result, found.changed) == ("failed", None) and "unpaired" in found.note
    assert verdict(base_minus(0.0), Measured(before.results), measured(facts=answers(174))).result == "passed"
    others = measured(facts=answers(180), prefix="other")
    assert verdict(base_minus(0.0), others, after).note == "unpaired: facts has other questions now"


def test_scores_that_do_not_give_the_reported_number_are_not_paired() -> None:
    before, after = measured(facts=answers(180)), measured(facts=answers(170))
    wrong = {"facts": TaskScores(after.scores["facts"].questions, {"acc": answers(150)})}
    found = verdict(base_minus(0.0), before, Measured(after.results, wrong))
    assert found.note == "unpaired: acc of facts is no mean over the questions"


def test_what_is_not_there_is_said() -> None:
    after = measured(facts=answers(100))
    found = verdict(base_minus(0.0), None, after, "nothing is published there yet")
    assert (found.result, found.note) == ("not compared", "nothing is published there yet")
    assert verdict(base_minus(0.0, "other"), after, after).note == "it was not measured"


def test_conditions_are_tested_together() -> None:
    before, after = measured(a=answers(100), b=answers(100)), measured(a=answers(94), b=answers(100))
    alone = judge([Comparison(base_minus(0.0, "a"), after, before)])
    both = judge([Comparison(base_minus(0.0, name), after, before) for name in ("a", "b")])
    assert (alone[0].result, both[0].result, both[0].level) == ("failed", "failed", 0.025)
    five = measured(a=answers(95), b=answers(100))
    assert judge([Comparison(base_minus(0.0, "a"), five, before)])[0].result == "failed"
    assert judge([Comparison(base_minus(0.0, name), five, before) for name in ("a", "b")])[0].result == "passed"


def problems(limit: int | None, *conditions: BenchmarkCondition) -> list[tuple[str, bool]]:
    suites = [Suite("facts", "Facts", "own", ("facts_a", "facts_b"))]
    return [(problem, wrong) for _, problem, wrong in condition_problems(conditions, suites, limit)]


def test_what_a_gate_cannot_find_is_said_before_anything_is_measured() -> None:
    assert problems(None, base_minus(0.01), base_minus(0.01, "facts_a")) == []
    assert problems(None, base_minus(0.0, "fact")) == [("'fact' is not among the recipe's benchmarks (facts)", True)]
    (said,) = problems(10, base_minus(0.0))
    assert said[1] and said[0].startswith("with `limit: 10` (20 questions) only a drop of 0.2") and "raise" in said[0]
    assert problems(500, base_minus(0.01)) == [
        ("with `limit: 500` only a drop of 0.0393 or more is found (in 90.0 % of cases)", False)
    ]


def test_scores_are_kept_without_a_word_of_the_questions(tmp_path: Path) -> None:
    def example(place: int, name: str, **metrics: Any) -> dict[str, Any]:
        doc = {"doc": {"question": "secret"}, "doc_hash": f"{place:064x}", "filter": name, "metrics": list(metrics)}
        return {**doc, **metrics}

    samples: dict[str, Iterable[Mapping[str, Any]]] = {
        "a": [
            example(place, name, acc=np.float64(place % 2), both=(1, 2))
            for name in ("none", "strict")
            for place in (1, 2)
        ],
        "perplexity": [example(1, "none", words=(1.0, 2))],
    }
    kept = compact(samples)
    assert kept == {"a": {"questions": ["0" * 16] * 2, "scores": {"acc,none": [1, 0], "acc,strict": [1, 0]}}}
    before = measured(facts=answers(3, 5))
    for name in ("one", "two"):
        write_measured(tmp_path / name, before)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert parse_measured((tmp_path / "one").read_bytes(), "it").scores == before.scores


@pytest.mark.parametrize("content", [b"", b"{}", b"\x1f\x8b\x08\x00", b"not gzip at all"])
def test_a_file_of_scores_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match=SCORES_FILE):
        parse_measured(content, SCORES_FILE)


def test_a_question_that_is_asked_twice_is_paired_with_itself() -> None:
    scores = TaskScores(["x", "x", "y"], {"acc": [1, 0, 1]})
    assert scores.by_question("acc") == {("x", 1): 1, ("x", 2): 0, ("y", 1): 1}
