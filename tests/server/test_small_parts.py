"""Small parts of the server against an oracle: git itself, Python slices, the safetensors library."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from hypothesis import given
from hypothesis import strategies as st

from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.files import parse_range
from hubkit.server.repos.gitignore import ignored

RULES = """
# comment
*.log
!keep.log
/top.txt
build/
docs/**/draft.md
a/*/b
**/deep
x?z
[a-c]1
[!a-c]2
\\#hash
\\!bang
trail
dir/*
!dir/yes
abc/**
"""
_PATHS = """
a.log keep.log sub/keep.log sub/a.log top.txt sub/top.txt build/x sub/build/y build docs/draft.md
docs/a/b/draft.md a/q/b a/q/r/b deep/x p/deep/x xyz xz a1 d1 a2 d2 #hash !bang trail/x dir/no dir/yes
dir/sub/x abc/x/y abc q/abc/x
"""
PATHS = _PATHS.split()


def test_ignore_rules_agree_with_git(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text(RULES)
    asked = subprocess.run(
        ["git", "-C", tmp_path, "check-ignore", "--no-index", "--stdin"],
        input="\n".join(PATHS),
        capture_output=True,
        text=True,
    )
    assert {path for path in PATHS if ignored(path, RULES)} == set(asked.stdout.split())


@given(st.integers(0, 50), st.one_of(st.none(), st.integers(0, 60)), st.one_of(st.none(), st.integers(0, 60)))
def test_ranges_agree_with_slices(size: int, first: int | None, last: int | None) -> None:
    body = bytes(range(size))
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if first is None and last is not None:
        expected = body[max(0, size - last) :] if last else b""
    else:
        expected = body[first or 0 : None if last is None else last + 1]
    try:
        found = parse_range(header, size)
    except HTTPException as error:
        assert error.status_code == 416 and expected == b""
        return
    if found is None:  # everything is sent: no range was asked for, or a senseless one
        assert (first is None and last is None) or (first is not None and last is not None and last < first)
    else:
        assert body[found[0] : found[1]] == expected != b""


@pytest.mark.parametrize(
    "header", [None, "", "bytes=", "bytes=a-b", "items=0-1", "bytes=0-1,3-4", "bytes=-", "bytes=--1"]
)
def test_other_range_headers_mean_the_whole_file(header: str | None) -> None:
    assert parse_range(header, 10) is None


def test_the_info_counts_parameters(api: HfApi) -> None:
    import numpy
    from safetensors.numpy import save

    api.create_repo("me/model")
    shards = [
        save({"a": numpy.zeros((3, 4), "float32"), "b": numpy.zeros(5, "float16")}),
        save({"c": numpy.zeros(7, "float32")}),
    ]
    operations = [CommitOperationAdd(f"model-{number}.safetensors", shard) for number, shard in enumerate(shards)]
    operations.append(CommitOperationAdd("adapter/adapter_model.safetensors", shards[0] + b""))
    operations.append(CommitOperationAdd("broken.safetensors", b"\xff" * 100))
    api.create_commit("me/model", operations, commit_message="m")
    info = api.model_info("me/model")
    assert info.safetensors is not None
    assert (info.safetensors.parameters, info.safetensors.total) == ({"F32": 19, "F16": 5}, 24)
