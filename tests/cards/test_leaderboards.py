"""Results for the Hub's leaderboards: whole tasks that are registered, in the form that the Hub documents."""

from __future__ import annotations

from typing import Any

import card_samples as samples
import pytest
import yaml
from huggingface_hub import EvalResultEntry
from huggingface_hub._eval_results import parse_eval_result_entries

from hubkit.cards.evidence import Evidence
from hubkit.cards.leaderboards import REGISTERED, eval_results, eval_results_problems
from hubkit.cards.measured import resolve_pointer
from hubkit.core.names import repo_id_problem
from hubkit.evals.results import Metric, Results, SuiteResult, TaskResult
from hubkit.evals.suites import resolve


def _evidence(task: str = "gsm8k", *, limit: int | None = None, n: int = 1319, metric: str = "exact_match") -> Evidence:
    measured = TaskResult(
        name=task, version="3", n_shot=5, n=n, available=1319,
        metrics={"flexible": Metric(value=0.7, stderr=0.01, n=n), metric: Metric(value=0.9681, stderr=0.01, n=n)},
    )  # fmt: skip
    one = samples.results(0.5, limit=limit)
    found = Results.of(
        suites={"s": SuiteResult.of("s", "S", "own", {task: measured, "tiny": None})},
        **{name: getattr(one, name) for name in ("subject", "settings", "libraries", "seconds")},
    ).model_dump(mode="json")
    return Evidence({"evaluate[main]": {"results.json": found}}, "")


def test_a_whole_registered_task_is_entered_in_per_cent_and_can_be_traced() -> None:
    evidence = _evidence()
    ((path, (text, numbers)),) = eval_results("main", evidence).items()
    assert path == ".eval_results/gsm8k.yaml" and list(eval_results_problems(text)) == []
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert entry == EvalResultEntry(
        dataset_id="openai/gsm8k", task_id="gsm8k", value=96.81,
        notes="lm-evaluation-harness 0.4.13, 5-shot, task gsm8k",
    )  # fmt: skip
    (number,) = numbers
    assert number.text == "96.81" and number.value == 0.9681
    assert resolve_pointer(evidence.get(number.step, number.file), number.pointer) == 0.9681


@pytest.mark.parametrize(
    "facts", [{"limit": 20}, {"n": 1000}, {"task": "hellaswag"}, {"metric": "acc"}, {"task": "gsm8k_of_my_own"}]
)
def test_a_part_of_a_task_or_one_that_nobody_registers_is_not(facts: dict[str, Any]) -> None:
    assert eval_results("main", _evidence(**facts)) == {}
    assert eval_results("dpo-v0", _evidence()) == {}, "a branch that was not measured"


def test_the_registered_tasks_are_lm_evals_and_name_data_sets() -> None:
    for task, board in REGISTERED.items():
        assert resolve([task])[0].tasks == (task,)
        assert repo_id_problem(board.dataset) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not valid YAML"),
        ("{}", "not a list"),
        ("[]", "not a list"),
        ("- 1", "not a mapping"),
        ("- value: 1", "has no 'dataset'"),
        ("- {dataset: {id: x/y}, value: 1}", "lacks dataset.task_id"),
        ("- {dataset: {id: /home/me, task_id: t}, value: 1}", "not a repo id"),
        ("- {dataset: {id: x/y, task_id: t}, value: TBD}", "not a number"),
        ("- {dataset: {id: x/y, task_id: t}, value: true}", "not a number"),
        ("- {dataset: {id: x/y, task_id: t, split: test}, value: 1}", "unknown key dataset.split"),
        ("- {dataset: {id: x/y, task_id: t}, value: 1, score: 2}", "unknown key 'score'"),
        ("- {dataset: {id: x/y, task_id: t}, value: 1, source: {name: me}}", "lacks source.url"),
        ("- {dataset: {id: x/y, task_id: t}, value: 1, date: yesterday}", "which is not of the form"),
    ],
)
def test_what_is_not_of_the_documented_form_is_named(text: str, said: str) -> None:
    assert any(said in problem for problem in eval_results_problems(text)), list(eval_results_problems(text))


def test_all_that_the_form_allows_passes() -> None:
    text = (
        "- {dataset: {id: x/y, task_id: t, revision: abc}, value: 1.5, verifyToken: t, date: '2026-01-31T10:00:00Z',\n"
        "   source: {url: 'https://x.example', name: n, user: u}, evaluation_framework: f, notes: n}\n"
    )
    assert list(eval_results_problems(text)) == []
