"""Suites, results, averages and tables: the figures that the field has published, and what goes wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hubkit.core.errors import ConflictError, UsageError
from hubkit.core.numbers import score as four
from hubkit.evals.averages import RULES, average_of_tasks
from hubkit.evals.lm_eval_json import read_lm_eval
from hubkit.evals.results import Metric, Results, Settings, Subject, SuiteResult, TaskResult, read_results
from hubkit.evals.suites import SUITES, Suite, harness_tasks, resolve
from hubkit.evals.tables import classic_table, classic_tables
from hubkit.evals.taskfiles import copy_tasks, own_tasks

# Figures of the published card: task, then metric, value and standard error.
AGIEVAL = {
    "agieval_aqua_rat": [("acc", 0.2559, 0.0274), ("acc_norm", 0.2598, 0.0276)],
    "agieval_logiqa_en": [("acc", 0.3733, 0.0190), ("acc_norm", 0.3886, 0.0191)],
    "agieval_lsat_ar": [("acc", 0.2522, 0.0287), ("acc_norm", 0.2522, 0.0287)],
    "agieval_lsat_lr": [("acc", 0.5137, 0.0222), ("acc_norm", 0.5294, 0.0221)],
    "agieval_lsat_rc": [("acc", 0.5948, 0.0300), ("acc_norm", 0.5725, 0.0302)],
    "agieval_sat_en": [("acc", 0.7379, 0.0307), ("acc_norm", 0.7282, 0.0311)],
    "agieval_sat_en_without_passage": [("acc", 0.4466, 0.0347), ("acc_norm", 0.4466, 0.0347)],
    "agieval_sat_math": [("acc", 0.3909, 0.0330), ("acc_norm", 0.3591, 0.0324)],
}
GPT4ALL = {
    "arc_challenge": [("acc", 0.5862, 0.0144), ("acc_norm", 0.6297, 0.0141)],
    "arc_easy": [("acc", 0.8472, 0.0074), ("acc_norm", 0.8321, 0.0077)],
    "boolq": [("acc", 0.8599, 0.0061)],
    "hellaswag": [("acc", 0.6520, 0.0048), ("acc_norm", 0.8357, 0.0037)],
    "openbookqa": [("acc", 0.3440, 0.0213), ("acc_norm", 0.4580, 0.0223)],
    "piqa": [("acc", 0.8199, 0.0090), ("acc_norm", 0.8319, 0.0087)],
    "winogrande": [("acc", 0.7482, 0.0122)],
}
BIGBENCH = [
    0.5684, 0.6667, 0.3566, 0.2006, 0.2980, 0.2071, 0.5067, 0.4140, 0.5000,
    0.6980, 0.4174, 0.2044, 0.7238, 0.6876, 0.4360, 0.2112, 0.1754, 0.5067,
]  # fmt: skip
SETTINGS = Settings(backend="hf", apply_chat_template=False, dtype="bfloat16", batch_size=8, device="cpu", limit=None)
SUBJECT = Subject(repo="a/b", commit="c" * 40, form="base")


def _task(name: str, metrics: list[tuple[str, float, float]], version: str = "0") -> TaskResult:
    return TaskResult(
        name=name,
        version=version,
        n_shot=0,
        n=100,
        metrics={metric: Metric(value=value, stderr=error, n=100) for metric, value, error in metrics},
    )


def _suite(name: str, rule: str, figures: dict[str, list[tuple[str, float, float]]]) -> SuiteResult:
    return SuiteResult.of(name, name, rule, {key: _task(key, rows) for key, rows in figures.items()})


def _results(**suites: SuiteResult) -> Results:
    return Results.of(suites=suites, subject=SUBJECT, settings=SETTINGS, libraries={}, seconds=1.0)


def test_the_published_averages_come_out_and_the_wrong_one_does_not() -> None:
    agieval = _suite("AGIEval", "acc_norm else acc", AGIEVAL).average.value
    gpt4all = _suite("GPT4All", "acc_norm else acc", GPT4ALL).average.value
    grades = {f"task{place}": [("multiple_choice_grade", value, 0.01)] for place, value in enumerate(BIGBENCH)}
    grades["task3"].append(("exact_str_match", 0.0724, 0.0137))
    bigbench = _suite("BigBench", "multiple_choice_grade", grades).average.value
    truthful = _suite(
        "TruthfulQA", "mc2", {"truthfulqa_mc": [("mc1", 0.3941, 0.0171), ("mc2", 0.5698, 0.0154)]}
    ).average.value
    assert [four(value or 0) for value in (agieval, gpt4all, bigbench, truthful)] == [
        "0.4421", "0.7422", "0.4321", "0.5698",
    ]  # fmt: skip
    assert four(agieval or 0) != "0.4364"


def test_a_missing_task_makes_the_average_missing_never_smaller() -> None:
    tasks: dict[str, TaskResult | None] = {key: _task(key, rows) for key, rows in GPT4ALL.items()}
    tasks["boolq"] = None
    suite = SuiteResult.of("gpt4all", "GPT4All", "acc_norm else acc", tasks)
    assert suite.average.value is None and suite.average.missing == ("boolq",)
    whole = _results(gpt4all=suite, agieval=_suite("agieval", "acc_norm else acc", AGIEVAL))
    assert whole.average.value is None and whole.average.missing == ("gpt4all",)
    table = classic_table(suite)
    assert "|boolq| | |not measured| | |" in table and "|boolq|0" not in table
    assert "not measured: boolq" in classic_tables(whole)


def test_the_classic_layout_has_every_cell_of_the_published_table() -> None:
    lines = classic_table(_suite("AGIEval", "acc_norm else acc", AGIEVAL)).splitlines()
    assert lines[0] == "|Task|Version|Metric|Value| |Stderr|"
    assert lines[1] == "|---|---:|---|---:|---|---:|"
    assert lines[2] == "|agieval_aqua_rat|0|acc|0.2559|±|0.0274|"
    assert lines[3] == "| | |acc_norm|0.2598|±|0.0276|"
    figures = [f"{value:.4f}" for rows in AGIEVAL.values() for _, value, _ in rows]
    assert [line.split("|")[4] for line in lines[2:]] == figures


def test_an_average_changed_by_hand_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results = _results(agieval=_suite("agieval", "acc_norm else acc", AGIEVAL))
    results.write(path)
    assert read_results(path) == results
    value = json.loads(path.read_text())
    value["suites"]["agieval"]["average"]["value"] = 0.4364
    path.write_text(json.dumps(value))
    with pytest.raises(ConflictError, match="the average of agieval is not what its rule gives"):
        read_results(path)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_an_average_lies_between_its_parts(values: list[float]) -> None:
    tasks = {f"t{place}": _task(f"t{place}", [("acc", value, 0.1)]) for place, value in enumerate(values)}
    average = average_of_tasks("acc_norm else acc", tasks)
    assert average.value is not None and min(values) - 1e-12 <= average.value <= max(values) + 1e-12
    assert average.stderr == pytest.approx(0.1 / len(values) ** 0.5)


def test_the_rule_of_todays_bigbench_says_what_it_is_not() -> None:
    assert SUITES["bigbench"].rule == "acc" and "not comparable" in (RULES["acc"].note or "")


def test_every_task_of_the_named_suites_is_in_the_installed_harness() -> None:
    from lm_eval.tasks._index import Kind, TaskIndex

    for suite in SUITES.values():
        index = TaskIndex.build([harness_tasks() / folder for folder in suite.folders])
        assert [name for name in suite.tasks if name not in index] == []
        assert {index[name].kind for name in suite.tasks} <= {Kind.TASK, Kind.PY_TASK}


def test_a_single_task_of_the_harness_is_a_suite_and_an_unknown_one_is_refused() -> None:
    (found,) = resolve(["commonsense_qa"])
    assert found.tasks == ("commonsense_qa",) and found.folders == ("commonsense_qa",)
    with pytest.raises(UsageError, match="Unknown suite 'gpt4al'") as caught:
        resolve(["agieval", "gpt4al"])
    assert caught.value.hint == "Did you mean 'gpt4all'?"


def _own_folder(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "facts.jsonl").write_text('{"q": "x"}\n')
    (folder / "base_task").write_text(
        yaml.safe_dump({"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "data/facts.jsonl"}}})
    )
    (folder / "facts.yaml").write_text(
        "include: base_task\ntask: facts\ntask_alias: Facts\ntag: little\nprocess_docs: !function tools.keep\n"
    )
    (folder / "more.yaml").write_text("include: base_task\ntask: more\ntag: [little]\n")
    (folder / "both.yaml").write_text("group: both\ngroup_alias: Both of them\ntask: [facts, more]\n")
    return folder


def test_own_tasks_groups_and_tags_are_found_by_name(tmp_path: Path) -> None:
    found = own_tasks(_own_folder(tmp_path / "tasks"))
    assert {name: item.tasks for name, item in found.items()} == {
        "facts": ("facts",),
        "more": ("more",),
        "both": ("facts", "more"),
        "little": ("facts", "more"),
    }
    suites = resolve(["both", "agieval"], tmp_path / "tasks")
    assert [(suite.title, suite.own) for suite in suites] == [("Both of them", True), ("AGIEval", False)]


def test_copied_tasks_name_their_data_by_absolute_path_and_keep_functions(tmp_path: Path) -> None:
    source = _own_folder(tmp_path / "tasks")
    copied = copy_tasks(source, tmp_path / "copy")
    files = yaml.safe_load((copied / "base_task").read_text())["dataset_kwargs"]["data_files"]
    assert Path(files["test"]).is_file() and Path(files["test"]).is_relative_to(copied)
    assert "!function tools.keep" in (copied / "facts.yaml").read_text()
    assert (copied / "both.yaml").read_bytes() == (source / "both.yaml").read_bytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("task: [", "is not valid YAML"),
        ("task: x\nmake: !!python/object:os.system {}", "is not valid YAML"),
        ("- a list", "is not a mapping"),
        ("group: g\ntask: [{task: x}]", "a task that is not a name"),
        ("task: x\ninclude: nowhere", "includes nowhere"),
        ("task: x\ndataset_kwargs: {data_files: gone.jsonl}", "gone.jsonl does not exist"),
    ],
)
def test_a_broken_task_file_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "t.yaml").write_text(content)
    with pytest.raises(UsageError, match=said):
        own_tasks(tmp_path)


def test_a_task_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: a\ninclude: b.yaml")
    (tmp_path / "b.yaml").write_text("task: b\ninclude: a.yaml")
    with pytest.raises(UsageError, match="includes it in turn"):
        own_tasks(tmp_path)


def test_lm_evals_dict_is_read_with_names_versions_and_gaps() -> None:
    raw = {
        "results": {
            "truthfulqa_mc1": {"alias": "x", "sample_len": 5, "acc,none": 0.4, "acc_stderr,none": "N/A"},
            "truthfulqa_mc2": {"alias": "x", "acc,none": 0.57, "acc_stderr,none": 0.015},
            "math": {"exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": 0.1},
            "broken": {"acc,none": float("nan"), "acc_stderr,none": float("nan")},
        },
        "n-samples": {
            "truthfulqa_mc1": {"original": 817, "effective": 5},
            "truthfulqa_mc2": {"original": 817, "effective": 5},
        },
        "n-shot": {"truthfulqa_mc1": 0, "math": 4},
        "versions": {"truthfulqa_mc2": 3.0},
        "configs": {"truthfulqa_mc2": {"dataset_path": "truthful_qa", "validation_split": "validation"}},
        "higher_is_better": {"math": {"exact_match": True}},
    }
    own = Suite("own", "Own", "own", ("math", "broken", "absent"))
    results = read_lm_eval(
        raw, [SUITES["truthfulqa"], own], subject=SUBJECT, settings=SETTINGS, libraries={}, seconds=2.0
    )
    truthful = results.suites["truthfulqa"]
    assert truthful.average.value == 0.57 and truthful.average.stderr == 0.015
    first = truthful.tasks["truthfulqa_mc1"]
    assert first is not None and first.metrics["mc1"] == Metric(value=0.4, stderr=None, n=5)
    assert (first.n, first.available) == (5, 817)
    second = truthful.tasks["truthfulqa_mc2"]
    assert second is not None and (second.version, second.dataset.split) == ("3.0", "validation")
    assert results.suites["own"].tasks["broken"] is None and results.suites["own"].tasks["absent"] is None
    math = results.suites["own"].tasks["math"]
    assert math is not None and list(math.metrics) == ["exact_match (strict-match)"] and math.n_shot == 4
    assert results.average.value is None and results.average.missing == ("own",)
