"""A manifest that the version before published is still understood: listed, verified, promoted over, rolled back.

``tests/data/published-0.1.0`` holds what `hubkit release tiny` of 0.1.0, before the rooms were moved, wrote to the Hub
(``manifest.json``) and kept in its run (``bundle.json``, ``published.json``).
"""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import hubkit_json
from huggingface_hub import CommitOperationAdd
from releases import REPO, Release, card, hub_of, weights

from hubkit.checks.source import FolderSource, RepoSource
from hubkit.core.files import Digests, Manifest, digests
from hubkit.core.trees import compare, tree_of
from hubkit.publishing.manifest import CARDS, MANIFEST_PATH, OUR_OWN, Provenance, parse_manifest
from hubkit.publishing.ownership import decide
from hubkit.publishing.revisions import history, list_revisions, plan_promotion, plan_rollback
from hubkit.publishing.verifying import verify
from hubkit.server.process import Running
from hubkit_stages import publish

SAMPLE = Path(__file__).parents[1] / "data" / "published-0.1.0"
RAW = (SAMPLE / "manifest.json").read_bytes()


def content_of(path: str) -> bytes:
    """Something small in place of a file of that release; its cards are as that version generated them."""
    path = CARDS.get(path.removeprefix(".hubkit/cards/"), path)
    if path.endswith(".safetensors"):
        return weights(len(path))
    if path.endswith("README.md"):
        return card(path).encode()
    if path == ".gitattributes":
        return b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.png filter=lfs diff=lfs merge=lfs -text\n"
    return b"{}" if path.endswith(".json") else path.encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The release of that version with small files: its manifest, with their digests in place of its own."""
    place, known = tmp_path / "published", dict[str, Digests]()
    said: dict[str, Any] = json.loads(RAW)
    for item in said["files"]:
        local = place / item["path"]
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(content_of(item["path"]))
        known[item["path"]] = digests(local)
    said |= Manifest(known).to_json()
    (place / MANIFEST_PATH).write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n")
    return place


@pytest.fixture
def published(hub: Running, tmp_path: Path, folder: Path) -> Release:
    """A new release, not yet promoted, to a repo whose main branch holds the one of the version before."""
    release = Release.on(hub, tmp_path / "now").train(2)
    connected = hub_of(release)
    connected.ensure_repo(REPO, "public")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    connected.api.create_commit(REPO, operations, commit_message="Release main (staged as 418b057fdbe3)")
    return release


def test_the_manifest_is_read_by_both_readers() -> None:
    said, manifest = parse_manifest(RAW)
    provenance = Provenance.parse(RAW)
    assert provenance is not None and provenance.paths == manifest.files.keys() | OUR_OWN
    assert provenance.promised == tree_of(manifest) and len(manifest.files) == 16
    facts = dict(provenance.facts())
    assert facts["variant"] == said["variant"] == "main" and facts["stop_rates"]["merged"] == 1.0
    assert facts["base"]["repo"] == "hubkit/tiny-hermes" and facts["schema"] == 1


def test_the_bundle_of_its_run_is_read_and_agrees(tmp_path: Path) -> None:
    kept = Manifest.from_json(json.loads((SAMPLE / "bundle.json").read_text()))
    published = json.loads((SAMPLE / "published.json").read_text())
    assert kept.digest == published["tree"] and len(kept.files) == published["files"]
    assert kept.size == published["bytes"]
    _, manifest = parse_manifest(RAW)
    assert kept.files == {**manifest.files, MANIFEST_PATH: digests(SAMPLE / "manifest.json")}


def test_it_is_verified_in_a_folder_and_on_the_hub(published: Release, folder: Path) -> None:
    for source in (FolderSource(folder), RepoSource(hub_of(published), REPO, "main")):
        report = verify(source, all_bytes=True)
        assert not report.differences and not report.foreign and report.files == 16
        assert report.made_for == {"repo": "hubkit/tiny-hermes-dpo", "variant": "main"}
    (folder / "config.json").write_text('{"changed": true}')
    assert [item.path for item in verify(FolderSource(folder)).differences] == ["config.json"]


def test_revisions_lists_what_it_says(published: Release) -> None:
    connected = hub_of(published)
    (main,) = list_revisions(connected, REPO)
    assert (main.kind, main.variant, main.base) == (
        "variant",
        "main",
        "hubkit/tiny-hermes@bf6a419f4bf53b68967ac391c9c325d297a313c2",
    )
    assert main.stop_rates == {"adapter": 1.0, "four-bit": 1.0, "merged": 1.0} and main.average == 0.9817073170731707
    newest = history(connected, REPO, "main")[0]
    assert newest.kind == "release" and newest.source == "418b057fdbe3" and newest.stop_rates == main.stop_rates


def test_the_command_verifies_it(published: Release, hub: Running, tmp_path: Path) -> None:
    report = hubkit_json("verify", REPO, home=tmp_path / "home", HF_ENDPOINT=hub.url, HF_TOKEN=hub.token)
    assert report["sound"] and report["files"] == 16


def test_its_files_are_ours_and_a_new_release_takes_their_place(published: Release) -> None:
    connected = hub_of(published)
    connected.api.upload_file(path_or_fileobj=b"thanks", path_in_repo="THANKS.md", repo_id=REPO)
    before = connected.tree(REPO, "main")
    assert [item.message for item in publish.check(published.context("publish[main]"))] == [
        f"The branch 'main' of {REPO}: 1 file not published by hubkit is kept: THANKS.md."
    ]
    published.publish()
    moved = published.promote()["main"]
    tree = connected.tree(REPO, "main")
    assert moved["foreign"] == ["THANKS.md"] and moved["replaced"] == [] and "THANKS.md" in tree
    assert moved["removed"] == sorted(before.keys() - tree.keys()) and "assets/header.png" in moved["removed"]
    assert not verify(RepoSource(connected, REPO, "main")).differences


def test_it_is_promoted_from_and_rolled_back_to(published: Release) -> None:
    connected = hub_of(published)
    before = connected.tree(REPO, "main")
    published.publish()
    published.promote()
    back = plan_rollback(connected, REPO, "main")
    back.apply(connected)
    assert not compare(connected.tree(REPO, "main"), before)
    planned = plan_promotion(connected, REPO, "main", "dpo-v0")
    assert planned.plan.kept == () and planned.plan.replaced == ()
    planned.apply(connected)
    assert not compare(connected.tree(REPO, "dpo-v0"), before)


def test_ownership_reads_its_list() -> None:
    _, manifest = parse_manifest(RAW)
    provenance = Provenance.parse(RAW)
    assert provenance is not None
    tree = tree_of(manifest)
    wanted = {path: entry for path, entry in tree.items() if not path.startswith("assets/")}
    decision = decide(tree, wanted, provenance.paths)
    assert decision.removed == ("assets/benchmarks.png", "assets/header.png", "assets/training.png")
    assert not decision.kept and not decision.replaced
