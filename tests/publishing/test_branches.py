"""Publishing against the embedded Hub: a branch holds the old release or the new one, whole, whatever happens."""

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
from releases import (
    FILES,
    REPO,
    Release,
    admin,
    assert_whole,
    faults,
    heads,
    hub_of,
    manifest,
    requests,
    weights,
    writes,
)

from hubkit.core.errors import ConflictError, RefusedError
from hubkit.core.trees import compare, tree_of
from hubkit.hub.client import Hub, connect
from hubkit.publishing import copying, staging
from hubkit.server.process import Running
from hubkit_stages import publish


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> Release:
    return Release.on(hub, tmp_path).train()


def test_publish_stages_and_verifies(hub: Running, release: Release) -> None:
    release.publish("main")
    said = release.made["publish[main]"].json("published.json")
    assert said["repo"] == REPO and said["branch"] == "staging/main" and said["files"] == FILES
    assert heads(release)["staging/main"] == said["commit"]
    assert not compare(tree_of(manifest(release, "main")), hub_of(release).tree(REPO, said["commit"]))
    assert "model.safetensors" not in hub_of(release).tree(REPO, "main"), "main is not touched before promotion"
    assert len(hub_of(release).history(REPO, "staging/main")) == 2, "the repo's first commit and one more"


@pytest.mark.fault("P3")
def test_publishing_again_does_nothing(hub: Running, release: Release) -> None:
    release.publish()
    before = heads(release)
    faults(hub)
    release.publish()
    assert writes(hub) == [] and heads(release) == before


def test_a_new_card_sends_no_weights(hub: Running, release: Release) -> None:
    release.publish("main")
    old = heads(release)["staging/main"]
    release.make("card[main]", {"README.md": "---\nlicense: mit\n---\nnew", "adapter-README.md": "same"})
    faults(hub)
    release.publish("main")
    assert not [line for line in writes(hub) if line.startswith("PUT")]
    assert [commit.id for commit in hub_of(release).history(REPO, "staging/main")][1] == old


def test_the_weights_are_read_once(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import lfs

    def never(*_: object) -> None:
        raise AssertionError("the client hashes a file whose digest is known")

    monkeypatch.setattr(lfs, "sha_fileobj", never)
    release.publish("main")


def test_a_staging_branch_is_made_equal_whatever_it_held(release: Release) -> None:
    release.publish("main")
    hub_of(release).api.upload_file(
        path_or_fileobj=b"stray", path_in_repo="adapter/stray.txt", repo_id=REPO, revision="staging/main"
    )
    release.publish("main")
    assert "adapter/stray.txt" not in hub_of(release).tree(REPO, "staging/main")


def test_main_does_not_leak_into_a_variant(release: Release) -> None:
    connected = hub_of(release)
    connected.ensure_repo(REPO, "public")
    connected.api.upload_file(path_or_fileobj=weights(99), path_in_repo="old.safetensors", repo_id=REPO)
    release.publish().promote()
    assert "old.safetensors" in connected.tree(REPO, "main")
    assert "old.safetensors" not in connected.tree(REPO, "dpo-v0")


def test_promotion(hub: Running, release: Release) -> None:
    release.publish()
    staged = heads(release)
    faults(hub)
    moved = release.promote()
    assert_whole(release, "main")
    assert_whole(release, "dpo-v0")
    assert moved["dpo-v0"] == {
        "commit": staged["staging/dpo-v0"],
        "previous": None,
        "staging_commit": staged["staging/dpo-v0"],
        "tree": manifest(release, "dpo-v0").digest,
        "written": True,
        "removed": [],
        "foreign": [],
        "replaced": [],
        "pull_request": None,
        "status": None,
        "repo": REPO,
        "branch": "dpo-v0",
    }, "a branch that was not there is made at the verified commit"
    assert moved["main"]["previous"] == staged["main"] and moved["main"]["commit"] == heads(release)["main"]
    assert sorted(heads(release)) == ["dpo-v0", "main"], "the staging branches are gone"
    order = [line for line in writes(hub) if not line.startswith("DELETE")]
    assert [line.split("/")[-2:] for line in order] == [["branch", "dpo-v0"], ["commit", "main"]], "main last"
    assert not [line for line in requests(hub) if line.startswith("PUT") or "/lfs/objects/batch" in line]


def test_the_next_release_of_the_same_repo(hub: Running, release: Release) -> None:
    release.publish()
    release.promote()
    before = heads(release)
    connected = hub_of(release)
    connected.api.upload_file(path_or_fileobj=b"thanks", path_in_repo="THANKS.md", repo_id=REPO)
    release.train(2)
    files = {
        name: (release.made["merge[main]"].path / name).read_bytes()
        for name in release.made["merge[main]"].manifest.files
    }
    files["model/generation_config.json"] = b"{}"
    del files["model/tokenizer.json"]
    release.make("merge[main]", files)  # type: ignore[arg-type]
    release.publish()
    moved = release.promote()
    tree = connected.tree(REPO, "main")
    assert moved["main"]["removed"] == ["tokenizer.json"] and "tokenizer.json" not in tree
    assert moved["main"]["foreign"] == ["THANKS.md"] and "THANKS.md" in tree
    assert "generation_config.json" in tree
    history = [commit.id for commit in connected.history(REPO, "dpo-v0")]
    assert history[0] == moved["dpo-v0"]["commit"] and history[1] == before["dpo-v0"], "one commit on the old head"
    assert tree["model.safetensors"].sha256 == hashlib.sha256(weights(20)).hexdigest()


@pytest.mark.fault("P3")
def test_promoting_again_does_nothing(hub: Running, release: Release) -> None:
    release.publish()
    first = release.promote()
    faults(hub)
    assert release.outdated("promote") is None
    assert [release.outdated(f"publish[{name}]") for name in ("main", "dpo-v0")] == [None, None]
    second = release.promote()
    assert writes(hub) == []
    assert {name: said["commit"] for name, said in second.items()} == {
        name: said["commit"] for name, said in first.items()
    }
    assert not second["main"]["written"]


def test_git_lfs_would_find_every_pointer(release: Release) -> None:
    """Each large file on the branch is matched by the .gitattributes of that branch."""
    release.publish().promote()
    connected = hub_of(release)
    text = (connected.read_file(REPO, ".gitattributes", "main") or b"").decode()
    large = [path for path, entry in connected.tree(REPO, "main").items() if entry.sha256]
    assert sorted(large) == ["adapter/adapter_model.safetensors", "model.safetensors"]
    assert "*.safetensors filter=lfs" in text


@pytest.mark.parametrize("kind", ["none", "read", "wrong"])
@pytest.mark.fault("S11")
def test_tokens_without_rights(hub: Running, release: Release, tmp_path: Path, kind: str) -> None:
    owner = hub_of(release).whoami()
    assert owner is not None
    token = {
        "none": lambda: None,
        "wrong": lambda: "hf_" + "Zz9" * 12,
        "read": lambda: admin(hub, "POST", "tokens", {"user": owner.name, "role": "read"})["token"],
    }[kind]()
    other = Release.on(hub, tmp_path / "other", token).train()
    ctx = other.context("publish[main]")
    if kind == "wrong":
        with pytest.raises(RefusedError, match="does not accept this token"):
            list(publish.check(ctx))
    else:
        (finding,) = publish.check(ctx)
        assert finding.level == "error" and finding.exit_code == 3 and "token" in finding.message
    with pytest.raises(RefusedError) as told:
        publish.run(ctx)
    assert told.value.exit_code == 3 and str(token) not in str(told.value)
    assert not hub_of(release).repo_exists(REPO)


def test_a_private_release(hub: Running, release: Release, tmp_path: Path) -> None:
    settings = {"visibility": "private"}
    for name in ("main", "dpo-v0"):
        release.perform(f"publish[{name}]", settings)
    release.perform("promote", settings)
    assert hub_of(release).visibility(REPO) == "private"
    assert_whole(release, "main")
    assert not connect(Release.on(hub, tmp_path / "other", None).target).repo_exists(REPO)


def test_the_wrong_visibility_stops_before_any_byte(hub: Running, release: Release) -> None:
    hub_of(release).ensure_repo(REPO, "private")
    (finding,) = publish.check(release.context("publish[main]"))
    assert finding.level == "error" and "is private" in finding.message
    faults(hub)
    with pytest.raises(RefusedError, match="is private"):
        release.publish("main")
    assert writes(hub) == []


def test_the_check_names_files_of_other_people(release: Release) -> None:
    assert list(publish.check(release.context("publish[main]"))) == []
    hub_of(release).ensure_repo(REPO, "public")
    assert list(publish.check(release.context("publish[main]"))) == []
    hub_of(release).api.upload_file(path_or_fileobj=b"x", path_in_repo="THEIRS.md", repo_id=REPO)
    (finding,) = publish.check(release.context("publish[main]"))
    assert finding.level == "warning" and "THEIRS.md" in finding.message
    release.publish().promote()
    (finding,) = publish.check(release.context("publish[main]"))
    assert "THEIRS.md" in finding.message and "model.safetensors" not in finding.message


@pytest.mark.fault("S4")
def test_a_secret_stops_before_any_byte(hub: Running, release: Release) -> None:
    release.make("card[main]", {"README.md": "hf_" + "Ab3" * 12, "adapter-README.md": "x"})
    faults(hub)
    with pytest.raises(RefusedError, match="must not be published"):
        release.publish("main")
    assert writes(hub) == []


@pytest.mark.fault("S8")
def test_a_card_that_the_hub_refuses(release: Release) -> None:
    release.make("card[main]", {"README.md": "---\nlicense: [not, closed\n---\n", "adapter-README.md": "x"})
    with pytest.raises(RefusedError) as told:
        release.publish("main")
    assert told.value.exit_code == 3


@pytest.mark.fault("F10")
def test_a_branch_that_somebody_moved_is_not_written_over(release: Release) -> None:
    release.publish()
    released = release.promote()
    connected = hub_of(release)
    connected.api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=REPO)
    now = str(connected.head(REPO, "main"))
    said = release.outdated("promote")
    assert said is not None and released["main"]["commit"][:12] in said and now[:12] in said
    release.publish()
    with pytest.raises(ConflictError) as told:
        release.promote()
    assert told.value.exit_code == 4
    assert f"moved from {released['main']['commit'][:12]} to {now[:12]}" in told.value.message
    assert heads(release)["main"] == now and heads(release)["dpo-v0"] == released["dpo-v0"]["commit"]


def test_a_fresh_run_publishes_over_it(hub: Running, release: Release) -> None:
    release.publish()
    release.promote()
    hub_of(release).api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=REPO)
    again = Release.on(hub, release.folder, fresh=True).train(2)
    again.publish()
    again.promote()
    assert_whole(again, "main")


def test_a_branch_or_repo_that_is_gone_is_published_again(release: Release) -> None:
    release.publish()
    release.promote()
    connected = hub_of(release)
    connected.delete_branch(REPO, "dpo-v0")
    assert "dpo-v0" in str(release.outdated("promote"))
    release.publish()
    release.promote()
    assert_whole(release, "dpo-v0")
    connected.api.delete_repo(REPO)
    assert "no longer exists" in str(release.outdated("promote"))
    assert "no longer exists" in str(release.outdated("publish[main]"))
    release.publish()
    release.promote()
    assert_whole(release, "main")


@pytest.mark.fault("F10")
def test_somebody_is_faster(hub: Running, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading main's head and the commit, somebody else commits: theirs stays, nothing is mixed."""
    release.publish()
    connected = hub_of(release)
    real = copying.commit

    def late(hub: Hub, repo: str, branch: str, head: str, *rest: Any) -> str:
        connected.api.upload_file(path_or_fileobj=b"theirs", path_in_repo="THEIRS.md", repo_id=REPO, revision=branch)
        return real(hub, repo, branch, head, *rest)

    monkeypatch.setattr(copying, "commit", late)
    with pytest.raises(ConflictError, match=r"moved from \w{12} to \w{12} meanwhile") as told:
        release.promote()
    assert told.value.exit_code == 4
    assert sorted(connected.tree(REPO, "main")) == [".gitattributes", "THEIRS.md"]


@pytest.mark.fault("F10")
def test_somebody_makes_the_branch_first(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    release.publish()
    connected = hub_of(release)
    first = staging.initial_commit(connected, REPO)
    real = Hub.create_branch

    def late(hub: Hub, repo: str, branch: str, commit: str, *rest: Any) -> str:
        real(connected, repo, branch, first)
        return real(hub, repo, branch, commit, *rest)

    monkeypatch.setattr(Hub, "create_branch", late)
    with pytest.raises(ConflictError, match=f"'dpo-v0' of {REPO} moved to {first[:12]}"):
        release.promote()
    assert heads(release)["dpo-v0"] == first


@pytest.mark.fault("F10")
def test_several_releases_at_once(hub: Running, tmp_path: Path) -> None:
    """Each branch ends as one of them, whole; whoever lost says so with exit code 4."""
    rivals = [Release.on(hub, tmp_path / str(number)).train(number + 1) for number in range(4)]
    outcomes: dict[int, str] = {}

    def go(number: int) -> None:
        try:
            rivals[number].publish()
            rivals[number].promote()
            outcomes[number] = "won"
        except ConflictError as error:
            outcomes[number] = error.message

    threads = [threading.Thread(target=go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4, "nobody failed otherwise"
    tree = hub_of(rivals[0]).tree(REPO, "main")
    made = {hashlib.sha256(weights(10 * (number + 1))).hexdigest(): number for number in range(4)}
    winner = tree["model.safetensors"].sha256 if "model.safetensors" in tree else None
    if winner is not None:
        assert_whole(rivals[made[winner]], "main")
    else:
        assert "won" not in outcomes.values()
