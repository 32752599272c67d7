"""The logs of inspect and the records of Every Eval Ever, read into the one model of results."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from result_files import archive, inspect_log, record

from hubkit.core.errors import UsageError
from hubkit.evals.readers import read_file


def read(folder: Path, content: Any, name: str = "results.json") -> Any:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_file(path)


@pytest.mark.parametrize("compression", [None, zipfile.ZIP_DEFLATED, 93])
def test_a_log_of_inspect_is_read_whatever_its_form(tmp_path: Path, compression: int | None) -> None:
    content = inspect_log() if compression is None else archive(inspect_log(), compression)
    found = read(tmp_path, content, "log.json" if compression is None else "log.eval")
    assert (found.subject.repo, found.settings.backend, found.settings.limit) == ("me/my-model", "inspect", 200)
    assert found.libraries == {"inspect_ai": "0.3.285"}
    task = found.suites["other"].tasks["arc_easy"]
    assert (task.n, task.available, task.version, task.dataset.path) == (200, 2376, "2", "allenai/ai2_arc")
    assert list(task.metrics) == ["accuracy"]
    assert (task.metrics["accuracy"].value, task.metrics["accuracy"].stderr) == (0.75, 0.03)


def test_of_several_scorers_each_metric_names_its_own(tmp_path: Path) -> None:
    log = inspect_log()
    log["results"]["scores"].append(
        {"name": "judge", "scorer": "judge", "metrics": {"mean": {"name": "mean", "value": 3}}}
    )
    task = read(tmp_path, log).suites["other"].tasks["arc_easy"]
    assert {name: item.value for name, item in task.metrics.items()} == {"accuracy (choice)": 0.75, "mean (judge)": 3.0}


def test_epochs_are_no_questions_and_a_local_model_is_named_by_its_path(tmp_path: Path) -> None:
    log = inspect_log(model="hf/local", model_args={"model_path": "./merged"}, config={"epochs": 4, "limit": [10, 60]})
    found = read(tmp_path, log)
    assert found.subject.repo == "./merged" and found.settings.limit == 50
    assert found.suites["other"].tasks["arc_easy"].n == 50


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (archive(None), "has no header.json: the run of inspect did not finish"),
        (archive(inspect_log())[:200], "cannot be read"),
        (b"PK\x03\x04", "cannot be read"),
        ({**inspect_log(), "status": "error"}, "did not succeed"),
        ({**inspect_log(), "results": {"scores": []}}, "contains no measured number"),
        ({**inspect_log(), "results": None}, "not a valid log of inspect's"),
    ],
)
def test_a_log_without_results_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read(tmp_path, content, "log.eval")


def test_a_record_of_every_eval_ever_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, record())
    assert (found.subject.repo, found.libraries) == ("me/my-model", {"helm": "0.5.4"})
    task = found.suites["other"].tasks["mmlu"]
    number = task.metrics["exact_match"]
    assert (number.value, number.stderr, number.n) == (pytest.approx(0.715), pytest.approx(0.022), 400)
    assert (task.dataset.path, task.dataset.split) == ("cais/mmlu", "test")
    assert read(tmp_path, record(0.7, None)).suites["other"].tasks["mmlu"].metrics["exact_match"].value == 0.7


def test_a_record_that_says_a_thing_twice_or_not_at_all_is_refused(tmp_path: Path) -> None:
    twice = record()
    twice["evaluation_results"] *= 2
    with pytest.raises(UsageError, match="exact_match of mmlu twice"):
        read(tmp_path, twice)
    empty = record()
    empty["evaluation_results"] = []
    with pytest.raises(UsageError, match="no measured number"):
        read(tmp_path, empty)
    del empty["model_info"]["id"], empty["model_info"]["name"]
    broken = record()
    broken["evaluation_results"][0]["score_details"] = {"score": "high"}
    with pytest.raises(UsageError, match="not a valid record"):
        read(tmp_path, broken)
