"""The data of examples/smollm2: enough rows, each function in one set alone, and a benchmark that hubkit can read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hubkit.evals.suites import resolve
from hubkit.training.data import mappings

EXAMPLE = Path(__file__).parents[1] / "examples" / "smollm2"


def test_the_data_of_the_example_suit_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    import data  # type: ignore[import-not-found]

    try:
        data.make_data(tmp_path)
    finally:
        sys.modules.pop("data", None)
    pairs, chats, asked = (
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (
            tmp_path / "pairs/data/train.jsonl",
            tmp_path / "chats/data/train.jsonl",
            tmp_path / "tasks/python_docs.jsonl",
        )
    )
    assert (len(pairs), len(chats), len(asked)) == (200, 232, 40)
    questions = [
        *(row["question"] for row in pairs),
        *(row["messages"][0]["content"] for row in chats),
        *(row["question"] for row in asked),
    ]
    assert len({*questions}) == len(questions)
    for rows, name in ((pairs, "orca"), (chats, "messages")):
        mapping = mappings.find(None, list(rows[0]), "data")
        assert mapping.name == name and all(mapping.convert(row) for row in rows)
    assert all(len({*row["choices"]}) == 4 and 0 <= row["answer"] < 4 for row in asked)
    (suite,) = resolve(["python_docs"], tmp_path / "tasks")
    assert (suite.own, suite.tasks) == (True, ("python_docs",))
