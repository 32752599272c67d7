"""`hubkit check`: a sound model has no errors; each thing that goes wrong in the field is found."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from checked_models import look, put, said
from huggingface_hub import CommitOperationAdd

from hubkit.checks.model import FolderSource, RepoSource, check
from hubkit.checks.source import MAX_READ_BYTES
from hubkit.core.errors import RefusedError
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.models.tensors import parse_header, read_header, read_weights


@pytest.mark.parametrize("generation", [True, False])
def test_a_multimodal_model_keeps_its_text_settings_in_text_config(model, generation):
    put(model / "config.json", eos_token_id=None, vocab_size=None, text_config={"eos_token_id": 257, "vocab_size": 261})
    if not generation:
        (model / "generation_config.json").unlink()
    assert not {"eos-config", "eos-generation"} & {finding.rule for finding in look(model).findings}
    put(model / "config.json", text_config={"eos_token_id": 257, "vocab_size": 200})
    assert "the model has 200 embeddings" in said(look(model)) and "[vocabulary]" in said(look(model))


def test_a_sound_model_has_nothing_to_find(published):
    report = look(published)
    assert report.findings == ()
    assert report.sound
    assert (report.end_of_turn.token, report.end_of_turn.id) == ("<|im_end|>", 257)
    assert (report.kind, report.template, report.dtype) == ("model and adapter", "ChatML", "bfloat16")
    assert (report.architecture, report.base_model) == ("MistralForCausalLM", "me/base")
    tensors = [item for header in read_weights(published).values() for item in header.tensors.values()]
    assert report.parameters == sum(item.count for item in tensors)
    assert json.loads(json.dumps(report.to_json()))["end_of_turn"] == {"token": "<|im_end|>", "id": 257}


def release(folder: Path, **facts: object) -> None:
    """Write the manifest of a release of ``folder``."""
    paths = sorted(path for path in folder.rglob("*.safetensors"))
    files = [
        {"path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "git": "",
         "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in paths
    ]  # fmt: skip
    (folder / ".hubkit").mkdir(exist_ok=True)
    (folder / ".hubkit" / "manifest.json").write_text(json.dumps({"variant": "v", "files": files, **facts}))


ANSWERS = {"merged": {"stopped": 0, "prompts": 128}, "adapter": {"stopped": 128, "prompts": 128}}


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"answers": {"forms": ANSWERS, "max_new_tokens": 64, "at_least": 0.95}},
         "0 of 128 answers stopped within 64 new tokens (merged weights). Wanted: at least 95.0 %."),
        ({"stop_rates": {"merged": 0.5, "adapter": 0.5}, "recipe": {"gates": {"stop_rate": {"max_new_tokens": 9}}}},
         "50.0 % of the answers stopped within 9 new tokens (merged weights, adapter). Wanted: at least 90.0 %."),
        ({"answers": {"forms": {"adapter": {"stopped": 122, "prompts": 128}}, "at_least": 0.95}}, None),
        ({"stop_rates": {"merged": "x", "adapter": -1}, "answers": {"forms": [1]}, "recipe": 3}, None),
    ],
)  # fmt: skip
def test_what_the_release_measured(model, facts, says):
    release(model, **facts)
    found = [finding for finding in look(model).findings if finding.rule == "stop-rate"]
    assert [finding.level for finding in found] == ["warning"] * (says is not None)
    assert not says or says in found[0].message
    assert not says or json.loads(json.dumps(look(model).to_json()))["measured"].keys() == {"merged", "adapter"}


def test_what_was_measured_of_other_weights_is_not_reported(model):
    release(model, answers={"forms": ANSWERS})
    assert look(model).measured is not None
    weights = model / "adapter" / "adapter_model.safetensors"
    trained_further = weights.read_bytes()[:-1] + b"x"
    weights.write_bytes(trained_further)
    assert look(model).measured is None and look(model).findings == ()
    weights.unlink()
    assert look(model).measured is None
    (model / ".hubkit" / "manifest.json").write_text("[" * 9)
    assert look(model).measured is None


def test_no_heavy_library_is_needed(published):
    script = (
        "import sys; from pathlib import Path; from hubkit.checks.model import FolderSource, check\n"
        "print(len(check(FolderSource(Path(sys.argv[1]))).findings))\n"
        "print([name for name in ('torch', 'transformers', 'tokenizers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, published],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["0", "[]"]


@pytest.mark.parametrize(
    ("file", "changes", "level", "says", "rule"),
    [
        (
            "generation_config.json",
            {"eos_token_id": 2},
            "error",
            "does not stop at the end-of-turn token",
            "eos-generation",
        ),
        ("config.json", {"eos_token_id": 2}, "warning", "read only config.json", "eos-config"),
        ("config.json", {"vocab_size": 200}, "error", "embeddings", "vocabulary"),
        (
            "config.json",
            {"dtype": "float16"},
            "warning",
            "config.json says float16, but most weights are bfloat16",
            "dtype",
        ),
        (
            "tokenizer_config.json",
            {"pad_token": "<|im_end|>"},
            "warning",
            "padding token is the end-of-turn token",
            "eos-padding",
        ),
        ("tokenizer_config.json", {"eos_token": "<s>"}, "note", "EOS token", "eos-tokenizer"),
        ("tokenizer_config.json", {"chat_template": "{{ messages }}"}, "warning", "differ", "two-chat-templates"),
        ("adapter_config.json", {"peft_type": "LORA"}, "error", "in the same folder as config.json", "adapter-at-root"),
        (
            "adapter/adapter_config.json",
            {"base_model_name_or_path": "/home/me/base"},
            "error",
            "cannot be resolved by others",
            "adapter-base",
        ),
        ("adapter/adapter_config.json", {"base_model_name_or_path": None}, "error", "names no base", "adapter-base"),
        ("adapter/adapter_config.json", {"revision": None}, "note", "pins no revision", "adapter-revision"),
        (
            "adapter/adapter_config.json",
            {"base_model_name_or_path": "me/other"},
            "note",
            "the card names me/base",
            "adapter-base",
        ),
        ("config.json", {"_name_or_path": "/home/me/checkpoint-12"}, "warning", "local-path", "local-path"),
    ],
)
def test_what_the_json_files_say(model, file, changes, level, says, rule):
    put(model / file, **changes)
    report = look(model)
    assert says in said(report, level) and f"[{rule}]" in said(report, level)
    assert report.sound == (level != "error")


@pytest.mark.parametrize(
    ("name", "content", "level", "says", "rule"),
    [
        ("chat_template.jinja", None, "note", "chat template is missing", "no-chat-template"),
        (
            "chat_template.jinja",
            "{% for m in messages %}{{ m.content }}\n{% endfor %}",
            "warning",
            "never closes",
            "template-fails",
        ),
        ("chat_template.jinja", "{{ 'x' * 10**10 }}", "error", "MemoryError", "template-fails"),
        ("chat_template.jinja", "{{ cycler.__init__.__globals__ }}", "error", "unsafe", "template-fails"),
        ("README.md", None, "warning", "model card (README.md) is missing", "no-card"),
        ("README.md", "# Hello", "warning", "no front matter", "front-matter"),
        ("README.md", "---\nlicense: mit\n---\n", "note", "names no base_model", "base-model"),
        (
            "README.md",
            "---\nlicense: mit\nbase_model: ../base\n---\n",
            "error",
            "is not a repo id of the form",
            "base-model",
        ),
        ("README.md", "---\nlicense: [mit\n---\n", "error", "front matter", "front-matter"),
        ("config.json", "{", "error", "not valid JSON", "json"),
        ("config.json", None, "error", "config.json is missing", "no-config"),
        ("training_args.bin", "x", "warning", "can run code", "pickle"),
        ("notes.md", "token: hf_" + "a1B2" * 9, "error", "Hugging Face token", "secret"),
        ("model.safetensors.index.json", None, "error", "no loader finds them", "shards"),
        (
            "adapter/adapter_model.safetensors",
            None,
            "error",
            "adapter/adapter_model.safetensors is missing",
            "adapter-weights",
        ),
    ],
)
def test_what_the_files_are(model, name, content, level, says, rule):
    if content is None:
        (model / name).unlink()
    else:
        (model / name).write_text(content)
    found = said(look(model), level)
    assert says in found and f"[{rule}]" in found


@pytest.mark.parametrize(
    ("name", "content", "level", "says", "rule"),
    [
        (
            "work.ipynb",
            json.dumps({"cells": [{"source": ["x = 'ghp_" + "a1B2" * 9 + "'"]}]}),
            "error",
            "GitHub token",
            "secret",
        ),
        (".env", "A=1", "error", "suggests secrets", "private-file"),
        ("optimizer.pt", "x", "warning", "not part of the model", "training-state"),
        ("trainer_state.json", "{}", "warning", "not part of the model", "training-state"),
        ("notes.json", pickle.dumps({}), "error", "contains pickle data", "pickle"),
        ("recipe.yaml", "a: [x, /home/me/x]", "warning", "local-path", "local-path"),
        ("con.txt", "x", "error", "device name", "name"),
        ("ConfiG.json", "{}", "error", "on a case-insensitive disk", "name"),
        ("other.md", "---\na: 1\na: 2\n---\n", "warning", "front-matter", "front-matter"),
    ],
)
@pytest.mark.parametrize("place", ["folder", "repo"])
def test_a_folder_and_a_repo_are_screened_alike(model, hub, tmp_path, place, name, content, level, says, rule):
    (model / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    source = FolderSource(model)
    if place == "repo":
        connection = connect(Target(hub.url, tmp_path / "hf", hub.token, embedded=True))
        connection.api.create_repo("hubkit/tiny")
        files = [CommitOperationAdd(path.name, path) for path in model.iterdir() if path.is_file()]
        if name == "con.txt":
            pytest.skip("the embedded Hub takes no such name")
        connection.api.create_commit("hubkit/tiny", files, commit_message="all")
        source = RepoSource(connection, "hubkit/tiny")
    report = check(source)
    assert says in said(report, level) and f"[{rule}]" in said(report, level)
    assert "a1B2" not in json.dumps(report.to_json())


@pytest.mark.fault("S3")
def test_special_files_in_a_folder_are_told_and_not_waited_for(model, tmp_path):
    (tmp_path / "outside").write_text("x")
    (model / "out").symlink_to(tmp_path / "outside")
    (model / "loop").symlink_to(model / "loop")
    (model / "up").symlink_to(tmp_path)
    (model / "near").symlink_to(model / "config.json")
    os.mkfifo(model / "pipe")
    told = said(look(model), "warning")
    assert all(f"{name}: " in told for name in ("out", "loop", "up", "pipe")) and "near: " not in told


def test_links_of_the_clients_cache_are_no_fault(published, tmp_path):
    cache = tmp_path / "models--me--x"
    snapshot = cache / "snapshots" / ("0" * 40)
    for number, path in enumerate(sorted(published.rglob("*"))):
        if path.is_file():
            (cache / "blobs").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, cache / "blobs" / str(number))
            link = snapshot / path.relative_to(published)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(cache / "blobs" / str(number))
    assert look(snapshot).findings == ()


def test_weights_that_are_no_numbers_and_that_do_not_fit(model):
    assert check(FolderSource(model), fits=True).findings == ()
    put(model / "config.json", num_hidden_layers=3)
    misfit = said(check(FolderSource(model), fits=True))
    assert "missing tensors, e.g. 'model.layers.2." in misfit and "[architecture]" in misfit
    adapter = model / "adapter" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-4] + struct.pack("<f", float("nan")))
    assert "NaN" in said(look(model)) and "[not-finite]" in said(look(model))


def test_shards_that_are_missing_or_strange(model):
    shards = sorted(model.glob("model-*.safetensors"))
    shards[0].rename(model / "model-extra.safetensors")
    report = look(model)
    assert f"names {shards[0].name}, which does not exist" in said(report)
    assert "model-extra.safetensors is not in" in said(report, "warning")


def test_weights_without_a_tokenizer(model):
    for path in model.glob("*token*"):
        path.unlink()
    assert "The tokenizer is missing. [no-tokenizer]" in said(look(model))


def test_a_template_that_is_too_large_is_not_read(model):
    with (model / "chat_template.jinja").open("wb") as file:
        file.truncate(MAX_READ_BYTES + 1)
    assert "is too large to read" in said(look(model)) and "[too-large]" in said(look(model))


def test_only_pickles_are_no_weights(model):
    for path in model.glob("*.safetensors*"):
        path.unlink()
    (model / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    report = look(model)
    assert report.kind == "adapter"
    assert "pytorch_model.bin can run code" in said(report, "warning")


def broken(header: object, data: int = 8, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def one(**changes) -> dict:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "length of its header"),
        (broken(one(), length=2**63), "length of its header"),
        (broken(one(), length=5000), "length of its header"),
        (broken(b"\x80\x04pickle here"), "not JSON"),
        (broken(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{}}'), "name appears twice"),
        (broken(b"[" * 100_000), "not JSON"),
        (broken([1]), "not JSON"),
        (broken({"w": 1}), "not JSON"),
        (broken({"w": {}}), "lacks its dtype"),
        (broken(one(dtype="F77")), "unknown dtype"),
        (broken(one(dtype=["F32"])), "unknown dtype"),
        (broken(one(shape=[3])), "is not 8 bytes"),
        (broken(one(shape=[2**40, 2**40])), "is not 8 bytes"),
        (broken(one(shape=[2**64])), "numbers that can be"),
        (broken(one(shape=[-2])), "numbers that can be"),
        (broken(one(shape=[True, 2])), "numbers that can be"),
        (broken(one(data_offsets=[8, 16]), data=16), "leave a gap"),
        (broken({**one(), "v": one()["w"]}), "overlap"),
        (broken(one(), data=4), "the file at"),
        (broken(one(), data=12), "the file at"),
        (broken({"__metadata__": {"a": 1}, **one()}), "metadata"),
    ],
)
@pytest.mark.fault("S6")
def test_unsound_safetensors_are_refused_with_the_reason(tmp_path, model, content, says):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match=says):
        read_header(path)
    shard = sorted(model.glob("model-*.safetensors"))[0]
    shard.write_bytes(content)
    assert f"{shard.name} is not a valid safetensors file" in said(look(model))
    assert "[safetensors]" in said(look(model))


def test_headers_are_read_as_safetensors_reads_them(published):
    from safetensors import safe_open

    for path, header in read_weights(published).items():
        with safe_open(path, "pt") as opened:
            assert set(opened.keys()) == set(header.tensors)
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                assert tuple(opened.get_slice(name).get_shape()) == header.tensors[name].shape
                assert opened.get_slice(name).get_dtype() == header.tensors[name].dtype


def test_a_sound_header_in_any_order_and_empty_tensors():
    tensors = {"b": {"dtype": "U8", "shape": [3], "data_offsets": [2, 5]}, "a": {"dtype": "BF16", "shape": [1]}}
    tensors["a"]["data_offsets"] = [0, 2]
    tensors["none"] = {"dtype": "F32", "shape": [0, 4], "data_offsets": [2, 2]}
    text = json.dumps(tensors).encode()
    header = parse_header(text, 8 + len(text) + 5, "x")
    assert list(header.tensors) == ["a", "none", "b"]
    assert header.tensors["none"].count == 0


def test_a_repo_is_checked_without_fetching_its_weights(published, hub, tmp_path):
    connection = connect(Target(hub.url, tmp_path / "hf", hub.token, embedded=True))
    api = connection.api
    for repo, folder in (("hubkit/tiny", published), ("hubkit/chained", published / "adapter")):
        api.create_repo(repo)
        api.upload_folder(repo_id=repo, folder_path=folder)
    put(tmp_path / "adapter_config.json", base_model_name_or_path="hubkit/chained", peft_type="LORA")
    api.upload_file(
        path_or_fileobj=tmp_path / "adapter_config.json",
        path_in_repo="second/adapter_config.json",
        repo_id="hubkit/tiny",
    )
    source = RepoSource(connection, "hubkit/tiny")
    shard = next(name for name in source.files() if name.startswith("model-"))
    assert source.read(shard, 8, 40) == (published / shard).read_bytes()[8:48]
    report = check(source)
    here = look(published)
    assert (report.end_of_turn, report.dtype, report.parameters) == (here.end_of_turn, here.dtype, here.parameters)
    assert "The base me/base of adapter/adapter_config.json is not on this Hub" in said(report)
    assert "second/adapter_config.json: the base hubkit/chained is itself an adapter" in said(report)
    assert not list((tmp_path / "hf").rglob("*.safetensors"))
