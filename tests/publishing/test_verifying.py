"""`hubkit verify`: what a revision holds, against what its manifest promises; the manifest may be a stranger's."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from commands import hubkit
from releases import FILES, REPO, Release, faults, hub_of, requests, weights
from signatures import Files, content, key_pair, publish_signed

from hubkit.checks.source import FolderSource, RepoSource
from hubkit.core.errors import ConflictError, HubkitError, RefusedError, UsageError
from hubkit.publishing import signing
from hubkit.publishing.manifest import MANIFEST_PATH, SIGNATURE_PATH, Provenance, parse_manifest
from hubkit.publishing.provenance import PROVENANCE_PATH
from hubkit.publishing.verifying import MAX_MANIFEST_BYTES, verify
from hubkit.server.process import Running

SHA, GIT = "a" * 64, "b" * 40


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> Release:
    return Release.on(hub, tmp_path).train().publish()


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return key_pair(tmp_path)


def source(release: Release, revision: str = "staging/main") -> RepoSource:
    return RepoSource(hub_of(release), REPO, revision)


def put(release: Release, path: str, body: bytes, branch: str = "staging/main") -> None:
    hub_of(release).api.upload_file(path_or_fileobj=body, path_in_repo=path, repo_id=REPO, revision=branch)


def folder_of(release: Release, into: Path) -> Path:
    for path, body in content(release, "main").items():
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        (into / path).write_bytes(body)
    return into


# --- the Hub


def test_a_release_is_what_it_promises(hub: Running, release: Release) -> None:
    release.promote()
    size = sum(len(body) for path, body in content(release, "main").items() if path != MANIFEST_PATH)
    faults(hub)
    report = verify(source(release, "main"))
    assert not report.differences and not report.foreign and report.signature == "none" and not report.read
    assert (report.files, report.bytes) == (FILES - 1, size)
    assert report.made_for == {"repo": REPO, "variant": "main"} and report.commit is not None
    asked = [line for line in requests(hub) if "/resolve/" in line]
    assert [line.split("/")[-1] for line in asked] == ["manifest.json"], "nothing else is read"


def test_all_bytes(hub: Running, release: Release) -> None:
    faults(hub)
    report = verify(source(release), all_bytes=True)
    assert report.read and not report.differences
    assert len([line for line in requests(hub) if line.startswith("GET") and "/resolve/" in line]) == FILES


def test_exactly_what_differs_is_said(release: Release) -> None:
    api = hub_of(release).api
    put(release, "config.json", b"{}")
    put(release, "model.safetensors", weights(99))
    put(release, "THANKS.md", b"thanks")
    api.delete_file("tokenizer.json", REPO, revision="staging/main")
    report = verify(source(release))
    assert [(item.path, item.kind) for item in report.differences] == [
        ("config.json", "changed"),
        ("model.safetensors", "changed"),
        ("tokenizer.json", "missing"),
    ]
    assert report.differences[0].message.startswith("has 2 bytes, not ")
    assert report.differences[1].message.startswith("has the sha256 ")
    assert report.foreign == ("THANKS.md",)
    assert [item.path for item in verify(source(release), strict=True).differences if item.kind == "extra"] == [
        "THANKS.md"
    ]
    assert verify(source(release)).to_json()["sound"] is False


def test_the_revision_is_resolved_once(release: Release) -> None:
    """The branch moves while it is looked at; what was there at the start is what is judged."""
    held = source(release)
    put(release, "config.json", b"{}")
    assert not verify(held).differences and verify(source(release)).differences


def test_a_revision_without_a_manifest(release: Release) -> None:
    with pytest.raises(RefusedError, match=r"has no \.hubkit/manifest\.json") as told:
        verify(source(release, "main"))
    assert told.value.exit_code == 3
    with pytest.raises(UsageError, match="has no revision 'gone'"):
        source(release, "gone")


def test_a_signature_is_demanded(release: Release, keys: tuple[Path, Path]) -> None:
    with pytest.raises(RefusedError, match="is not signed") as told:
        verify(source(release), verifier=signing.verifier(keys[1]))
    assert told.value.exit_code == 3


def test_with_a_key_the_small_files_are_read_and_the_weights_are_not(
    hub: Running, release: Release, keys: tuple[Path, Path]
) -> None:
    publish_signed(release, keys[0], "main")
    faults(hub)
    report = verify(source(release), verifier=signing.verifier(keys[1]))
    assert report.signature == "valid" and not report.differences
    read = [line for line in requests(hub) if line.startswith("GET") and "/resolve/" in line]
    assert len(read) == FILES + 1 and not [line for line in read if "safetensors" in line]
    assert report.provenance == "valid" and verify(source(release)).provenance == "unchecked"
    assert verify(source(release)).signature == "unchecked"


def test_with_a_key_a_file_that_nobody_signed_counts(release: Release, keys: tuple[Path, Path]) -> None:
    publish_signed(release, keys[0], "main")
    put(release, "adapter_config.json", b"{}")
    check = signing.verifier(keys[1])
    (only,) = verify(source(release), verifier=check).differences
    assert (only.path, only.kind) == ("adapter_config.json", "extra")
    assert not verify(source(release), verifier=check, strict=False).differences


def test_the_wrong_key(release: Release, keys: tuple[Path, Path], tmp_path: Path) -> None:
    publish_signed(release, keys[0], "main")
    report = verify(source(release), verifier=signing.verifier(key_pair(tmp_path, "other")[1]))
    assert report.signature == report.provenance == "invalid"
    assert [(item.path, item.kind) for item in report.differences] == [
        (SIGNATURE_PATH, "signature"),
        (PROVENANCE_PATH, "signature"),
    ]


# --- folders


def test_a_folder(release: Release, tmp_path: Path) -> None:
    folder = folder_of(release, tmp_path / "download")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    report = verify(FolderSource(folder))
    assert report.read and not report.differences and not report.foreign and report.commit is None
    (folder / "model.safetensors").write_bytes(weights(99))
    (folder / "config.json").unlink()
    assert [(item.path, item.kind) for item in verify(FolderSource(folder)).differences] == [
        ("config.json", "missing"),
        ("model.safetensors", "changed"),
    ]


def test_a_cache_of_the_hubs_client_is_a_folder_of_links(release: Release, tmp_path: Path) -> None:
    connected = hub_of(release)
    folder = connected.api.snapshot_download(REPO, revision="staging/main", cache_dir=tmp_path / "cache")
    assert (Path(folder) / "config.json").is_symlink()
    assert not verify(FolderSource(Path(folder))).differences


def test_special_files(release: Release, tmp_path: Path) -> None:
    folder = folder_of(release, tmp_path / "download")
    for name in ("config.json", "tokenizer.json", "README.md"):
        (folder / name).unlink()
    os.mkfifo(folder / "config.json")
    (folder / "tokenizer.json").symlink_to("gone")
    (folder / "README.md").symlink_to("adapter")
    found = verify(FolderSource(folder)).differences
    assert [(item.path, item.message) for item in found] == [
        ("README.md", "is not a regular file"),
        ("config.json", "is not a regular file"),
        ("tokenizer.json", "is not a regular file"),
    ]
    (folder / MANIFEST_PATH).unlink()
    os.mkfifo(folder / MANIFEST_PATH)
    with pytest.raises(ConflictError, match="is not a regular file"):
        verify(FolderSource(folder))
    with pytest.raises(UsageError, match="There is no folder"):
        FolderSource(tmp_path / "gone")


def test_large_files_are_hashed_in_little_memory(tmp_path: Path) -> None:
    """64 MiB in pieces; the tree is believed to hold them only when they were read to the end."""
    import hashlib

    body = bytes(64 * 2**20)
    item = {"path": "big", "size": len(body), "sha256": hashlib.sha256(body).hexdigest(), "git": GIT}
    (tmp_path / ".hubkit").mkdir()
    (tmp_path / MANIFEST_PATH).write_text(json.dumps({"schema": 1, "files": [item]}))
    (tmp_path / "big").write_bytes(body)
    del body
    tracemalloc.start()
    assert not verify(FolderSource(tmp_path)).differences
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20
    with (tmp_path / "big").open("r+b") as file:
        file.seek(64 * 2**20 - 1)
        file.write(b"x")
    assert verify(FolderSource(tmp_path)).differences


# --- manifests of strangers


def manifest(*items: Any, **more: Any) -> bytes:
    return json.dumps({"schema": 1, "files": list(items), **more}).encode()


def item(path: Any = "a", **more: Any) -> dict[str, Any]:
    return {"path": path, "size": 1, "sha256": SHA, "git": GIT, **more}


def test_a_sound_manifest() -> None:
    said, promised = parse_manifest(manifest(item("a"), item("a/b"), item("b")))
    assert list(promised.files) == ["a", "a/b", "b"] and said["schema"] == 1


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "not the JSON"),
        (b"\xff\xfe{\0}\0", "not the JSON"),
        (b"[" * 100_000, "not the JSON"),
        (b'{"schema": 1, "files": [], "files": []}', "not the JSON"),
        (b'{"schema": ' + b"9" * 5000 + b', "files": []}', "not the JSON"),
        (b"[]", "lacks its schema"),
        (b"null", "lacks its schema"),
        (b'{"files": []}', "lacks its schema"),
        (b'{"schema": true, "files": []}', "lacks its schema"),
        (b'{"schema": 1, "files": {}}', "lacks its schema"),
        (manifest("a"), "entry 1 must have exactly the keys"),
        (manifest({"path": "a"}), "entry 1 must have exactly the keys"),
        (manifest(item(mode="x")), "entry 1 must have exactly the keys"),
        (manifest(item(1)), "entry 1 has a path that a release cannot contain"),
        (manifest(item("../a")), "entry 1 has a path that a release cannot contain: a part"),
        (manifest(item("/a")), "entry 1 has a path"),
        (manifest(item("a\nb")), "entry 1 has a path"),
        (manifest(item(MANIFEST_PATH)), "entry 1 has a path that a release cannot contain"),
        (manifest(item(SIGNATURE_PATH)), "entry 1 has a path that a release cannot contain"),
        (manifest(item("a"), item("a")), "entry 2 appears twice"),
        (manifest(item("b"), item("a")), "entry 2 appears twice or is out of order"),
        (manifest(item(size=-1)), "entry 1 has an invalid size"),
        (manifest(item(size=True)), "entry 1 has an invalid size"),
        (manifest(item(size=1.0)), "entry 1 has an invalid size"),
        (manifest(item(size=2**63)), "entry 1 has an invalid size"),
        (manifest(item(sha256=SHA[1:])), "entry 1 has no valid sha256"),
        (manifest(item(sha256=SHA.upper())), "entry 1 has no valid sha256"),
        (manifest(item(sha256=SHA + "\n")), "entry 1 has no valid sha256"),
        (manifest(item(git=None)), "entry 1 has no valid git"),
        (b'{"schema": 1, "repo": "\\ud800", "files": []}', "is not the JSON that hubkit writes"),
    ],
)
def test_a_manifest_that_nobody_should_act_upon(raw: bytes, why: str) -> None:
    with pytest.raises(ConflictError, match=why) as told:
        parse_manifest(raw)
    assert told.value.exit_code == 4 and len(told.value.message) < 300


def test_a_manifest_that_is_nested_without_end_is_none_of_ours() -> None:
    assert Provenance.parse(b"[" * 100_000) is None


def test_a_newer_manifest() -> None:
    with pytest.raises(RefusedError, match="schema 2") as told:
        parse_manifest(manifest().replace(b'"schema": 1', b'"schema": 2'))
    assert told.value.exit_code == 3 and "Update hubkit" in str(told.value)


def test_a_manifest_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    held = Files({MANIFEST_PATH: b" " * 10, "a": b"x"}, tmp_path / "x")
    pieces = 0

    def endless(path: str) -> Any:
        nonlocal pieces
        while True:
            pieces += 1
            yield bytes(2**20)

    held.blocks = endless  # type: ignore[method-assign]
    with pytest.raises(ConflictError, match="differs from what the Hub lists"):
        verify(held)
    assert pieces == MAX_MANIFEST_BYTES // 2**20 + 1
    held.held[MANIFEST_PATH] = bytes(MAX_MANIFEST_BYTES + 1)
    with pytest.raises(ConflictError, match="at most"):
        verify(held)
    assert pieces == MAX_MANIFEST_BYTES // 2**20 + 1


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    held = Files({MANIFEST_PATH: manifest(item("a", size=3)), "a": b"xyz"}, tmp_path / "x")
    plain, pieces = held.blocks, 0

    def endless(path: str) -> Any:
        nonlocal pieces
        if path == MANIFEST_PATH:
            yield from plain(path)
            return
        while True:
            pieces += 1
            yield b"xyz"

    held.blocks = endless  # type: ignore[method-assign]
    (found,) = verify(held, all_bytes=True).differences
    assert found.message == "has 6 bytes, not 3" and pieces == 2


# --- the command


def test_the_command(hub: Running, release: Release, keys: tuple[Path, Path], tmp_path: Path) -> None:
    publish_signed(release, keys[0]).promote()

    def run(*args: str) -> tuple[int, str, str]:
        done = hubkit(
            "verify", *args, "--hub", hub.url, home=tmp_path / "home", HF_ENDPOINT=hub.url, HF_TOKEN=str(hub.token)
        )
        return done.returncode, done.stdout, done.stderr

    code, out, err = run(REPO)
    assert code == 0 and err == "" and out.count("\n") == 1
    assert f" {FILES} files" in out and "signed, signature not checked" in out
    code, out, err = run(REPO, "--revision", "dpo-v0", "--key", str(keys[1]), "--bytes")
    assert code == 0 and "every byte read; signed by the key release-public.pem, provenance signed too" in out
    put(release, "config.json", b"{}", "main")
    code, out, err = run(REPO, "--key", str(keys[1]))
    assert code == 4 and "changed: config.json has 2 bytes, not" in out
    assert "Error: hubkit/my-model@main differs from its manifest or signature: 1 difference." in err
    code, out, err = run(REPO, "--json")
    said = json.loads(out)
    assert code == 4 and not said["sound"] and said["differences"][0]["path"] == "config.json"
    code, out, err = run(REPO, "-q")
    assert code == 4 and out == "" and "1 difference" in err
    folder = folder_of(release, tmp_path / "download")
    code, out, err = run(str(folder), "--key", str(keys[1]))
    assert code == 0 and "every byte read; signed by" in out


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["me/x", "--identity", "me"], "Use either --key"),
        (["me/x", "--issuer", "x"], "Use either --key"),
        (["me/x", "--key", "a", "--identity", "b", "--issuer", "c"], "Use either --key"),
        (["me/x", "--key", "gone.pem"], r"gone\.pem cannot be read: No such file"),
        (["./gone"], "There is no folder"),
    ],
)
def test_what_is_asked_wrongly(args: list[str], error: str) -> None:
    from hubkit.cli.verify import verify as command

    with pytest.raises(HubkitError, match=error):
        command.main(args, standalone_mode=False)
