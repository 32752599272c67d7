"""Results of other programs: each kind as its program writes it, and what becomes of files that are none."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubkit.core.errors import ConflictError, UsageError
from hubkit.evals.csv_table import read_csv
from hubkit.evals.printed_tables import read_text
from hubkit.evals.readers import read_file, read_path, read_value
from hubkit.evals.results import Metric, Results, TaskResult

RAW: dict[str, Any] = {
    "results": {
        "mmlu": {"alias": "mmlu", "acc,none": 0.3, "acc_stderr,none": 0.01},
        "mmlu_stem": {"alias": " - stem", "acc,none": 0.3, "acc_stderr,none": 0.01},
        "mmlu_anatomy": {"alias": "  - anatomy", "sample_len": 135, "acc,none": 0.4, "acc_stderr,none": 0.0424},
        "mmlu_virology": {"alias": " - virology", "sample_len": 166, "acc,none": 0.2, "acc_stderr,none": 0.0311},
        "truthfulqa_mc2": {"alias": "truthfulqa_mc2", "sample_len": 817, "acc,none": 0.57, "acc_stderr,none": 0.015},
        "gsm8k": {
            "alias": "gsm8k", "sample_len": 4, "exact_match,strict-match": 0.25,
            "exact_match_stderr,strict-match": 0.25, "exact_match,flexible-extract": 0.5,
            "exact_match_stderr,flexible-extract": "N/A",
        },
    },
    "group_subtasks": {"mmlu": ["mmlu_stem", "mmlu_virology"], "mmlu_stem": ["mmlu_anatomy"], "gsm8k": []},
    "versions": {"mmlu_anatomy": 1.0, "gsm8k": 3.0},
    "n-shot": {"mmlu_anatomy": 5, "gsm8k": 5},
    "higher_is_better": {"gsm8k": {"exact_match": True}},
    "n-samples": {"gsm8k": {"original": 1319, "effective": 4}},
    "configs": {"gsm8k": {"dataset_path": "openai/gsm8k", "dataset_name": "main", "test_split": "test"}},
    "config": {
        "model": "hf", "model_args": "pretrained=me/model,dtype=bfloat16", "model_dtype": "torch.bfloat16",
        "model_sha": "c" * 40, "batch_size": 8, "device": "cuda:0", "limit": 4.0,
    },
    "lm_eval_version": "0.4.13", "transformers_version": "5.23.0", "chat_template": None,
    "total_evaluation_time_seconds": "12.5",
}  # fmt: skip


def _task(results: Results, suite: str, name: str) -> TaskResult:
    found = results.suites[suite].tasks[name]
    assert found is not None
    return found


def test_lm_evals_file_is_read_with_its_groups_made_anew() -> None:
    read = read_value(RAW, "results.json", "results")
    assert list(read.suites) == ["mmlu", "truthfulqa", "other"]
    assert read.suites["mmlu"].average.value == pytest.approx(0.3)
    assert list(read.suites["mmlu"].tasks) == ["mmlu_anatomy", "mmlu_virology"]
    assert _task(read, "truthfulqa", "truthfulqa_mc2").metrics["mc2"].value == 0.57
    assert read.suites["truthfulqa"].tasks["truthfulqa_mc1"] is None and read.suites["truthfulqa"].average.value == 0.57
    gsm = _task(read, "other", "gsm8k")
    assert (gsm.n, gsm.available, gsm.n_shot, gsm.version) == (4, 1319, 5, "3.0")
    assert gsm.metrics["exact_match (strict-match)"] == Metric(value=0.25, stderr=0.25, n=4, filter="strict-match")
    assert gsm.metrics["exact_match (flexible-extract)"].stderr is None
    assert gsm.dataset.path == "openai/gsm8k"
    assert (read.subject.repo, read.subject.commit, read.subject.form) == ("me/model", "c" * 40, "other")
    settings = read.settings
    assert (settings.backend, settings.dtype, settings.limit, settings.batch_size) == ("hf", "bfloat16", 4, 8)
    assert settings.apply_chat_template is False and read.seconds == 12.5
    assert read.libraries == {"lm_eval": "0.4.13", "transformers": "5.23.0"}


def test_the_folder_that_lm_eval_leaves_is_read_newest_first(tmp_path: Path) -> None:
    """lm-eval's own writer makes the folder."""
    from lm_eval.loggers import EvaluationTracker

    for value in (0.1, 0.2):
        tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
        tracker.general_config_tracker.log_experiment_args("hf", "pretrained=me/model", "", "{{ messages }}", True)
        tracker.date_id = f"2026-01-0{round(value * 10)}T10-00-00.000000"
        results = {**RAW, "results": {"arc_easy": {"alias": "arc_easy", "acc,none": value, "acc_stderr,none": 0.01}}}
        tracker.save_results_aggregated(results={**results, "group_subtasks": {"arc_easy": []}}, samples=None)
    (read,) = read_path(tmp_path / "out")
    assert [path.parent for path in read.passed_over] == [read.path.parent]
    assert read.results.subject.repo == "me/model" and read.results.settings.apply_chat_template is True
    assert _task(read.results, "other", "arc_easy").metrics["acc"].value == 0.2
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="contains no results"):
        read_path(tmp_path / "empty")


def test_lm_eval_03s_file_is_read() -> None:
    raw = {
        "results": {"truthfulqa_mc": {"mc1": 0.3941, "mc1_stderr": 0.0171, "mc2": 0.5698, "mc2_stderr": 0.0154}},
        "versions": {"truthfulqa_mc": 1},
        "config": {"model": "hf-causal", "model_args": "pretrained=a/b", "num_fewshot": 0, "limit": None},
    }
    read = read_value(raw, "x.json", "x")
    task = _task(read, "truthfulqa", "truthfulqa_mc")
    assert task.metrics["mc2"] == Metric(value=0.5698, stderr=0.0154, n=0) and task.n_shot is None
    assert read.average.value == 0.5698 and read.subject.repo == "a/b" and read.settings.apply_chat_template is None


def test_the_line_above_a_pasted_table_tells_model_limit_and_shots() -> None:
    text = (
        "hf (pretrained=a/b,dtype=bfloat16), gen_kwargs: (None), limit: 100.0, num_fewshot: 5, batch_size: auto (4)\n"
        "| Tasks |Version|Filter|n-shot|Metric|   |Value |   |Stderr|\n|---|---|---|---|---|---|---|---|---|\n"
        "|mmlu   |      2|none  |      |acc   |↑  |0.2504|±  |0.0036|\n"
        "| - stem|      2|none  |      |acc   |↑  |0.2421|±  |0.0062|\n"
        "|  - anatomy|  1|none  |     5|acc   |↑  |0.2778|±  |   N/A|\n"
    )
    read = read_text(text, "log", "log")
    assert list(read.suites["other"].tasks) == ["anatomy"]
    assert (read.subject.repo, read.settings.limit, read.settings.num_fewshot) == ("a/b", 100, 5)
    assert read.settings.dtype == "bfloat16" and _task(read, "other", "anatomy").n_shot == 5


@pytest.mark.parametrize(
    "table",
    [
        "+------+---+------+------+---+------+\n"
        "| Task |Ver|Metric|Value |   |Stderr|\n"
        "+======+===+======+======+===+======+\n"
        "| arc  | 0 | acc  |0.2559| ± |0.0274|\n"
        "+------+---+------+------+---+------+\n",
        " Task | Metric | Value | Stderr\n------|--------|-------|-------\n arc | acc | **0.2559** | `0.0274`\n",
        "Words.\r\n\r\n|Task|Metric|Value|Stderr|\r\n|:-|:-:|-:|-|\r\n|arc|acc|0.2559|0.0274|\r\n| | | | |\r\n",
    ],
)
def test_tables_with_borders_without_and_with_emphasis(table: str) -> None:
    task = _task(read_text(table, "x", "x"), "other", "arc")
    assert task.metrics == {"acc": Metric(value=0.2559, stderr=0.0274, n=0)}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("|a|acc|TBD|", "line 3: 'TBD' is not a number"),
        ("|a|acc|inf|", "line 3: 'inf' is not a number"),
        ("|a|acc|", "line 3: this row has 2 cells"),
        ("||acc|0.5|", "line 3: this row belongs to no task"),
        ("|a|acc|0.5|\n|b|acc|0.6|\n|a|acc|0.7|", "two different values of acc of a: lines 3 and 5"),
        ("|a|acc|N/A|", "contains no measured number"),
        ("", "contains no measured number"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_by_line(body: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_text(f"|Task|Metric|Value|\n|---|---|---|\n{body}\n", "card.md", "card")


@pytest.mark.parametrize("filler", ["\n", " ", "# ", "|", "|-", "a", "` (", "hf (", "a|"])
def test_a_long_file_of_one_thing_is_read_to_its_end(filler: str) -> None:
    """No pattern may go over such a text again and again: it would not come to the table in an hour."""
    text = f"# {filler * 200_000}x\n\n|Task|Metric|Value|\n|-|-|-|\n|a|acc|0.5|\n"
    assert read_text(text, "x", "x").average.value == 0.5


def test_the_same_row_twice_is_read_once() -> None:
    read = read_text(
        "|Task|Metric|Value|\n|-|-|-|\n|a|acc|0.5|\n\n|Task|Metric|Value|\n|-|-|-|\n|a|acc|0.5|\n", "x", "x"
    )
    assert read.average.value == 0.5


LIGHTEVAL: dict[str, Any] = {
    "config_general": {
        "lighteval_sha": "?", "max_samples": 10, "model_name": "me/model", "total_evaluation_time_secondes": "24.75",
        "model_config": {"dtype": "bfloat16", "batch_size": 4},
    },
    "results": {
        "gsm8k|5": {"em": 0.5, "em_stderr": 0.1667, "maj@8": float("nan")},
        "mmlu:anatomy|0": {"acc": 0.3, "acc_stderr": 0.1},
        "mmlu:virology|0": {"acc": 0.5, "acc_stderr": 0.1},
        "mmlu:_average|0": {"acc": 0.4, "acc_stderr": 0.1},
        "leaderboard|arc:challenge|25|0": {"loglikelihood_acc": 0.2},
        "all": {"em": 0.5, "acc": 0.4},
    },
    "versions": {"gsm8k|5": 0},
    "config_tasks": {
        "gsm8k|5": {
            "hf_repo": "openai/gsm8k", "hf_subset": "main", "evaluation_splits": ["test"], "original_num_docs": 1319,
            "effective_num_docs": 10, "metric": [{"metric_name": "em", "higher_is_better": False}],
        },
        "leaderboard|arc:challenge": {"hf_repo": "ai2_arc", "original_num_docs": -1, "effective_num_docs": -1},
    },
}  # fmt: skip


def test_lightevals_file_is_read_without_its_averages(tmp_path: Path) -> None:
    path = tmp_path / "results_2026-01-01T00-00-00.json"
    path.write_text(json.dumps(LIGHTEVAL))
    read = read_path(tmp_path)[0].results
    assert {name: list(suite.tasks) for name, suite in read.suites.items()} == {
        "lighteval": ["gsm8k", "arc:challenge"],
        "mmlu": ["mmlu:anatomy", "mmlu:virology"],
    }
    gsm = _task(read, "lighteval", "gsm8k")
    assert gsm.metrics == {"em": Metric(value=0.5, stderr=0.1667, n=10, higher_is_better=False)}
    assert (gsm.n_shot, gsm.available, gsm.dataset.path, gsm.dataset.split) == (5, 1319, "openai/gsm8k", "test")
    arc = _task(read, "lighteval", "arc:challenge")
    assert (arc.n_shot, arc.n, arc.available, arc.dataset.path) == (25, 0, None, "ai2_arc")
    assert read.suites["mmlu"].average.value == pytest.approx(0.4)
    assert (read.subject.repo, read.settings.limit, read.settings.backend) == ("me/model", 10, "lighteval")
    assert (read.settings.dtype, read.settings.batch_size, read.seconds) == ("bfloat16", 4, 24.75)


def test_a_csv_is_read_by_its_documented_columns(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        "\ufefftask,metric,value,stderr,suite,version,n_shot,n,higher_is_better,filter\r\n"
        "truthfulqa_mc,mc1,0.3941,0.0171,truthfulqa,1,0,817,,\r\n"
        "truthfulqa_mc,mc2,0.5698,0.0154,truthfulqa,1,0,817,true,\r\n"
        '"a, task",loss,1.5,,Mine,,,,false,strict\r\n',
        encoding="utf-8",
    )
    read = read_file(path)
    assert read.suites["truthfulqa"].rule == "mc2" and read.suites["truthfulqa"].average.value == 0.5698
    assert (_task(read, "truthfulqa", "truthfulqa_mc").n, read.subject.repo) == (817, "mine")
    mine = _task(read, "Mine", "a, task")
    assert mine.metrics == {
        "loss (strict)": Metric(value=1.5, stderr=None, n=0, higher_is_better=False, filter="strict")
    }
    assert mine.n_shot is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no column task, metric, value"),
        ("task,metric\n", "names no column value"),
        ("task;metric;value\na;acc;0,5\n", "separated by semicolons"),
        (f"task,metric,value,n\na,acc,1,{'9' * 5000}\n", "in the column n is not an integer"),
        ("task,metric,value,colour\n", "unknown column colour"),
        ("task,metric,value,value\n", "named twice"),
        ("task,metric,value\n", "has no rows"),
        ("task,metric,value\na,acc\n", "line 2: this row does not fit"),
        ("task,metric,value\na,acc,1,2\n", "line 2: this row does not fit"),
        ("task,metric,value\na,acc,TBD\n", "line 2: 'TBD' in the column value"),
        ("task,metric,value\na,acc,nan\n", "line 2: 'nan' in the column value"),
        ("task,metric,value\n,acc,1\n", "line 2: a row needs a task"),
        ("task,metric,value,n\na,acc,1,-3\n", "'-3' in the column n is not an integer"),
        ("task,metric,value,higher_is_better\na,acc,1,up\n", "higher_is_better is 'up'"),
        ("task,metric,value\na,acc,1\na,acc,1\n", "line 3: acc of a appears twice"),
        ('task,metric,value\n"a,acc,1\n', "unexpected end of data"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused_by_line(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_csv(text, "mine.csv", "mine")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"{", "is not valid JSON"),
        ("a.json", b"[" * 100_000, "is not valid JSON"),
        ("a.json", b"[]", "does not hold benchmark results"),
        ("a.json", b'{"results": {}}', "contains no measured number"),
        ("a.json", b'{"results": {"a": 3}}', "not a valid lm-eval results file"),
        ("a.json", b'{"results": {"a": {"acc,none": 0.5}}, "versions": 3}', "not a valid lm-eval results file"),
        ("a.json", b'{"results": {"a|0": 3}, "config_general": {}}', "not a valid lighteval results file"),
        ("a.json", b'{"results": {}, "config_general": {}}', "contains no measured number"),
        ("a.md", b"no table", "contains no benchmark table"),
        ("a.md", b"\xff\xfe", "Cannot read"),
    ],
)
def test_a_file_that_is_none_of_the_kinds_is_one_sentence(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_path(tmp_path / name)


def test_our_own_results_are_read_and_those_changed_by_hand_are_not(tmp_path: Path) -> None:
    read_value(RAW, "raw", "raw").write(tmp_path / "results.json")
    (own,) = read_path(tmp_path)
    assert own.results == read_value(RAW, "raw", "raw")
    value = json.loads((tmp_path / "results.json").read_text())
    value["suites"]["mmlu"]["average"]["value"] = 0.9
    (tmp_path / "results.json").write_text(json.dumps(value))
    with pytest.raises(ConflictError, match="not what its rule gives"):
        read_path(tmp_path)


def test_results_of_an_older_version_are_still_read() -> None:
    """As the first release wrote them: no filter, no number of shots in the settings."""
    old = {
        "subject": {"repo": "a/b", "commit": "c", "form": "merged"},
        "suites": {
            "t": {
                "name": "t", "title": "t", "rule": "own",
                "tasks": {
                    "t": {
                        "name": "t", "version": "1.0", "n_shot": 0, "n": 2, "available": 2,
                        "dataset": {"path": None, "config": None, "split": "test"},
                        "metrics": {"acc": {"value": 0.5, "stderr": None, "n": 2, "higher_is_better": True}},
                    }
                },
                "average": {
                    "value": 0.5, "stderr": None, "note": None, "missing": [],
                    "text": "unweighted mean over the tasks of acc_norm, else acc, else the task's first metric",
                },
            }
        },
        "average": {
            "value": 0.5, "stderr": None, "text": "mean of the suites' averages", "note": None, "missing": []
        },
        "settings": {
            "backend": "hf", "apply_chat_template": True, "limit": None, "dtype": "bfloat16", "batch_size": 32,
            "device": "cpu",
        },
        "libraries": {"lm_eval": "0.4.13"}, "seconds": 1.0,
    }  # fmt: skip
    assert read_value(old, "results.json", "x").average.value == 0.5


WORDS = st.sampled_from(["", "acc", "acc,none", "acc_stderr,none", "arc|0", "0", "5", "mmlu", "alias", *RAW])
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*RAW, *LIGHTEVAL, "suites", "subject"]), JSONS))
def test_no_json_is_more_than_refused(value: dict[str, Any]) -> None:
    with contextlib.suppress(UsageError, ConflictError):
        assert read_value(value, "x", "x").suites


@given(st.dictionaries(WORDS, JSONS), st.sampled_from([*RAW, *LIGHTEVAL]), st.booleans())
def test_no_part_of_a_file_is_more_than_refused(value: dict[str, Any], part: str, light: bool) -> None:
    with contextlib.suppress(UsageError, ConflictError):
        assert read_value({**(LIGHTEVAL if light else RAW), part: value}, "x", "x").suites


@given(st.text('|-+ \n#*\\01.,acv"\r'), st.sampled_from(["", "|Task|Metric|Value|\n", "task,metric,value\n"]))
def test_no_text_is_more_than_refused(text: str, header: str) -> None:
    for read in (read_text, read_csv):
        with contextlib.suppress(UsageError):
            assert read(header + text, "x", "x").suites


PRINTED = """
|Task |Version|           Metric            |Value|   |Stderr|
|-----|------:|-----------------------------|-----|---|------|
|gsm8k|      2|exact_match,get-answer       | 0.75|   |      |
|     |       |exact_match_stderr,get-answer| 0.01|   |      |
|     |       |alias                        |gsm8k|   |      |

|    Task    |Version| Metric |Value |   |Stderr|
|------------|------:|--------|-----:|---|-----:|
|boolq       |      1|acc     |0.8752|±  |0.0058|
|**Average** |       |        |0.8512|   |      |

<table>
<tr><th>Task</th><th>Metric</th><th>Value</th></tr>
<tr><td>winogrande</td><td>acc</td><td><b>0.77</b></td></tr>
<tr><td>Overall</td><td>acc</td><td>0.80</td></tr>
</table>
"""


def test_tables_of_cards_with_aliases_averages_and_html() -> None:
    """Scripts print the alias of a task and its errors as metrics of their own; averages are no tasks."""
    (suite,) = read_text(PRINTED, "README.md", "me/model").suites.values()
    assert list(suite.tasks) == ["gsm8k", "boolq", "winogrande"]
    gsm8k, boolq, winogrande = suite.tasks.values()
    assert gsm8k is not None and boolq is not None and winogrande is not None
    (measured,) = gsm8k.metrics.values()
    assert (list(gsm8k.metrics), measured.value, measured.stderr) == (["exact_match (get-answer)"], 0.75, 0.01)
    assert (boolq.metrics["acc"].stderr, winogrande.metrics["acc"].value) == (0.0058, 0.77)
