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
    _a_part_of_the_weights(release, connected, folder, tmp_path)
    _not_compared(hub, connected, folder, tmp_path)
    _weights_beside(connected, folder, tmp_path)
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
        "repo": (named(repo="hubkit/none"), RefusedError, "hubkit/none, which .* is not on .* or you cannot see it"),
        "any file": (named(files={**right, "README.md": "0" * 64}), RefusedError, "does not say from which weights"),
        "name": (named(repo="../x"), RefusedError, "does not say from which weights"),
        "pattern": (named(files={"*": "0" * 64}), RefusedError, "does not say from which weights"),
        "path": (named(files={"../x": "0" * 64}), RefusedError, "does not say from which weights"),
        "none": (named(files={}), RefusedError, "does not say from which weights"),
        "no settings": (named(files={"a": "0" * 64}), RefusedError, "does not say from which weights"),
        "a part": (
            named(files={name: right[name] for name in ("config.json", "model.safetensors")}), ConflictError,
            r"from a part of the weights: .* has .*tokenizer\.json",
        ),
    }  # fmt: skip
    for name, (change, kind, words) in cases.items():
        with pytest.raises(kind, match=words):
            rederive_gguf(changed(folder, tmp_path / name, change), connected)


def _a_part_of_the_weights(release: GgufRelease, connected: Hub, folder: Path, tmp_path: Path) -> None:
    """Without the template the file stops nowhere, and is what the named files write."""
    part, left_out = tmp_path / "part", "chat_template.jinja"
    shutil.copytree(release.made["merge[main]"].path / "model", part)
    (part / left_out).unlink()

    def written_from_it(copy: Path, content: dict[str, Any]) -> None:
        for kind in ("f16", "q8_0"):
            (copy / file_name(NAME, kind)).unlink()
            write_gguf(part, copy / file_name(NAME, kind), kind, name=NAME)
        del content["gguf"]["weights"]["files"][left_out]

    with pytest.raises(ConflictError, match=rf"from a part of the weights: .* has {left_out}, too"):
        rederive_gguf(changed(folder, tmp_path / "left out", written_from_it), connected)


def _not_compared(hub: Running, connected: Hub, folder: Path, tmp_path: Path) -> None:
    """A file of a type that hubkit does not know, one with another case of its suffix, one that is not listed."""
    q8 = file_name(NAME, "q8_0")

    def other_type(copy: Path, content: dict[str, Any]) -> None:
        body = bytearray((copy / q8).read_bytes())
        key = b"general.file_type"
        body[body.index(key) + len(key) + 4] = 36
        body[-4000:] = bytes(4000)
        (copy / q8).write_bytes(body)

    source = changed(folder, tmp_path / "type", other_type)
    found = rederive_gguf(source, connected)
    assert found.unchecked == (q8,) and not found.count and not found.equal and not found.to_json()["equal"]
    done = command("verify", str(source.folder), "--rederive", "--hub", hub.url)
    assert done.code == 3 and f"1 GGUF file of {source.folder}" in " ".join(done.words.split()), done.words

    def upper_case(copy: Path, content: dict[str, Any]) -> None:
        (copy / "other.GGUF").write_bytes(b"GGUF" + bytes(40))

    source = changed(folder, tmp_path / "case", upper_case)
    (source.folder / "unlisted.gguf").write_bytes(b"GGUF")
    found = rederive_gguf(FolderSource(source.folder), connected)
    different = {item.path: item.differences for item in found.gguf if item.differences}
    assert different.keys() == {"other.GGUF", "unlisted.gguf"} and not found.unchecked
    assert different["unlisted.gguf"] == ("it is not in the manifest",)


def _weights_beside(connected: Hub, folder: Path, tmp_path: Path) -> None:
    """Nobody would merge them: a release of weights must not call itself a place of GGUF files."""
    for name in ("model.safetensors", "adapter/adapter_config.json", "old/pytorch_model.BIN"):

        def with_it(copy: Path, content: dict[str, Any], name: str = name) -> None:
            (copy / name).parent.mkdir(exist_ok=True)
            (copy / name).write_bytes(b"{}")

        with pytest.raises(ConflictError, match=f"GGUF files alone, and it has weights: {name}"):
            rederive_any(changed(folder, tmp_path / f"with {Path(name).name}", with_it), connected)


def _after_main_moved(release: GgufRelease, connected: Hub, folder: Path, tmp_path: Path) -> None:
    """The weights are found in the history of their branch."""
    before = connected.head(REPO, "main")
    connected.api.create_commit(
        REPO, [CommitOperationAdd("config.json", b'{"model_type": "llama"}')], commit_message="other settings"
    )
    found = rederive_gguf(RepoSource(connected, REPO, "gguf"), connected)
    assert found.equal and found.commit == before != connected.head(REPO, "main")
