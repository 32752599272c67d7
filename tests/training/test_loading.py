"""Datasets are loaded from a Hub, whatever is in their files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from releases import faults, target_of

from hubkit.core.errors import RefusedError, RemoteError
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.recipe.models import Source
from hubkit.training.data import loading

READ = """
import json, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd
from hubkit.recipe.models import Source
from hubkit.training.data import mappings, rows
from hubkit.training.data.loading import first_columns, load
from hubkit.core.errors import HubkitError
from hubkit.hub.client import connect
from hubkit.core.target import Target
hub = connect(Target(sys.argv[1], Path(sys.argv[3]), sys.argv[2], embedded=True))
told = {}
for name, body in json.loads(sys.stdin.read()).items():
    repo = f"hubkit/{name}"
    hub.ensure_repo(repo, "public", "dataset")
    files = {"train.jsonl": body.encode("latin-1"), "README.md": b"---\\nlicense: [mit, cc0-1.0]\\n---\\n"}
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    hub.api.create_commit(repo, operations, commit_message="Add", repo_type="dataset")
    for split in ("train", "test"):
        source = Source(repo=repo, split=split)
        try:
            columns = first_columns(hub, source)
            loaded = load(hub, source)
            assert tuple(loaded.columns) == tuple(columns), (loaded.columns, columns)
            found = rows.Checked()
            kept = [*rows.Checker().each(loaded.rows, mappings.find(None, loaded.columns, repo), found)]
            told[f"{name} {split}"] = [len(kept), found.dropped, loaded.licence]
        except HubkitError as error:
            told[f"{name} {split}"] = [error.exit_code, error.message]
README = '''---
configs:
- config_name: small
  data_files: small.jsonl
- config_name: other
  data_files: [{split: test, path: train.jsonl}]
- config_name: default
  data_files: train.jsonl
---
'''
operations = [
    CommitOperationAdd("README.md", README.encode()),
    CommitOperationAdd("small.jsonl", b'{"messages": [{"role": "user", "content": "Q", "tool_calls": null}]}'),
]
hub.api.create_commit("hubkit/good", operations, commit_message="Configs", repo_type="dataset")
for given in json.loads(sys.argv[4]):
    source = Source.model_validate({"repo": "hubkit/good", **given})
    try:
        columns, loaded = first_columns(hub, source), load(hub, source)
        assert tuple(loaded.columns) == columns
        told[json.dumps(given)] = list(loaded.rows)
    except HubkitError as error:
        told[json.dumps(given)] = [error.exit_code, error.message]
print("TOLD" + json.dumps(told))
"""


SLICES: Mapping[str, Any] = {
    '{"split": "train[:2]"}': [0, 1],
    '{"split": "train[34%:]"}': [1, 2],
    '{"split": "train[2:]+train[:1]"}': [2, 0],
    '{"config": "other", "split": "test"}': [0, 1, 2],
}
WRONG = {"config": "large"}


def test_odd_files_are_counted_by_row_or_refused_in_one_sentence(hub: Any, tmp_path: Path) -> None:
    good = [{"instruction": f"Q {n}", "output": "A"} for n in range(3)]
    sets = {
        "good": good,
        "nulls": [*good, {"instruction": "Q 9", "output": None}, {"instruction": "Q 10"}],
        "mixed": [*good, {"instruction": "Q 9", "output": {"a": [1]}}],
    }
    bodies = {name: "".join(json.dumps(row) + "\n" for row in made) for name, made in sets.items()}
    bodies["latin"] = '{"instruction": "Q", "output": "caf\u00e9"}\n{"instruction": "Q 2", "output": "tea"}\n'
    bodies["broken"] = '{"instruction": "Q", "outp'
    environment = Target(hub.url, tmp_path, hub.token, embedded=True).environment()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            READ,
            hub.url,
            hub.token,
            str(tmp_path),
            json.dumps([*map(json.loads, SLICES), {"config": "small"}, WRONG]),
        ],
        input=json.dumps(bodies),
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.split("TOLD")[1])
    assert told["good train"] == [3, {}, "mit, cc0-1.0"]
    assert told["nulls train"] == [3, {"null: output": 2}, "mit, cc0-1.0"]
    assert told["mixed train"] == [3, {"wrong type: output": 1}, "mit, cc0-1.0"]
    assert told["latin train"] == [1, {"not UTF-8": 1}, "mit, cc0-1.0"]
    for name in ("good test", "broken train"):
        code, message = told[name]
        assert code == 3
        assert "cannot be read as a table" in message
        assert "\n" not in message
    assert "hubkit/good" in told["good test"][1]
    assert "'test'" in told["good test"][1]
    for given, numbers in SLICES.items():
        assert told[given] == [good[number] for number in numbers], given
    assert told['{"config": "small"}'] == [{"messages": [{"role": "user", "content": "Q"}]}], "a null is no key"
    code, message = told[json.dumps(WRONG)]
    assert code == 3 and "large" in message and "small" in message


def test_a_hub_that_is_down_is_not_called_unreadable_data(hub: Any, tmp_path: Path) -> None:
    from huggingface_hub.utils import get_session, hf_raise_for_status

    connected = connect(target_of(hub, tmp_path))
    source = Source(repo="them/set")

    def ask(path: str) -> None:
        hf_raise_for_status(get_session().get(f"{hub.url}{path}"))

    faults(hub, {"route": "/train.jsonl", "action": "status", "status": 503, "count": 0})
    with (
        pytest.raises(RemoteError, match="answered 503") as down,
        loading._translate_load_errors(connected, source, "c" * 40),
    ):
        ask("/datasets/them/set/resolve/main/train.jsonl")
    assert down.value.exit_code == 5
    with pytest.raises(RemoteError, match="answered 503"), loading._translate_load_errors(connected, source, "c" * 40):
        try:
            ask("/datasets/them/set/resolve/main/train.jsonl")
        except OSError:
            raise FileNotFoundError("No data file was found") from None
    with (
        pytest.raises(RefusedError, match="cannot be read as a table"),
        loading._translate_load_errors(connected, source, "c" * 40),
    ):
        ask("/datasets/them/set/resolve/main/none.jsonl")
