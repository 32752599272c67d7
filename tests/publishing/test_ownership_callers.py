"""The decision whose files on a branch are, through each of the five that act on it, on a real Hub.

The same situation each time: a person's file stands where the release has a folder (it must go, and is reported), and
another person's file is in nobody's way (it stays, and is reported).
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from commands import hubkit
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from releases import REPO, Proposing, Release, admin, hub_of, manifest

from hubkit.core.trees import compare, tree_of
from hubkit.hub.client import Hub, RepoType
from hubkit.publishing.ownership import holds_release
from hubkit.publishing.revisions import plan_promotion, plan_rollback
from hubkit.publishing.spaces import building, deployment
from hubkit.server.process import Running
from hubkit_stages import publish

SPACE = "hubkit/app"
CARD = "---\ntitle: App\nsdk: static\n---\n"


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> Release:
    return Release.on(hub, tmp_path).train()


MINE = {"adapter": "a file", "thanks.txt": "thanks"}


def commit_as_a_person(hub: Hub, files: Mapping[str, str], repo: str = REPO, kind: RepoType = "model") -> None:
    """Commit ``files`` to main without hubkit, in place of whatever lies where they come to lie."""
    tree = hub.tree(repo, "main", kind)
    in_the_way = [path for path in tree if any(path.startswith(f"{name}/") for name in files)]
    operations = [
        *map(CommitOperationDelete, in_the_way),
        *(CommitOperationAdd(path, text.encode()) for path, text in files.items()),
    ]
    hub.api.create_commit(repo, operations, commit_message="mine", repo_type=kind)


def assert_released(release: Release) -> None:
    tree = hub_of(release).tree(REPO, "main")
    assert holds_release(tree, tree_of(manifest(release, "main")), {"adapter", "config.json/notes.txt"})
    assert tree.keys() - tree_of(manifest(release, "main")).keys() == {"thanks.txt"}
    assert hub_of(release).read_file(REPO, "thanks.txt", "main") == b"thanks"


def test_publish_foresees_it_and_promote_carries_it_out(release: Release) -> None:
    connected = hub_of(release)
    connected.ensure_repo(REPO, "public")
    commit_as_a_person(connected, {**MINE, "config.json/notes.txt": "in a folder"})
    words = [finding.message for finding in publish.check(release.context("publish[main]"))]
    assert any("are overwritten: adapter, config.json/notes.txt." in message for message in words), words
    assert any("is kept: thanks.txt." in message for message in words), words
    release.publish()
    moved = release.promote()["main"]
    assert moved["foreign"] == ["thanks.txt"] and moved["replaced"] == ["adapter", "config.json/notes.txt"]
    assert any("overwritten: adapter" in item for item in release.made["promote"].summary["warnings"])
    assert_released(release)
    release.promote()
    assert release.made["promote"].summary.get("warnings", []) == [], "the second time nothing is replaced"


def test_a_branch_promoted_by_hand(release: Release) -> None:
    release.publish()
    release.promote()
    connected = hub_of(release)
    commit_as_a_person(connected, MINE)
    planned = plan_promotion(connected, REPO, "dpo-v0", "main")
    assert planned.plan.replaced == ("adapter",) and planned.plan.kept == ("thanks.txt",)
    assert planned.to_json()["replaced"] == ["adapter"] and planned.to_json()["foreign"] == ["thanks.txt"]
    planned.apply(connected)
    tree, source = connected.tree(REPO, "main"), connected.tree(REPO, "dpo-v0")
    assert holds_release(tree, source, {"adapter"}) and tree.keys() - source.keys() == {"thanks.txt"}
    assert plan_promotion(connected, REPO, "dpo-v0", "main").nothing_to_do


def test_a_branch_promoted_by_the_command(release: Release, hub: Running, tmp_path: Path) -> None:
    release.publish()
    release.promote()
    commit_as_a_person(hub_of(release), MINE)
    result = hubkit(
        *("revisions", "promote", REPO, "dpo-v0", "main", "--dry-run"),
        home=tmp_path / "home",
        HF_ENDPOINT=hub.url,
        HF_TOKEN=hub.token,
    )
    assert result.returncode == 0, result.stderr
    shown = " ".join((result.stdout + result.stderr).split())
    assert "replaced" in shown and "adapter" in shown and "kept" in shown and "thanks.txt" in shown


def test_a_rollback_leaves_exactly_what_was_there(release: Release) -> None:
    release.publish()
    release.promote()
    connected = hub_of(release)
    before = connected.tree(REPO, "main")
    commit_as_a_person(connected, MINE)
    back = plan_rollback(connected, REPO, "main")
    assert [item.path for item in back.plan.change.removed] == ["adapter", "thanks.txt"], "the plan names all that goes"
    back.apply(connected)
    assert not compare(connected.tree(REPO, "main"), before)


def test_a_proposal(hub: Running, tmp_path: Path) -> None:
    owner = hub_of(Release.on(hub, tmp_path / "owner"))
    owner.ensure_repo(REPO, "public")
    commit_as_a_person(owner, MINE)
    admin(hub, "POST", "users", {"name": "guest"})
    token = admin(hub, "POST", "tokens", {"user": "guest", "role": "write"})["token"]
    guest = Proposing.on(hub, tmp_path, token)
    guest.train()
    guest.publish()
    published = guest.made["publish[main]"]
    warnings = published.summary["warnings"]
    assert any("is overwritten: adapter." in item for item in warnings), warnings
    assert any("is kept: thanks.txt." in item for item in warnings), warnings
    number = published.json("published.json")["pull_request"]
    tree, wanted = owner.tree(REPO, f"refs/pr/{number}"), tree_of(manifest(guest, "main"))
    assert holds_release(tree, wanted, {"adapter"}) and tree.keys() - wanted.keys() == {"thanks.txt"}
    owner.api.merge_pull_request(REPO, number)
    assert holds_release(owner.tree(REPO, "main"), wanted, {"adapter"})
    other = guest.made["publish[dpo-v0]"]
    assert not other.summary["warnings"], "a branch of its own holds nobody's files"


def test_a_deployed_space(release: Release, tmp_path: Path) -> None:
    connected = hub_of(release)
    folder = tmp_path / "app"
    for path, text in {"README.md": CARD, "index.html": "<p>hello", "assets/style.css": "p {}"}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    connected.ensure_repo(SPACE, "public", "space")
    commit_as_a_person(connected, {"assets": "a file", "thanks.txt": "thanks"}, SPACE, "space")
    bundle = building.bundle_of(folder, tmp_path / "manifest.json")
    done = deployment.deploy(connected, SPACE, bundle, "public", timeout=60)
    assert done.ownership.replaced == ("assets",) and done.ownership.kept == ("thanks.txt",)
    words = done.warnings(SPACE)
    assert any("is overwritten: assets." in item for item in words) and any("thanks.txt" in item for item in words)
    tree = connected.tree(SPACE, "main", "space")
    assert holds_release(tree, tree_of(bundle.manifest), {"assets"}) and "thanks.txt" in tree
    assert json.loads(connected.read_file(SPACE, ".hubkit/manifest.json", "main", "space") or b"")["files"]
