"""Attacks that once worked: what a security test of the embedded Hub found, one test each."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import httpx

from hubkit.errors import ConflictError
from hubkit.server import metadata, process
from hubkit.server.ignore import ignored
from hubkit.server.process import Running
from hubkit.server.safetensors import parameters


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    for name in ("git/myproject/config", "tmp/notes", "lfs/x"):
        root = tmp_path / name.partition("/")[0]
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("mine")
        root.chmod(0o755)
        with pytest.raises(ConflictError, match=r"no Hub's data folder"):
            process.start(root, port=0)
        assert (root / name).read_text() == "mine" and root.stat().st_mode & 0o777 == 0o755
        assert {path.name for path in root.iterdir()} == {name.partition("/")[0]}


def test_a_lost_database_costs_no_repo(hub: Running) -> None:
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo("me/model")
    api.create_commit("me/model", [CommitOperationAdd("w.bin", b"\0" * 100)], commit_message="m")
    process.stop(hub.data)
    database = hub.data / "hub.sqlite"
    kept, files = database.read_bytes(), sorted(path for path in hub.data.rglob("*") if "git" in path.parts)
    for lose in (lambda: database.write_bytes(b""), database.unlink):
        lose()
        with pytest.raises(ConflictError, match=r"hub\.sqlite is missing"):
            process.start(hub.data, port=0)
        assert sorted(path for path in hub.data.rglob("*") if "git" in path.parts) == files
    database.write_bytes(kept)
    again = process.start(hub.data, port=0)
    assert HfApi(endpoint=again.url, token=again.token).list_repo_files("me/model") == [".gitattributes", "w.bin"]


def test_strange_things_beside_the_repos_stay_and_stop_no_start(hub: Running) -> None:
    process.stop(hub.data)
    (hub.data / "git" / "notes.txt").write_text("mine")
    (hub.data / "git" / "project").mkdir()
    (hub.data / "lfs" / "aa" / "bb" / ("c" * 64)).mkdir(parents=True)
    (hub.data / "server.json").write_text('{"port": 99999}')
    process.start(hub.data)
    assert {path.name for path in (hub.data / "git").iterdir()} == {"notes.txt", "project"}


CARDS = [
    "a: !!bool x", 'title: "\\uD800"', "a: 0x" + "f" * 6000, '!!int ""', 'a: !!int ""', "a: !!timestamp foo",
    "a: !!float x", "a: !!binary é", '"\\uD800": 1', "a: 2026-13-45", "!!set {<<: 1}", "? [a]\n: b",
]  # fmt: skip


@pytest.mark.parametrize("card", CARDS)
def test_no_card_is_more_than_bad_metadata(card: str) -> None:
    with pytest.raises(metadata.BadMetadata, match=r"\w"):
        metadata.read(f"---\n{card}\n---\n")


def test_one_bad_repo_does_not_break_the_list_for_all(raw: httpx.Client) -> None:
    configs = ['{"model_type": "\\ud800"}', '{"architectures": [NaN]}', '{"architectures": [1e999]}', "[" * 5000]
    for number, (card, config) in enumerate((card, configs[at % 4]) for at, card in enumerate(CARDS)):
        raw.post("/api/repos/create", json={"name": f"m{number}", "organization": "me"}).raise_for_status()
        text = f"---\n{card}\n---\n"
        lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "s"}}]
        lines += [{"key": "file", "value": {"path": "README.md", "content": text}}]
        lines += [{"key": "file", "value": {"path": "config.json", "content": config}}]
        body = "\n".join(json.dumps(line) for line in lines)
        raw.post(f"/api/models/me/m{number}/commit/main", content=body).raise_for_status()
        assert raw.get(f"/api/models/me/m{number}").status_code == 200, card
        assert raw.post("/api/validate-yaml", json={"content": text}).status_code == 400, card
    assert len(raw.get("/api/models?full=true").json()) == len(CARDS)


def test_types_of_tensors_are_plain_words(tmp_path: Path) -> None:
    head = json.dumps({"a": {"dtype": "\ud800", "shape": [2]}, "b": {"dtype": "F32", "shape": [3]}}).encode()
    (tmp_path / "x").write_bytes(len(head).to_bytes(8, "little") + head)
    assert parameters(tmp_path / "x") == {"F32": 3}


@pytest.mark.parametrize("kind", ["!!set ", "", "!!omap "])
def test_merges_of_merges_are_refused_at_once(kind: str) -> None:
    lines = ["a0: &a0 {" + ", ".join(f"k{n}: 1" for n in range(9)) + "}"]
    lines += [f"a{n}: &a{n} {kind}{{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    with pytest.raises(metadata.BadMetadata):
        metadata.read("---\n" + "\n".join(lines) + "\n---\n")


SPACES = "x" + " " * 60_000 + "y"
RULES = ["*a" * 5 + "*b", "**/a/" * 5 + "b", "*?" * 30 + "b", "[a-a]*" * 30 + "b", SPACES, "**/" * 300]


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_of_gitignore_takes_for_ever(rule: str) -> None:
    begun = time.process_time()
    for path in ("a" * 200, "a/" * 60 + "a", "x" * 250):
        ignored(path, rule)
    assert time.process_time() - begun < 1


def test_what_gitignore_means_is_what_git_means(tmp_path: Path) -> None:
    rules = "*a*a*b\n**/a/**/c\nq/**\n!q/w/\nsp\\ \n\\[x\\]\nm[^n]o\nfoo**bar\n/r/*.t\\*\n/**/z\ng/**/h\n**\\*\n"
    said = "aab xaxaxb ab a/c a/b/d/c x/a/c q/1 q/w/2 q [x] mno mpo fooxbar foo/bar r/1.t* r/1.tx z p/z g/h g/1/2/h s*"
    paths = [*said.split(), "sp "]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text(rules)
    asked = subprocess.run(
        ["git", "-C", tmp_path, "check-ignore", "--no-index", "--stdin"],
        input="\n".join(paths), capture_output=True, text=True,
    )  # fmt: skip
    assert {path for path in paths if ignored(path, rules)} == set(asked.stdout.splitlines())
