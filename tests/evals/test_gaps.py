"""Files with gaps: what lacks a number, a direction or a unit has no average; what a file does not say is no fault."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hubkit.core.errors import UsageError
from hubkit.evals.comparing import compare
from hubkit.evals.csv_table import read_csv
from hubkit.evals.printed_tables import read_text
from hubkit.evals.readers import read_value
from hubkit.evals.results import Metric, Results, TaskResult
from hubkit.evals.tables import tables


def _measured(results: Results, suite: str, name: str) -> TaskResult:
    found = results.suites[suite].tasks[name]
    assert found is not None
    return found


def test_a_task_without_a_number_is_missing_and_so_is_its_groups_average() -> None:
    for nothing in (float("nan"), "N/A", None, 10**400):
        raw = {
            "results": {
                "agieval_x": {"alias": "g", " ": " "},
                "t1": {"alias": "t1", "acc,none": nothing, "acc_stderr,none": "N/A"},
                "t2": {"acc,none": 0.25},
                "t3": {"acc,none": 0.75},
            },
            "group_subtasks": {"agieval_x": ["t1", "t2", "t3"]},
        }
        read = read_value(raw, "x.json", "x")
        assert list(read.suites) == ["agieval_x"] and read.suites["agieval_x"].tasks["t1"] is None
        assert "Average: not measured" in tables(read) and "not measured: t1" in tables(read)
        assert read_text(tables(read), "x", "x").average.value is None
    with pytest.raises(UsageError, match="contains no measured number"):
        read_value({"results": {"t1": {"acc,none": "N/A"}}}, "x.json", "x")


def test_groups_that_an_older_file_names_are_no_tasks() -> None:
    group = {"acc,none": 0.9}
    raw = {"results": {"g": group, "a": {"acc,none": 0.2}, "b": {"acc,none": 0.4}}, "groups": {"g": group}}
    read = read_value(raw, "x.json", "x")
    assert list(read.suites["other"].tasks) == ["a", "b"] and read.average.value == pytest.approx(0.3)


def test_a_group_in_the_second_of_lm_evals_tables_is_no_task() -> None:
    """Of the groups below a group the second table does not show which tasks they have."""
    head = "|{}|Version|Filter|n-shot|Metric|   |Value|   |Stderr|\n|---|---|---|---|---|---|---|---|---|\n"
    row = "|{}|1|none|0|acc|↑|0.25|±|0.01|\n"
    first = "".join(row.format(name) for name in ("mmlu", " - stem", "  - anatomy", " - other", "  - virology"))
    second = "".join(row.format(name) for name in ("mmlu", " - stem", " - other"))
    read = read_text(f"{head.format('Tasks')}{first}\n{head.format('Groups')}{second}", "x", "x")
    assert list(read.suites["other"].tasks) == ["anatomy", "virology"]


def test_a_row_that_only_heads_others_is_no_task() -> None:
    read = read_text("|Task|Metric|Value|\n|-|-|-|\n|**Ours**| | |\n|a|acc|0.5|\n", "x", "x")
    assert list(read.suites["other"].tasks) == ["a"]


def test_the_same_task_in_three_of_lightevals_suites_is_three_tasks() -> None:
    results = {
        "a|x|5": {"acc": 0.1},
        "b|x|5": {"acc": 0.2},
        "c|x|5": {"acc": 0.3},
        "x": {"acc": 0.4},
        "y|0": {"acc": 1},
    }
    read = read_value({"config_general": {}, "results": results}, "x.json", "x")
    assert list(read.suites["lighteval"].tasks) == ["a|x|5", "b|x|5", "c|x|5", "x", "y"]
    results["y|0"] = {"acc": float("nan")}
    read = read_value({"config_general": {}, "results": results}, "x.json", "x")
    assert read.average.value is None and read.suites["lighteval"].average.missing == ("y",)


def test_what_a_file_leaves_null_is_not_known() -> None:
    parts = ("n-samples", "configs", "higher_is_better", "versions", "n-shot")
    for nothing in (dict.fromkeys(parts), {part: {"t": None} for part in parts}):
        read = read_value({"results": {"t": {"acc,none": 0.5}}, **nothing}, "x.json", "x")
        task = _measured(read, "other", "t")
        assert (task.version, task.n, task.metrics["acc"]) == ("", 0, Metric(value=0.5, n=0))


def test_perplexity_is_better_when_lower_whatever_the_file_leaves_out() -> None:
    raw = {"results": {"w": {"word_perplexity,none": 15.2}}}
    text = "|Task|Metric|Value|\n|-|-|-|\n|w|word_perplexity|15.2|\n"
    for read in (read_value(raw, "x", "x"), read_text(text, "x", "x")):
        assert _measured(read, "other", "w").metrics["word_perplexity"].higher_is_better is False


@pytest.mark.parametrize(
    "rows",
    ["a,acc_norm,0.7\nw,word_perplexity,15.2", "a,acc,0.7\nb,bleu,31.5", "a,acc,0.7,true\nb,brier,0.2,false"],
)
def test_unlike_metrics_have_no_average(rows: str) -> None:
    head = "task,metric,value" + (",higher_is_better" if rows.count(",") == 6 else "")
    read = read_csv(f"{head}\n{rows}\n", "x.csv", "x")
    assert read.average.value is None and read.suites["other"].average.missing == ()
    assert "Average: not measured" in tables(read) and "no average: the metrics differ" in tables(read)


def test_a_higher_average_of_perplexities_is_worse() -> None:
    head = "task,metric,value,stderr,higher_is_better\n"
    before, after = (read_csv(f"{head}a,ppl,{a},0.1,false\nb,ppl,5,0.1,false\n", "x.csv", "x") for a in ("5", "9"))
    found = compare(before, after)
    assert [line.better for line in (found.suites[0].tasks[0], found.suites[0].average, found.average)] == [False] * 3


@pytest.mark.parametrize("rows", ["a,acc_norm,70\nb,acc,0.9", "a,acc,0.5\nb,f1,0.7", "a,acc,50\nb,f1,0\nc,em,70"])
def test_metrics_of_one_kind_have_an_average(rows: str) -> None:
    assert read_csv(f"task,metric,value\n{rows}\n", "x.csv", "x").average.value is not None


def test_suites_of_unlike_metrics_have_no_average_of_all() -> None:
    read = read_csv("task,metric,value,suite\na,acc,0.5,A\nw,ppl,15.2,W\n", "x.csv", "x")
    assert read.suites["W"].average.value == 15.2 and read.average.value is None and read.average.missing == ()


@pytest.mark.parametrize(
    "raw",
    [
        {"results": {"t": {"word_perplexity,none": 1.2e25}}},
        {"results": {"t": {"acc,none": 1.7e308, "acc_stderr,none": 1e308}, "u": {"acc,none": 1.7e308}}},
        {"results": {"t": {"acc,none": 0.5}}, "config": {"limit": 10**400}},
        {"results": {"t": {"acc,none": 0.5}}, "config": {"batch_size": "5²"}, "n-shot": {"t": "5²"}},
        {"results": {"t": {"acc,none": 0.5}}, "total_evaluation_time_seconds": 10**400},
        {"results": {"t|x|5²": {"acc": 0.5}, "t|5": {"acc": 1}}, "config_general": {}},
    ],
)
def test_numbers_beyond_all_measure_are_read(raw: dict[str, Any]) -> None:
    assert "|t" in tables(read_value(raw, "x", "x"))


def test_an_infinite_count_is_refused() -> None:
    with pytest.raises(UsageError, match="not a valid lm-eval results file"):
        read_value({"results": {"t": {"acc,none": 0.5}}, "n-samples": {"t": {"effective": math.inf}}}, "x", "x")


def test_a_superscript_in_a_table_is_no_number_of_shots() -> None:
    read = read_text(
        "hf (pretrained=a), limit: 9, num_fewshot: 5²\n|Task|n-shot|Metric|Value|\n|-|-|-|-|\n|a|5²|acc|1|", "x", "x"
    )
    assert _measured(read, "other", "a").n_shot is None and read.settings.num_fewshot is None
