"""`hubkit verify --rederive` of a place that has GGUF files alone: written again from the weights that it names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import architectures
import pytest
from gguf_releases import NAME, GgufRelease
from huggingface_hub import CommitOperationAdd
from lies import command
from releases import REPO, hub_of

from hubkit.checks.source import FolderSource, RepoSource
from hubkit.core.errors import ConflictError, RefusedError
from hubkit.core.files import Manifest
from hubkit.hub.client import Hub
from hubkit.models.gguf.write import file_name, write_gguf
from hubkit.publishing.manifest import MANIFEST_PATH
from hubkit.publishing.rederiving.any_release import rederive_any
from hubkit.publishing.rederiving.gguf_place import GgufRederived, rederive_gguf
from hubkit.publishing.verifying import verify
from hubkit.server.process import Running


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> GgufRelease:
    """A release whose main has a real model, and whose GGUF files were written from it."""
    model = architectures.make("smollm", tmp_path / "model", dtype="bfloat16")
    made = GgufRelease.on(hub, tmp_path / "run").train()
    files: dict[str, bytes | str | dict[str, Any]] = {
        f"model/{path.name}": path.read_bytes() for path in sorted(model.iterdir()) if path.is_file()
    }
    made.make("merge[main]", {**files, "merge.json": {"dtype": "bfloat16"}})
    written = {}
    for kind in ("f16", "q8_0"):
        path = tmp_path / "gguf" / file_name(NAME, kind)
        write_gguf(made.made["merge[main]"].path / "model", path, kind, name=NAME)
        written[kind] = path.read_bytes()
    made.write_gguf_files("main", written, 1)
    made.publish().promote()
    return made


def folder_of(hub: Hub, folder: Path) -> Path:
    """The GGUF place, downloaded to ``folder``, without what the client keeps there."""
    hub.api.snapshot_download(REPO, revision="gguf", local_dir=folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return folder


def changed(folder: Path, to: Path, change: Callable[[Path, dict[str, Any]], object]) -> FolderSource:
    """A copy of the place in which something is changed, whose manifest lists the files as they are then."""
    copy = shutil.copytree(folder, to)
    manifest = copy / MANIFEST_PATH
    content = json.loads(manifest.read_text())
    change(copy, content)
    manifest.unlink()
    manifest.write_text(json.dumps({**content, **Manifest.of(copy).to_json()}))
    source = FolderSource(copy)
    assert not verify(source).differences, "the manifest agrees: only writing again can tell"
    return source


def test_what_is_right_and_what_is_refused(
    release: GgufRelease, hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One release for all cases: it takes seconds to make."""
    connected = hub_of(release)
    found = rederive_any(RepoSource(connected, REPO, "gguf"), connected)
    assert isinstance(found, GgufRederived) and found.equal and found.repo == REPO
    assert found.commit == connected.head(REPO, "main") and [item.kind for item in found.gguf] == ["f16", "q8_0"]
    assert not any(item.not_compared for item in found.gguf) and not any(item.differs for item in found.versions)
    for name, value in {"HF_ENDPOINT": hub.url, "HF_TOKEN": str(hub.token), "HUBKIT_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    _the_command(hub)
    folder = folder_of(connected, tmp_path / "place")
    _one_bit(connected, folder, tmp_path)
    _other_weights(connected, folder, tmp_path)
    _after_main_moved(release, connected, folder, tmp_path)


def _the_command(hub: Running) -> None:
    done = command("verify", f"{REPO}@gguf", "--rederive", "--hub", hub.url)
    assert done.code == 0, done.words
    words = " ".join(done.words.split())
    assert f"{NAME}-Q8_0.gguf is the weights of {REPO}@" in words
    assert "written again as Q8_0: every byte equal" in words and "written with: hubkit" in words


def _one_bit(connected: Hub, folder: Path, tmp_path: Path) -> None:
    name = file_name(NAME, "q8_0")

    def flip(copy: Path, content: dict[str, Any]) -> None:
        body = bytearray((copy / name).read_bytes())
        body[-40] ^= 1
        (copy / name).write_bytes(body)

    found = rederive_gguf(changed(folder, tmp_path / "bit", flip), connected)
    assert not found.equal and found.count == 1 and found.claim.startswith(f"written from the weights of {REPO}@")
    (difference,) = next(item.differences for item in found.gguf if item.path == name)
    assert difference.startswith("tensor ") and difference.endswith(" differs")


def _other_weights(connected: Hub, folder: Path, tmp_path: Path) -> None:
    """What the manifest says of the weights may be anything."""

    def named(**weights: Any) -> Callable[[Path, dict[str, Any]], object]:
        return lambda copy, content: content["gguf"]["weights"].update(weights)

    right = json.loads((folder / MANIFEST_PATH).read_text())["gguf"]["weights"]["files"]
    no_commit = "No commit of the branch 'main'"
    cases: dict[str, tuple[Callable[[Path, dict[str, Any]], object], type[Exception], str]] = {
        "digest": (named(files={**right, "model.safetensors": "0" * 64}), ConflictError, no_commit),
        "settings": (named(files={**right, "config.json": "0" * 64}), ConflictError, no_commit),
        "branch": (named(branch="dpo-v0"), ConflictError, "No commit of the branch 'dpo-v0'"),
        "repo": (named(repo="hubkit/none"), ConflictError, f"{no_commit} of hubkit/none"),
        "name": (named(repo="../x"), RefusedError, "does not say from which weights"),
        "pattern": (named(files={"*": "0" * 64}), RefusedError, "does not say from which weights"),
        "path": (named(files={"../x": "0" * 64}), RefusedError, "does not say from which weights"),
        "none": (named(files={}), RefusedError, "does not say from which weights"),
        "no settings": (named(files={"a": "0" * 64}), RefusedError, "does not say from which weights"),
        "a part": (
            named(files={name: right[name] for name in ("config.json", "model.safetensors")}), RefusedError,
            "could be written again",
        ),
    }  # fmt: skip
    for name, (change, kind, words) in cases.items():
        with pytest.raises(kind, match=words):
            rederive_gguf(changed(folder, tmp_path / name, change), connected)


def _after_main_moved(release: GgufRelease, connected: Hub, folder: Path, tmp_path: Path) -> None:
    """The weights are found in the history of their branch."""
    before = connected.head(REPO, "main")
    connected.api.create_commit(
        REPO, [CommitOperationAdd("config.json", b'{"model_type": "llama"}')], commit_message="other settings"
    )
    found = rederive_gguf(RepoSource(connected, REPO, "gguf"), connected)
    assert found.equal and found.commit == before != connected.head(REPO, "main")
