"""The named suites, held against the installed lm-evaluation-harness: names, shots, answers and metrics."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from hubkit.evals.averages import average_of_tasks
from hubkit.evals.leaderboard import BENCHMARKS, benchmark_of
from hubkit.evals.results import Metric, TaskResult
from hubkit.evals.suites import SUITES


def _config(entry: Any) -> dict[str, Any]:
    """The task file with all that it includes; functions stay names, so that nothing of theirs is imported."""
    from lm_eval.tasks._yaml_loader import load_yaml

    return dict(load_yaml(entry.yaml_path, resolve_func=False, recursive=True))


@pytest.fixture(scope="module")
def index() -> Any:
    """lm-eval's own index of all of its tasks, built with every socket refused."""
    from lm_eval.tasks import TaskManager

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a connection was asked for")

    kept = socket.socket.connect
    socket.socket.connect = refused  # type: ignore[method-assign,assignment]
    try:
        return TaskManager().task_index
    finally:
        socket.socket.connect = kept  # type: ignore[method-assign]


def test_all_tasks_of_all_suites_resolve_in_the_harnesss_own_index_without_a_network(index: Any) -> None:
    from lm_eval.tasks._index import Kind

    assert set(SUITES) == {"agieval", "bigbench", "gpt4all", "truthfulqa", "openllm"}
    for suite in SUITES.values():
        assert [name for name in suite.tasks if name not in index] == []
        assert {index[name].kind for name in suite.tasks} <= {Kind.TASK, Kind.PY_TASK}


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_the_metrics_of_a_suites_rule_are_what_its_tasks_report(index: Any, suite: str) -> None:
    from hubkit.evals.averages import RULES

    wanted = set(RULES[SUITES[suite].rule].metrics)
    for name in SUITES[suite].tasks:
        renamed = SUITES[suite].renamed.get(name, {})
        metrics = {item["metric"] for item in _config(index[name]).get("metric_list", [{"metric": "acc"}])}
        assert wanted & {renamed.get(metric, metric) for metric in metrics} or name == "truthfulqa_mc1"


def test_the_leaderboards_groups_are_ours(index: Any) -> None:
    """The harness's own groups name the same tasks."""
    groups = {
        "leaderboard_bbh": "BBH",
        "leaderboard_math_hard": "MATH Lvl 5",
        "leaderboard_gpqa": "GPQA",
        "leaderboard_musr": "MuSR",
    }
    for group, title in groups.items():
        (ours,) = [item for item in BENCHMARKS if item.title == title]
        assert sorted(_config(index[group])["task"]) == sorted(ours.tasks)
    assert len(SUITES["openllm"].tasks) == 1 + 24 + 7 + 3 + 3 + 1


def test_the_leaderboards_shots_metrics_and_answers_are_those_of_the_task_files(index: Any) -> None:
    for benchmark in BENCHMARKS:
        for name in benchmark.tasks:
            config = _config(index[name])
            assert (config.get("num_fewshot") or 0) == benchmark.shots, name
            assert set(benchmark.metrics) <= {item["metric"] for item in config["metric_list"]}, name
            choices = config.get("doc_to_choice")
            if isinstance(choices, list):
                assert benchmark.chance(name) == 1 / len(choices), name
            elif config["output_type"] == "generate_until":
                assert benchmark.chance(name) == 0.0, name
    assert benchmark_of("arc_challenge") is None


def _task(name: str, n: int = 100, **metrics: float) -> TaskResult:
    made = {metric: Metric(value=value, stderr=0.1, n=n) for metric, value in metrics.items()}
    return TaskResult(name=name, version="1.0", n_shot=0, n=n, metrics=made)


def _leaderboard(value: float) -> dict[str, TaskResult | None]:
    return {
        name: _task(name, **dict.fromkeys(benchmark.metrics, value))
        for benchmark in BENCHMARKS
        for name in benchmark.tasks
    }


def test_all_right_is_one_and_guessing_or_less_is_nothing() -> None:
    assert average_of_tasks("leaderboard", _leaderboard(1.0)).value == pytest.approx(1.0)
    assert average_of_tasks("leaderboard", _leaderboard(0.0)).value == 0.0
    guessed: dict[str, TaskResult | None] = {
        name: _task(name, **dict.fromkeys(benchmark.metrics, benchmark.chance(name)))
        for benchmark in BENCHMARKS
        for name in benchmark.tasks
    }
    assert average_of_tasks("leaderboard", guessed).value == pytest.approx(0.0)


def test_each_benchmark_of_the_leaderboard_is_made_as_its_documentation_says() -> None:
    tasks = _leaderboard(0.0)
    tasks["leaderboard_ifeval"] = _task("leaderboard_ifeval", inst_level_strict_acc=0.6, prompt_level_strict_acc=0.4)
    assert average_of_tasks("leaderboard", tasks).value == pytest.approx(0.5 / 6)
    tasks = _leaderboard(0.0)
    # Two answers to choose from: 0.75 is half way from guessing. One of three tasks, then one of six benchmarks.
    tasks["leaderboard_musr_murder_mysteries"] = _task("leaderboard_musr_murder_mysteries", acc_norm=0.75)
    assert average_of_tasks("leaderboard", tasks).value == pytest.approx(0.5 / 3 / 6)
    tasks = _leaderboard(0.0)
    # By questions: (0.7 x 300 + 0.1 x 100 + 0.1 x 100) / 500 = 0.46; guessing gives 0.25.
    tasks["leaderboard_gpqa_main"] = _task("leaderboard_gpqa_main", n=300, acc_norm=0.7)
    for part in ("diamond", "extended"):
        tasks[f"leaderboard_gpqa_{part}"] = _task(f"leaderboard_gpqa_{part}", acc_norm=0.1)
    assert average_of_tasks("leaderboard", tasks).value == pytest.approx((0.46 - 0.25) / 0.75 / 6)


def test_the_leaderboards_average_is_missing_when_a_task_a_metric_or_the_sizes_are() -> None:
    tasks = _leaderboard(0.5)
    del tasks["leaderboard_bbh_navigate"]
    tasks["leaderboard_ifeval"] = _task("leaderboard_ifeval", inst_level_strict_acc=0.6)
    tasks["leaderboard_gpqa_main"] = _task("leaderboard_gpqa_main", n=0, acc_norm=0.7)
    average = average_of_tasks("leaderboard", tasks)
    assert average.value is None
    assert set(average.missing) == {"leaderboard_ifeval", "leaderboard_bbh_navigate", "leaderboard_gpqa_main"}
