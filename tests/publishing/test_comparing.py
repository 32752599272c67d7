"""Two revisions compared, against the embedded Hub: files, card, settings, measurements, tensors."""

import base64
import json
import re
import struct
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from releases import REPO, Release, faults, requests, target_of

from hubkit.checks.source import RepoSource
from hubkit.core.errors import RemoteError, UsageError
from hubkit.hub.client import Hub, connect
from hubkit.publishing.revisions import Comparison, compare_revisions
from hubkit.publishing.revisions import weights as weights_module
from hubkit.publishing.revisions.documents import ABSENT, changed_keys, scores, settings, split_card, text_changes
from hubkit.publishing.revisions.weights import _e4m3, _numbers
from hubkit.server.process import Running

OTHER = "hubkit/other"


@pytest.fixture
def mine(hub: Running, tmp_path: Path) -> Hub:
    """A connection to a Hub with one repo that has the branches main and new."""
    connected = connect(target_of(hub, tmp_path))
    connected.ensure_repo(OTHER, "public")
    connected.api.create_branch(OTHER, branch="new")
    return connected


def put(hub: Hub, branch: str, files: dict[str, Any], repo: str = OTHER) -> None:
    """One commit; None removes a file, a dict is written as JSON."""
    operations: list[Any] = []
    for path, content in files.items():
        if content is None:
            operations.append(CommitOperationDelete(path))
            continue
        text = json.dumps(content) if isinstance(content, dict) else content
        operations.append(CommitOperationAdd(path, text.encode() if isinstance(text, str) else text))
    hub.api.create_commit(repo, operations, commit_message="put", revision=branch)


def shard(**tensors: tuple[str, tuple[int, ...], bytes]) -> bytes:
    """A safetensors file of (dtype, shape, bytes)."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


def bf16(values: Any) -> bytes:
    """float32 cut to bfloat16."""
    return (np.asarray(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()


def f32(values: Any) -> bytes:
    return np.asarray(values, "<f4").tobytes()


def compared(hub: Hub, **options: Any) -> Comparison:
    return compare_revisions(RepoSource(hub, OTHER, "main"), RepoSource(hub, OTHER, "new"), **options)


# --- files, card, settings, measurements


def test_equal_revisions(mine: Hub) -> None:
    found = compared(mine)
    assert found.to_json()["equal"] is True
    assert not (found.files or found.card or found.metadata or found.settings or found.notes)
    assert found.weights is not None and not found.weights.changes


def test_files_and_their_bytes(mine: Hub) -> None:
    put(mine, "main", {"a.txt": "one", "gone.bin": b"\0" * 100})
    put(mine, "new", {"a.txt": "three", "b.txt": "b"})
    found = compared(mine).to_json()
    assert found["files"] == [
        {"path": "a.txt", "kind": "changed", "before": 3, "after": 5},
        {"path": "b.txt", "kind": "added", "before": None, "after": 1},
        {"path": "gone.bin", "kind": "removed", "before": 100, "after": None},
    ]
    assert found["equal"] is False and found["same_files"] == 1


def test_a_file_in_lfs_on_one_side_only_is_the_same_when_its_bytes_are(mine: Hub) -> None:
    put(mine, "main", {"data.bin": "text", "other.bin": "text"})
    put(mine, "new", {".gitattributes": "*.txt text\n"})
    put(mine, "new", {"data.bin": "text", "other.bin": "TEXT"})
    trees = [mine.tree(OTHER, branch)["data.bin"] for branch in ("main", "new")]
    assert bool(trees[0].sha256) != bool(trees[1].sha256), "the Hub shows no common digest"
    assert [change.path for change in compared(mine).files.changed] == [".gitattributes", "other.bin"]


def test_the_card(mine: Hub) -> None:
    front = "---\nlicense: {}\ntags: [a, b]\n{}---\n"
    put(mine, "main", {"README.md": front.format("mit", "base_model: x/y\n") + "# Title\n\nIt is old.\n"})
    put(mine, "new", {"README.md": front.format("apache-2.0", "language: en\n") + "# Title\n\nIt is new.\n"})
    found = compared(mine).to_json()
    assert found["metadata"] == [
        {"key": "license", "before": "mit", "after": "apache-2.0"},
        {"key": "base_model", "before": "x/y"},
        {"key": "language", "after": "en"},
    ]
    assert found["card"] == ["--- main", "+++ new", "@@ -1,3 +1,3 @@", " # Title", " ", "-It is old.", "+It is new."]


def test_settings_by_dotted_path(mine: Hub) -> None:
    old = {"eos_token_id": 2, "rope": {"theta": 1.0, "kind": "x"}, "ids": [1, 2], "use": True, "same": {"a": None}}
    new = {"eos_token_id": [2, 7], "rope": {"theta": 5.0, "kind": "x"}, "ids": [2, 1], "use": 1, "same": {"a": None}}
    put(mine, "main", {"config.json": old, "adapter/adapter_config.json": {"r": 4}, "my.json": {"a": 1}})
    put(mine, "new", {"config.json": new, "adapter/adapter_config.json": {"r": 8}, "my.json": {"a": 2}})
    found = compared(mine).to_json()["settings"]
    assert found == {
        "adapter/adapter_config.json": [{"key": "r", "before": 4, "after": 8}],
        "config.json": [
            {"key": "eos_token_id", "before": 2, "after": [2, 7]},
            {"key": "rope.theta", "before": 1.0, "after": 5.0},
            {"key": "ids", "before": [1, 2], "after": [2, 1]},
            {"key": "use", "before": True, "after": 1},
        ],
    }


def test_what_was_measured(hub: Running, tmp_path: Path) -> None:
    release = Release.on(hub, tmp_path).train().publish()
    release.promote()
    connected = connect(release.target)
    front = "---\nmodel-index:\n- name: m\n  results:\n  - task: {type: text-generation}\n"
    put(
        connected,
        "main",
        {"README.md": front + "    dataset: {name: ARC, type: arc}\n    metrics: [{type: acc, value: 61.5}]\n---\n"},
        REPO,
    )
    found = compare_revisions(RepoSource(connected, REPO, "dpo-v0"), RepoSource(connected, REPO, "main"))
    assert found.measured == {
        "stop rate, merged": (0.61, 0.6),
        "benchmark average": (0.25, 0.25),
        "ARC: acc": (None, 61.5),
    }
    assert {change.name for change in found.weights.changes} == {"w"}  # type: ignore[union-attr]
    assert not [item for item in found.metadata if item.key.startswith("model-index")]


def test_two_repos(mine: Hub) -> None:
    mine.ensure_repo("hubkit/third", "public")
    put(mine, "main", {"a.txt": "one"})
    put(mine, "main", {"a.txt": "two"}, "hubkit/third")
    found = compare_revisions(RepoSource(mine, OTHER, "main"), RepoSource(mine, "hubkit/third", "main"))
    assert [change.path for change in found.files.changes] == ["a.txt"]
    assert found.to_json()["after"]["repo"] == "hubkit/third"
    with pytest.raises(UsageError, match="no revision"):
        RepoSource(mine, OTHER, "nowhere")


@pytest.mark.parametrize(
    ("files", "note"),
    [
        ({"config.json": "{"}, r"keys of config\.json were not compared: it is not a JSON object"),
        ({"config.json": "[1]"}, "not a JSON object"),
        ({"config.json": "[" * 100_000}, "not a JSON object"),
        ({"README.md": "---\na: [\n---\n"}, r"front matter of README\.md of new cannot be read"),
        ({"README.md": "---\na: !!int x\n---\n"}, "cannot be read"),
        ({"README.md": "x\n" * 30_000}, "too long to compare line by line"),
        ({"model.safetensors": b"\xff" * 100}, r"not a valid safetensors file.*left out \(new\)"),
        ({"model.safetensors": b""}, "not a valid safetensors file"),
    ],
)
def test_what_cannot_be_read_is_said(mine: Hub, files: dict[str, Any], note: str) -> None:
    sound = {
        "config.json": {"a": 1},
        "README.md": "---\na: 1\n---\n",
        "model.safetensors": shard(w=("U8", (4,), b"1234")),
    }
    put(mine, "main", sound)
    put(mine, "new", sound)
    put_raw(mine, "new", files)
    found = compared(mine)
    assert [line for line in found.notes if re.search(note, line)], found.notes
    json.dumps(found.to_json())


def put_raw(hub: Hub, branch: str, files: dict[str, Any]) -> None:
    """As :func:`put`, past the checks of the client."""
    lines: list[Any] = [{"key": "header", "value": {"summary": "raw"}}]
    for path, content in files.items():
        body = base64.b64encode(content if isinstance(content, bytes) else content.encode()).decode()
        lines.append({"key": "file", "value": {"path": path, "content": body, "encoding": "base64"}})
    request = urllib.request.Request(
        f"{hub.endpoint}/api/models/{OTHER}/commit/{branch}",
        "\n".join(map(json.dumps, lines)).encode(),
        {"authorization": f"Bearer {hub.target.token}", "content-type": "application/x-ndjson"},
    )
    urllib.request.urlopen(request, timeout=10).close()


def test_text_that_no_terminal_takes_is_written_all_the_same(mine: Hub) -> None:
    put(mine, "main", {"config.json": '{"a": "x", "b": 1}'})
    put(mine, "new", {"config.json": '{"a": "\\ud800", "b": {"\\ud801": ["\\ud802"]}}'})
    json.dumps(compared(mine).to_json(), ensure_ascii=False).encode()


# --- tensors


def test_the_norm_of_the_difference(mine: Hub) -> None:
    random = np.random.default_rng(0)
    old = {name: random.standard_normal((50, 30)).astype("<f4") for name in ("a", "b", "c", "same")}
    new = {**old, "a": old["a"] + 0.01, "b": -old["b"]}
    put(mine, "main", {"model.safetensors": shard(**{k: ("F32", v.shape, f32(v)) for k, v in old.items()})})
    as_bf16 = {"c": ("BF16", (50, 30), bf16(old["c"]))}
    put(
        mine,
        "new",
        {"model.safetensors": shard(**{k: ("F32", v.shape, f32(v)) for k, v in new.items()} | as_bf16)},
    )
    found = compared(mine).weights
    assert found is not None and (found.same, found.unread) == (1, 0)
    changes = {change.name: change for change in found.changes}
    assert changes.keys() == {"a", "b", "c"} and all(change.read for change in found.changes)
    for name in ("a", "b"):
        gap = np.linalg.norm(new[name].astype("f8") - old[name].astype("f8"))
        assert changes[name].difference == pytest.approx(gap, rel=1e-12)
        assert changes[name].relative == pytest.approx(gap / np.linalg.norm(old[name].astype("f8")), rel=1e-12)
    assert changes["b"].relative == pytest.approx(2)
    assert (changes["c"].before.dtype, changes["c"].after.dtype) == ("F32", "BF16")  # type: ignore[union-attr]
    assert 1e-4 < (changes["c"].relative or 0) < 2**-8, "what bfloat16 loses"


def test_tensors_added_removed_and_reshaped(mine: Hub) -> None:
    put(
        mine,
        "main",
        {"model.safetensors": shard(a=("U8", (4,), b"aaaa"), gone=("U8", (1,), b"g"), z=("U8", (0,), b""))},
    )
    put(
        mine,
        "new",
        {"model.safetensors": shard(a=("U8", (2, 2), b"aaaa"), more=("I8", (1,), b"m"), z=("U8", (0,), b""))},
    )
    found = compared(mine).to_json()["weights"]
    assert {change["name"]: (change["before"], change["after"], change["relative"]) for change in found["changes"]} == {
        "a": ({"dtype": "U8", "shape": [4]}, {"dtype": "U8", "shape": [2, 2]}, None),
        "gone": ({"dtype": "U8", "shape": [1]}, None, None),
        "more": (None, {"dtype": "I8", "shape": [1]}, None),
    }
    assert found["same"] == 1


def test_only_files_that_differ_are_read(hub: Running, mine: Hub) -> None:
    same, old = shard(same=("U8", (9,), b"s" * 9)), shard(x=("U8", (9,), b"x" * 9))
    new = shard(x=("U8", (9,), b"y" * 9))
    put(mine, "main", {"model-00001-of-00002.safetensors": same, "model-00002-of-00002.safetensors": old})
    put(mine, "new", {"first.safetensors": same, "model-00002-of-00002.safetensors": new})
    faults(hub)
    found = compared(mine).weights
    assert found is not None and found.same_files == 1 and [change.name for change in found.changes] == ["x"]
    read = {line.split("/")[-1] for line in requests(hub) if ".safetensors" in line}
    assert read == {"model-00002-of-00002.safetensors"}, "a file under another name is the same file"


def test_weights_in_other_shards_are_matched_by_name(mine: Hub) -> None:
    tensors = {name: ("U8", (9,), name.encode() * 9) for name in "abcd"}
    put(mine, "main", {"model.safetensors": shard(**tensors), "adapter/adapter_model.safetensors": shard(**tensors)})
    put(
        mine,
        "new",
        {
            "model-1.safetensors": shard(a=tensors["a"], b=("U8", (9,), b"B" * 9)),
            "model-2.safetensors": shard(c=tensors["c"], d=tensors["d"]),
            "adapter/adapter_model.safetensors": shard(**tensors | {"d": ("U8", (9,), b"D" * 9)}),
        },
    )
    found = compared(mine).weights
    assert found is not None and found.same == 6
    assert {(change.file, change.name) for change in found.changes} == {
        ("model-1.safetensors", "b"),
        ("adapter/adapter_model.safetensors", "d"),
    }


def test_tensors_are_read_in_pieces(hub: Running, mine: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "_AHEAD", 4096)
    monkeypatch.setattr(weights_module, "_NUMBERS", 1000)
    sizes: list[int] = []
    part = RepoSource.part

    def counted(self: Any, path: str, start: int, length: int) -> bytes:
        sizes.append(length)
        return part(self, path, start, length)

    monkeypatch.setattr(RepoSource, "part", counted)
    random = np.random.default_rng(1)
    old, new = random.standard_normal((2, 25_000))
    small = {f"s{i}": ("F32", (10,), f32(old[:10] + i)) for i in range(300)}
    put(mine, "main", {"model.safetensors": shard(w=("BF16", (25_000,), bf16(old)), **small)})
    put(mine, "new", {"model.safetensors": shard(w=("BF16", (25_000,), bf16(new)), **small)})
    (change,) = compared(mine).weights.changes  # type: ignore[union-attr]
    one, other = _numbers(bf16(old), "BF16"), _numbers(bf16(new), "BF16")
    assert change.relative == pytest.approx(np.linalg.norm(other - one) / np.linalg.norm(one), rel=1e-12)
    assert max(sizes) <= 65536, "memory is bounded by the window"
    assert len(sizes) < 60, "many small tensors come in one request"


def test_the_limit_on_bytes(hub: Running, mine: Hub) -> None:
    old = {name: ("U8", (1000,), name.encode() * 1000) for name in "abc"}
    new = {name: ("U8", (1000,), name.upper().encode() * 1000) for name in "abc"}
    put(mine, "main", {"model.safetensors": shard(**old, cast=("F32", (1000,), f32([1] * 1000)))})
    put(mine, "new", {"model.safetensors": shard(**new, cast=("F16", (1000,), b"\0\x3c" * 1000))})
    found = compared(mine, limit=4000).weights
    assert found is not None
    assert [(change.name, change.read) for change in found.changes] == [("a", True), ("b", True), ("cast", False)]
    assert (found.unread, found.unread_bytes) == (2, 2000 + 6000)
    faults(hub)
    assert compared(mine, tensors=False).weights is None
    assert not [line for line in requests(hub) if ".safetensors" in line]
    everything = compared(mine, limit=None).weights
    assert everything is not None and everything.unread == 0
    assert {change.name: change.relative for change in everything.changes}["cast"] == 0.0, (
        "another dtype, the same numbers"
    )


def test_numbers_that_are_not_finite_and_zeros(mine: Hub) -> None:
    put(mine, "main", {"m.safetensors": shard(n=("F32", (2,), f32([1, np.nan])), z=("F32", (2,), f32([0, 0])))})
    put(mine, "new", {"m.safetensors": shard(n=("F32", (2,), f32([2, np.nan])), z=("F32", (2,), f32([3, 4])))})
    found = {change.name: change for change in compared(mine).weights.changes}  # type: ignore[union-attr]
    assert (found["n"].difference, found["n"].relative, found["n"].read) == (None, None, True)
    assert (found["z"].difference, found["z"].relative) == (5.0, None)


def test_a_dtype_that_nobody_here_reads(mine: Hub) -> None:
    put(mine, "main", {"m.safetensors": shard(w=("F4", (4,), b"ab"))})
    put(mine, "new", {"m.safetensors": shard(w=("F4", (4,), b"cd"))})
    found = compared(mine)
    assert found.weights is not None and found.weights.unread == 1
    assert any("F4" in note for note in found.notes)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "int64", "uint16", "bool"])
def test_dtypes_are_read_as_numpy_does(dtype: str) -> None:
    values = np.array([0, 1, 1, 0, 1], dtype)
    kinds = {"float": "F", "int": "I", "uint": "U"}
    found = re.fullmatch(r"([a-z]+)(\d+)", dtype)
    code = f"{kinds[found[1]]}{found[2]}" if found else "BOOL"
    assert _numbers(values.tobytes(), code).tolist() == [0, 1, 1, 0, 1]


def test_small_floats_are_read_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    raw = bytes(range(256))
    for code, kind in (("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)):
        wanted = torch.frombuffer(bytearray(raw), dtype=kind).to(torch.float64).numpy()
        np.testing.assert_array_equal(_numbers(raw, code), wanted)
    assert _e4m3(np.array([0x7E], "u1")).tolist() == [448.0]
    halves = np.arange(65536, dtype="<u2").tobytes()
    wanted = torch.frombuffer(bytearray(halves), dtype=torch.bfloat16).to(torch.float64).numpy()
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(_numbers(halves, "BF16"), wanted)


def test_a_hub_that_sends_no_parts(hub: Running, mine: Hub) -> None:
    size = 65_536  # a smaller file is read whole
    put(mine, "main", {"m.safetensors": shard(w=("U8", (size,), bytes(size)))})
    put(mine, "new", {"m.safetensors": shard(w=("U8", (size,), bytes(size - 1) + b"x"))})
    faults(hub, {"route": "GET .*m.safetensors", "action": "status", "status": 200, "count": 0, "body": "x" * 300})
    with pytest.raises(RemoteError, match=r"does not send parts of m\.safetensors"):
        compared(mine)


# --- documents


def test_keys_that_are_absent_are_not_null() -> None:
    (change,) = changed_keys({"a": None}, {})
    assert change.before is None and change.after is ABSENT
    assert change.to_json() == {"key": "a", "before": None}
    assert [change.key for change in changed_keys({"a": {}}, {"a": {"b": 1}})] == ["a", "a.b"]


def test_lists_without_an_order_are_compared_as_sets() -> None:
    old = {"target_modules": ["q", "k", "v"], "tags": ["a", "b"], "ids": [1, 2], "exclude_modules": [["x"]]}
    new = {"target_modules": ["v", "q", "k"], "tags": ["c", "b", "c"], "ids": [2, 1], "exclude_modules": "x"}
    tags, ids, other = changed_keys(old, new)
    assert (tags.key, tags.as_sets) == ("tags", (["a"], ["c"], 1))
    assert {"removed": ["a"], "added": ["c"], "before": ["a", "b"]}.items() <= tags.to_json().items()
    assert (ids.key, ids.as_sets, other.key, other.as_sets) == ("ids", None, "exclude_modules", None)


def test_settings_in_another_order_are_said_to_be_the_same(mine: Hub) -> None:
    put(mine, "main", {"adapter_config.json": {"target_modules": ["a", "b"]}})
    put(mine, "new", {"adapter_config.json": {"target_modules": ["b", "a"]}})
    found = compared(mine)
    assert not found.settings and "same keys and values" in " ".join(found.notes)


def test_a_card_without_a_front_matter() -> None:
    assert split_card("# Title\n---\nx") == ({}, "# Title\n---\nx")
    assert split_card("---\n---\nx") == ({}, "x")
    assert text_changes("a", "a", ("x", "y")) == ()
    assert settings(b"\xff") is None


@pytest.mark.parametrize(
    "index",
    [None, 3, "x", [3], [{"results": 3}], [{"results": [{"metrics": [3, {"value": "x"}, {"value": True}]}]}]],
)
def test_an_odd_model_index_has_no_scores(index: Any) -> None:
    assert scores({"model-index": index}) == {}


def test_scores_of_the_same_data_set_are_told_apart() -> None:
    def result(config: str, value: float) -> dict[str, Any]:
        return {"dataset": {"type": "mmlu", "config": config}, "metrics": [{"type": "acc", "value": value}]}

    index = [{"results": [result("law", 1), result("art", 2)]}]
    assert scores({"model-index": index}) == {"mmlu: acc": 1.0, "mmlu art: acc": 2.0}
