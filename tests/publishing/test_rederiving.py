"""`hubkit verify --rederive`: a release whose weights are its adapter merged again, and all that is refused."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import architectures
import gguf
import pytest
from commands import hubkit
from merges import random_adapter, save_tensors, tensors_of
from releases import target_of

from hubkit.checks.source import FolderSource, RepoSource
from hubkit.core.errors import ConflictError, RefusedError
from hubkit.core.files import Manifest, digests
from hubkit.hub.client import Hub, connect
from hubkit.models.gguf.write import write_gguf
from hubkit.models.merging.machine import arithmetic
from hubkit.models.merging.merge import merge
from hubkit.pipeline.reproducing import refuse_unpublished_sources
from hubkit.publishing.manifest import MANIFEST_PATH
from hubkit.publishing.proving import prove_merge
from hubkit.publishing.rederiving.recipe import recipe_of
from hubkit.publishing.rederiving.weights import rederive
from hubkit.publishing.verifying import verify
from hubkit.server.process import Running

BASE, REPO = "hubkit/again-base", "hubkit/again"
LORA = {"r": 4, "lora_alpha": 8}


@dataclass
class World:
    """A base on a Hub, and the folder of a release made from it."""

    hub: Hub
    home: Path
    base: Path
    commit: str
    folder: Path

    def list_files(self, folder: Path, **facts: Any) -> Path:
        """Write the manifest of ``folder``, as it is now."""
        (folder / MANIFEST_PATH).parent.mkdir(exist_ok=True)
        (folder / MANIFEST_PATH).unlink(missing_ok=True)
        content = {
            "schema": 1,
            "made_by": {"hubkit": "0.1.0"},
            "repo": REPO,
            "variant": "main",
            "base": {"repo": BASE, "commit": self.commit},
            "stage": "sft",
            "merge": arithmetic(),
            "recipe": {"base": {"dtype": "bfloat16"}, "stages": {"sft": {"lora": LORA}}},
            **facts,
        }
        (folder / MANIFEST_PATH).write_text(json.dumps({**content, **Manifest.of(folder).to_json()}))
        return folder

    def changed(self, folder: Path, change: Callable[[Path], None], **facts: Any) -> FolderSource:
        """A copy of the release in which something is changed, whose manifest lists the files as they are then."""
        copy = shutil.copytree(self.folder, folder)
        change(copy)
        source = FolderSource(self.list_files(copy, **facts))
        assert not verify(source).differences, "the manifest agrees: only merging again can tell"
        return source


@pytest.fixture
def world(hub: Running, tmp_path: Path) -> World:
    connected = connect(target_of(hub, tmp_path / "home"))
    base = architectures.make("smollm", tmp_path / "base", dtype="bfloat16")
    connected.api.create_repo(BASE)
    commit = connected.api.upload_folder(repo_id=BASE, folder_path=base).oid
    folder = tmp_path / "release"
    adapter = random_adapter(base, tmp_path / "adapter", 0.02, 1, **LORA)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    bound = {**settings, "base_model_name_or_path": BASE, "revision": commit}
    (adapter / "adapter_config.json").write_text(json.dumps(bound))
    merge(base, adapter, folder, dtype="bfloat16")
    (adapter / "README.md").unlink(missing_ok=True)
    shutil.copytree(adapter, folder / "adapter")
    made = World(connected, tmp_path / "home", base, commit, folder)
    made.list_files(folder)
    return made


def rewrite(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_what_is_right_and_what_is_refused(world: World, hub: Running, tmp_path: Path) -> None:
    """One world for all cases: it takes seconds to make."""
    found = rederive(FolderSource(world.folder), world.hub)
    assert found.equal and (found.base, found.commit, found.dtype) == (BASE, world.commit, "bfloat16")
    assert found.merge.files == ("model.safetensors",) and not any(item.differs for item in found.versions)
    assert found.to_json()["versions"]["torch"]["here"] == arithmetic()["torch"]
    old = rederive(world.changed(tmp_path / "old", lambda _: None, merge=None, made_by={"torch": "2.0.0"}), world.hub)
    assert old.equal and {item.name for item in old.versions if item.differs} == {"torch"}

    _refused_by_bits(world, tmp_path)
    _refused_by_name(world, tmp_path)
    _beside(world, tmp_path)
    _nothing_to_merge(world, tmp_path)
    _gguf_too(world, tmp_path)
    _the_command(world, hub, tmp_path)
    _reproduce_asks(world, hub, tmp_path)


def _refused_by_bits(world: World, tmp_path: Path) -> None:
    other = random_adapter(world.base, tmp_path / "other", 0.02, 7, **LORA)

    def one_bit(folder: Path) -> None:
        body = bytearray((folder / "model.safetensors").read_bytes())
        body[-1] ^= 1
        (folder / "model.safetensors").write_bytes(body)

    def another_adapter(folder: Path) -> None:
        shutil.copy(other / "adapter_model.safetensors", folder / "adapter" / "adapter_model.safetensors")

    def another_scaling(folder: Path) -> None:
        rewrite(folder / "adapter" / "adapter_config.json", alpha_pattern={"q_proj": 9})

    def extra_and_missing(folder: Path) -> None:
        tensors = tensors_of(folder)
        first = sorted(tensors)[0]
        save_tensors({("more" if name == first else name): value for name, value in tensors.items()}, folder)

    kinds = {one_bit: "numbers", another_adapter: "numbers", another_scaling: "numbers", extra_and_missing: "missing"}
    for change, kind in kinds.items():
        found = rederive(world.changed(tmp_path / change.__name__, change), world.hub)
        assert not found.equal and found.merge.differences[0].kind == kind, change.__name__
        said = json.loads(json.dumps(found.to_json()))
        assert not said["equal"] and (said["merge"]["differences"][0]["numbers"] > 0) == (kind == "numbers")


def _refused_by_name(world: World, tmp_path: Path) -> None:
    adapter = Path("adapter", "adapter_config.json")
    moved = {name: value + 0.01 for name, value in tensors_of(world.base).items()}
    other_base = save_tensors(moved, shutil.copytree(world.base, tmp_path / "moved"))
    other = world.hub.api.upload_folder(repo_id=BASE, folder_path=other_base).oid
    cases: list[tuple[str, Callable[[Path], None], dict[str, Any], str]] = [
        (
            "another commit in the manifest", lambda _: None, {"base": {"repo": BASE, "commit": other}},
            f"was trained on {BASE}@{world.commit[:12]}, but the base in the manifest is {BASE}@{other[:12]}",
        ),
        (
            "another commit in the adapter", lambda folder: rewrite(folder / adapter, revision=other), {},
            f"was trained on {BASE}@{other[:12]}, but the base in the manifest is {BASE}@{world.commit[:12]}",
        ),
        ("no base in the manifest", lambda _: None, {"base": None}, "the base in the manifest is none"),
        (
            "another dtype", lambda folder: rewrite(folder / "config.json", dtype="float16"), {},
            "config.json says that the weights are in float16, the recipe in the manifest says bfloat16",
        ),
        (
            "another scaling", lambda folder: rewrite(folder / adapter, lora_alpha=16), {},
            "The adapter has lora_alpha: 16, the recipe in the manifest lora_alpha: 8",
        ),
        (
            "other weights beside", lambda folder: (save_tensors({"a": moved.popitem()[1]}, folder / "x") and None) or (
                (folder / "x" / "model.safetensors").rename(folder / "weights.safetensors") and None
            ), {}, "has weights that are no part of the merged model: weights.safetensors",
        ),
        (
            "pickled weights", lambda folder: [
                (folder / name).write_bytes(b"") for name in ("pytorch_model.bin", "adapter/adapter_model.bin")
            ] and None, {}, "of the merged model: adapter/adapter_model.bin, pytorch_model.bin",
        ),
        (
            "an adapter that does not fit", lambda folder: rewrite(folder / adapter, r=2, rank_pattern={"q_proj": 3}),
            {"recipe": {}}, "is not its adapter on",
        ),
    ]  # fmt: skip
    for name, change, facts, sentence in cases:
        with pytest.raises(ConflictError) as caught:
            rederive(world.changed(tmp_path / name, change, **facts), world.hub)
        assert sentence in caught.value.message, name
        assert caught.value.exit_code == 4
    wrong = world.changed(
        tmp_path / "both",
        lambda folder: rewrite(folder / adapter, revision=other),
        base={"repo": BASE, "commit": other},
    )
    assert not rederive(wrong, world.hub).equal, "both name another base: the bits tell"

    proposed = world.hub.api.upload_folder(repo_id=BASE, folder_path=world.base, create_pr=True).oid
    from_anybody = world.changed(
        tmp_path / "proposed",
        lambda folder: rewrite(folder / adapter, revision=proposed),
        base={"repo": BASE, "commit": proposed},
    )
    for derive in (rederive, prove_merge):
        with pytest.raises(ConflictError, match=f"{BASE}@{proposed[:12]} is on no branch or tag of {BASE}"):
            derive(from_anybody, world.hub)


def _beside(world: World, tmp_path: Path) -> None:
    """What is not in the weights decides what they answer; what a default is, is no difference."""

    def changed(folder: Path) -> None:
        rewrite(
            folder / "config.json", rope_theta=5.0, tie_word_embeddings=False, pad_token_id=1, torch_dtype="float32"
        )
        (folder / "tokenizer.json").write_text("{}")

    found = rederive(world.changed(tmp_path / "beside", changed), world.hub)
    assert not found.merge.differences and not found.equal
    assert found.beside == (
        "config.json: torch_dtype is not bfloat16",
        "config.json: tie_word_embeddings is not the base's",
        "config.json: rope_theta is not the base's",
        "tokenizer.json is not the base's",
    )

    def lean(folder: Path) -> None:
        path = folder / "adapter" / "adapter_config.json"
        settings = json.loads(path.read_text())
        path.write_text(json.dumps({key: settings[key] for key in settings if key not in ("use_rslora", "use_dora")}))

    said = {"base": {"dtype": "bfloat16"}, "stages": {"sft": {"lora": {**LORA, "use_rslora": False}}}}
    assert rederive(world.changed(tmp_path / "lean", lean, recipe=said), world.hub).equal


def _nothing_to_merge(world: World, tmp_path: Path) -> None:
    whole = world.changed(tmp_path / "whole", lambda folder: shutil.rmtree(folder / "adapter"))
    with pytest.raises(RefusedError, match="has no adapter/"):
        rederive(whole, world.hub)


def _gguf_too(world: World, tmp_path: Path) -> None:
    def written(folder: Path) -> None:
        (folder / "gguf").mkdir()
        for kind in ("f16", "bf16", "q8_0"):
            write_gguf(folder, folder / "gguf" / f"x-{kind}.gguf", kind, name="x")

    right = world.changed(tmp_path / "gguf", written)
    found = rederive(right, world.hub)
    assert found.equal and [item.kind for item in found.gguf] == ["bf16", "f16", "q8_0"]
    assert not any(item.differences for item in found.gguf)

    def others(folder: Path) -> None:
        """A changed bit; no GGUF at all; one by llama.cpp's quantizer; one that claims an array of 2**40 elements."""
        body = bytearray((right.folder / "gguf" / "x-q8_0.gguf").read_bytes())
        body[-40] ^= 1
        (folder / "a.gguf").write_bytes(body)
        (folder / "b.gguf").write_bytes((folder / "model.safetensors").read_bytes())
        writer = gguf.GGUFWriter(folder / "c.gguf", "llama")
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        key = struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**40)
        (folder / "d.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key)

    found = rederive(world.changed(tmp_path / "others", others), world.hub)
    assert not found.equal and not found.merge.differences and found.count == 4
    bit, garbage, other, endless = found.gguf
    (difference,) = bit.differences
    assert difference.startswith("tensor ") and difference.endswith(" differs")
    assert garbage.differences[0].startswith("b.gguf is not a sound GGUF file")
    assert other.kind == "q4_k_m" and "is missing" in other.differences[0] and not other.not_compared
    assert endless.differences[0].startswith("d.gguf is not a sound GGUF file")

    def of_no_known_type(folder: Path) -> None:
        writer = gguf.GGUFWriter(folder / "e.GGUF", "llama")
        writer.add_uint32("general.file_type", 36)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    found = rederive(world.changed(tmp_path / "type", of_no_known_type), world.hub)
    assert found.unchecked == ("e.GGUF",) and not found.count and not found.equal, "not compared is not equal"


def _the_command(world: World, hub: Running, tmp_path: Path) -> None:
    api = world.hub.api
    api.create_repo(REPO)
    api.upload_folder(repo_id=REPO, folder_path=world.folder)
    wrong = world.changed(tmp_path / "wrong", lambda folder: rewrite(folder / "adapter" / "adapter_config.json", r=4,
                                                                     alpha_pattern={"q_proj": 9}))  # fmt: skip
    api.create_branch(REPO, branch="wrong")
    api.upload_folder(repo_id=REPO, folder_path=wrong.folder, revision="wrong")

    def run(*args: str) -> Any:
        return hubkit(
            "verify", *args, "--rederive", "--hub", hub.url, home=tmp_path / "cli", HF_ENDPOINT=hub.url,
            HF_TOKEN=str(hub.token),
        )  # fmt: skip

    done = run(REPO)
    assert done.returncode == 0, done.stderr
    assert f"The weights are the adapter merged again into {BASE}@{world.commit[:12]} in bfloat16" in done.stdout
    assert "equal in every bit" in done.stdout and "merged with: hubkit 0.1.0; torch" in done.stdout
    done = run(f"{REPO}@wrong")
    assert done.returncode == 4 and "q_proj.weight " in done.stdout and "numbers differ, the first at [" in done.stdout
    assert f"Error: {REPO}@wrong is not its adapter merged into its base:" in done.stderr
    source = RepoSource(world.hub, REPO, "main")
    assert rederive(source, world.hub).equal


def _reproduce_asks(world: World, hub: Running, tmp_path: Path) -> None:
    """`hubkit reproduce` verifies first, then shows what would be downloaded and trained, and asks."""
    rows = tmp_path / "rows" / "a.jsonl"
    rows.parent.mkdir()
    rows.write_text('{"messages": []}')
    recipe = {
        "base": {"dtype": "bfloat16"},
        "data": {"d": [{"file": "a.jsonl"}]},
        "stages": {"sft": {"data": "d", "lora": LORA, "args": {"max_steps": 3, "report_to": "trackio"}}},
    }
    read = {"set": "d", "repo": "a.jsonl", "commit": digests(rows).sha256, "local": True}
    right = world.changed(tmp_path / "recipe", lambda _: None, recipe=recipe, data=[read])
    api = world.hub.api
    api.create_branch(REPO, branch="recipe")
    api.upload_folder(repo_id=REPO, folder_path=right.folder, revision="recipe")

    def run(*args: str) -> Any:
        return hubkit(
            "reproduce", f"{REPO}@recipe", *args, "--hub", hub.url, home=tmp_path / "cli", HF_ENDPOINT=hub.url,
            HF_TOKEN=str(hub.token),
        )  # fmt: skip

    done = run("--files", str(rows.parent))
    assert done.returncode == 2 and "Download and train this? Confirmation needs a terminal." in done.stderr
    assert f"base   {BASE}@{world.commit[:12]}, " in done.stderr and "data   d: a.jsonl\n" in done.stderr
    assert "train  sft: sft on d\n" in done.stderr and "max_steps: 3\n" in done.stderr
    assert not (tmp_path / "cli" / "reproduced").exists(), "nothing is written before it is agreed to"
    api.create_repo("hubkit/rows", repo_type="dataset")
    opened = [
        api.upload_file(repo_id="hubkit/rows", repo_type="dataset", path_in_repo=f"{pr}.jsonl", path_or_fileobj=b"{}",
                        create_pr=pr).oid
        for pr in (False, True)
    ]  # fmt: skip
    for commit, is_published in zip(opened, (True, False), strict=True):
        recipe["data"] = {"d": [{"repo": "hubkit/rows"}]}
        content = {
            "repo": REPO, "variant": "main", "stage": "sft", "recipe": recipe,
            "base": {"repo": BASE, "commit": world.commit}, "data": [{"set": "d", "commit": commit}],
        }  # fmt: skip
        made = recipe_of(content, None, tmp_path)
        with (
            nullcontext() if is_published else pytest.raises(ConflictError, match="on no branch or tag of hubkit/rows")
        ):
            refuse_unpublished_sources(made, world.hub)
    api.upload_file(repo_id=REPO, path_in_repo="chat_template.jinja", path_or_fileobj=b"evil", revision="recipe")
    done = run("-y")
    assert done.returncode == 4 and "differs from its manifest or signature: chat_template.jinja" in done.stderr
