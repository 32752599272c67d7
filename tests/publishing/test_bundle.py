"""Bundles: the allow-list, the screening, the digests, and the same bytes for the same inputs."""

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from releases import RECIPE, Release, card, weights

from hubkit.checks.screening import architecture, screen
from hubkit.core.errors import RefusedError
from hubkit.core.files import Digests, Manifest, digests
from hubkit.core.target import Target
from hubkit.models.tensors import read_header
from hubkit.pipeline.runs import open_run
from hubkit.publishing import bundle as bundles
from hubkit.publishing.bundle import build, git_attributes
from hubkit.publishing.manifest import MANIFEST_PATH, SIGNATURE_PATH, Provenance

PROVENANCE = {"variant": "main", "base": {"repo": "them/base", "commit": "b" * 40}}
TWICE = b'{"a": {"data_offsets": [0, 0]}, "a": {"data_offsets": [0, 0]}}'
TOKEN = "hf_" + "Ab3" * 12


@pytest.fixture
def release(tmp_path: Path) -> Release:
    url = "http://127.0.0.1:9"
    target = Target(url, tmp_path / "hf")
    return Release(tmp_path, target, open_run(tmp_path, RECIPE.repo, target)).train()


def built(release: Release, into: str = "written") -> bundles.Bundle:
    parts = (release.typed(step) for step in ("merge[main]", "train[sft]", "card[main]"))
    return build(*parts, PROVENANCE, release.folder / into)


def test_the_tree_is_what_the_allow_list_says(release: Release) -> None:
    found = built(release)
    assert sorted(found.files) == [
        ".gitattributes",
        ".hubkit/cards/README.md",
        ".hubkit/cards/adapter-README.md",
        ".hubkit/manifest.json",
        "README.md",
        "adapter/README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert found.left_out == ("adapter/README.md",), "the trainer's own card gives way to the generated one"
    for path, local in found.files.items():
        assert found.manifest.files[path] == digests(local), path


def test_weights_that_were_trained_without_an_adapter_have_none_beside_them(release: Release) -> None:
    release.make(
        "train[sft]", {"training.json": {"form": "weights"}, "weights/model.safetensors": weights(9), "weights/x": "y"}
    )
    release.make("card[main]", {"README.md": card("main")})
    found = built(release)
    assert not [path for path in (*found.files, *found.left_out) if "adapter" in path or "weights" in path]
    assert {"config.json", "model.safetensors", "README.md", MANIFEST_PATH} <= found.files.keys()


def test_an_adapter_that_was_trained_must_be_in_the_bundle(release: Release) -> None:
    release.make("train[sft]", {"training.json": {}, "adapter/adapter_config.json": "{}"})
    with pytest.raises(RefusedError, match=r"lacks adapter/adapter_model\.safetensors"):
        built(release)


def test_pictures_and_results_come_with_the_card_and_nothing_else(release: Release) -> None:
    files: dict[str, bytes | str | dict[str, Any]] = {
        name: (release.made["card[main]"].path / name).read_bytes()
        for name in release.made["card[main]"].manifest.files
    }
    extra: dict[str, bytes | str | dict[str, Any]] = {
        "assets/header.png": b"x",
        "assets/notes.txt": "x",
        ".eval_results/gsm8k.yaml": "- value: 1\n",
        "stray.png": b"x",
    }
    release.make("card[main]", {**files, **extra})
    found = built(release)
    assert {"assets/header.png", ".eval_results/gsm8k.yaml"} <= found.files.keys()
    assert not {"assets/notes.txt", "stray.png"} & found.files.keys()
    assert "*.png filter=lfs" in found.files[".gitattributes"].read_text(), "the Hub keeps pictures in LFS"


def test_a_checkpoint_cannot_slip_in(release: Release) -> None:
    files = {"model/config.json": "{}", "model/tokenizer_config.json": "{}", "model/model.safetensors": weights(1)}
    extra = {"model/optimizer.pt": b"x", "model/pytorch_model.bin": b"x", "model/runs/events": b"x", "log": b"x"}
    release.make("merge[main]", {**files, **extra})
    found = built(release)
    assert not [
        path for path in found.files if "optimizer" in path or ".bin" in path or "runs" in path or path == "log"
    ]
    assert set(found.left_out) >= {"model/optimizer.pt", "model/pytorch_model.bin", "model/runs/events"}


def test_the_same_inputs_give_the_same_bytes(release: Release) -> None:
    first, second = built(release, "one"), built(release, "two")
    assert first.manifest.digest == second.manifest.digest
    assert first.files[MANIFEST_PATH].read_bytes() == second.files[MANIFEST_PATH].read_bytes()


def test_large_files_are_not_read_again(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: Path) -> Digests:
        read.append(path.name)
        return digests(path)

    monkeypatch.setattr(bundles, "digests", counted)
    built(release)
    assert sorted(read) == [".gitattributes", "manifest.json"]


def test_what_the_merge_held_against_its_config_is_not_held_again(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    monkeypatch.setattr(architecture, "fit_of", lambda config, *_: asked.append(config) or "not told")
    built(release)
    assert len(asked) == 1
    merged = release.made["merge[main]"]
    files = {name: (merged.path / name).read_bytes() for name in merged.manifest.files}
    release.make("merge[main]", {**files, "merge.json": {"dtype": "bfloat16", "fits": True}})
    built(release)
    assert len(asked) == 1


def test_the_manifest_on_the_branch_names_every_other_file(release: Release) -> None:
    found = built(release)
    said = Provenance.parse(found.files[MANIFEST_PATH].read_bytes())
    assert said is not None and said.paths == {*found.manifest.files, SIGNATURE_PATH}
    assert said.content["base"] == PROVENANCE["base"]
    assert "files" not in dict(said.facts())
    assert Provenance.parse(b"{}") is None and Provenance.parse(None) is None and Provenance.parse(b"[") is None


@pytest.mark.parametrize(
    ("step", "gone"),
    [("merge[main]", "model/config.json"), ("merge[main]", "model/model.safetensors"), ("card[main]", "README.md")],
)
def test_something_needed_is_missing(release: Release, step: str, gone: str) -> None:
    kept = {n: (release.made[step].path / n).read_bytes() for n in release.made[step].manifest.files if n != gone}
    release.make(step, kept)  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match=gone.removeprefix("model/")):
        built(release)


@pytest.mark.fault("S4")
def test_a_token_in_the_card_is_refused_and_never_shown(release: Release) -> None:
    release.make("card[main]", {"README.md": card("x") + f"\nuse {TOKEN} to log in\n", "adapter-README.md": card("a")})
    with pytest.raises(RefusedError) as refused:
        built(release)
    assert "README.md" in str(refused.value) and "Hugging Face token" in str(refused.value)
    assert TOKEN not in str(refused.value)


def test_git_attributes_send_every_weight_to_lfs() -> None:
    huge = Digests(20 * 2**20, "s", "g")
    small = Digests(10, "s", "g")
    text = git_attributes(Manifest({"tokenizer.json": huge, "config.json": small, "model.safetensors": huge}))
    patterns = [line.split()[0] for line in text.splitlines()]
    assert "*.safetensors" in patterns and "tokenizer.json" in patterns
    assert "config.json" not in patterns and "model.safetensors" not in patterns
    assert all(line.endswith("filter=lfs diff=lfs merge=lfs -text") for line in text.splitlines())


# --- screening


def rules(folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """{path: rule} of what the screening finds."""
    local = {}
    for number, (path, content) in enumerate(files.items()):
        local[path] = folder / str(number)
        local[path].write_bytes(content)
    return {problem.file: problem.rule for problem in screen(local)}


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("../x", "name"),
        ("/abs", "name"),
        ("a//b", "name"),
        ("a\\..\\b", "name"),
        ("a\nb", "name"),
        ("", "name"),
        ("CON", "name"),
        ("x" * 300, "name"),
        ("e\u0301", "name"),
        ("a\u202eb", "name"),
        (".env", "private-file"),
        ("keys/id_rsa", "private-file"),
        ("server.pem", "private-file"),
        ("pytorch_model.bin", "pickle"),
        ("a/b.pkl", "pickle"),
    ],
)
@pytest.mark.fault("S1")
def test_hostile_names(tmp_path: Path, path: str, rule: str) -> None:
    assert rules(tmp_path, {path: b"x"}) == {path: rule}


@pytest.mark.fault("S1")
def test_names_that_differ_in_case_only(tmp_path: Path) -> None:
    assert rules(tmp_path, {"README.md": b"x", "readme.md": b"x"}) == {"readme.md": "name"}


@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        "ghp_" + "a1" * 18,
        "AKIA" + "ABCDEFGH12345678",
        "sk-ant-" + "x1" * 20,
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
@pytest.mark.fault("S4")
def test_secrets_in_text(tmp_path: Path, secret: str) -> None:
    local = tmp_path / "x"
    local.write_text(f"one\ntwo {secret}\n")
    (problem,) = screen({"notes.md": local})
    assert problem.rule == "secret" and "Line 2" in problem.message
    assert secret not in problem.sentence


@pytest.mark.fault("S4")
def test_a_secret_in_safetensors_metadata(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"note": TOKEN}}).encode()
    local = tmp_path / "w"
    local.write_bytes(struct.pack("<Q", len(header)) + header)
    assert [problem.rule for problem in screen({"model.safetensors": local})] == ["secret"]


@pytest.mark.fault("S5")
def test_a_pickle_under_another_name(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", b"x")
    found = rules(tmp_path, {"a.safetensors": pickle.dumps({"a": 1}), "b.json": archive.read_bytes()})
    assert found == {"a.safetensors": "pickle", "b.json": "pickle"}


@pytest.mark.fault("S3")
def test_links_and_pipes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    found = screen({"link": tmp_path / "link", "pipe": tmp_path / "pipe", "real": tmp_path / "real"})
    assert {problem.file: problem.rule for problem in found} == {"link": "special-file", "pipe": "special-file"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 4) + b"nope" + b"x" * 20,
        struct.pack("<Q", 2) + b"[]",
        weights(1)[:-1],
        weights(1) + b"x",
        weights(1).replace(b'"data_offsets": [0,', b'"data_offsets": [1,'),
        struct.pack("<Q", len(TWICE)) + TWICE,
    ],
)
@pytest.mark.fault("S6")
def test_broken_safetensors(tmp_path: Path, content: bytes) -> None:
    assert rules(tmp_path, {"model.safetensors": content}) == {"model.safetensors": "safetensors"}


def test_sound_safetensors(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(weights(7))
    assert read_header(tmp_path / "w").tensors["w"].shape == (4096,)
    assert screen({"model.safetensors": tmp_path / "w"}) == []


def test_an_adapter_beside_merged_weights(tmp_path: Path) -> None:
    assert rules(tmp_path, {"config.json": b"{}", "adapter_config.json": b"{}"}) == {
        "adapter_config.json": "adapter-at-root"
    }


def test_shards_and_their_index(tmp_path: Path) -> None:
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    index = "model.safetensors.index.json"
    whole = json.dumps({"weight_map": {"w": one}}).encode()
    assert rules(tmp_path, {one: weights(1), index: whole}) == {}
    assert rules(tmp_path, {one: weights(1), two: weights(2)}) == {index: "shards"}
    assert rules(tmp_path, {one: weights(1), two: weights(2), index: whole}) == {two: "shards"}
    missing = json.dumps({"weight_map": {"w": one, "v": two}}).encode()
    assert rules(tmp_path, {one: weights(1), index: missing}) == {index: "shards"}
    other = json.dumps({"weight_map": {"another": one}}).encode()
    assert rules(tmp_path, {one: weights(1), index: other}) == {one: "shards"}
    assert rules(tmp_path, {one: weights(1), index: b"[]"}) == {index: "shards"}


def test_places_of_the_machine_that_made_it(tmp_path: Path) -> None:
    found = rules(
        tmp_path,
        {
            "adapter/adapter_config.json": b'{"base_model_name_or_path": "./out/base"}',
            "config.json": b'{"a": {"b": ["/home/somebody/models"]}}',
            "generation_config.json": b'{"do_sample": false, "stop": "/"}',
            "broken.json": b"{",
        },
    )
    assert found == {"adapter/adapter_config.json": "local-path", "config.json": "local-path", "broken.json": "json"}
