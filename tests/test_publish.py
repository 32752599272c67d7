"""Publishing against the embedded Hub: a branch holds the old release or the new one, whole, whatever happens."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from releases import REPO, Release, admin, faults, requests, weights, writes

from hubkit import publishing
from hubkit.diff import compare, tree_of
from hubkit.errors import ConflictError, RefusedError, RemoteError
from hubkit.files import Manifest
from hubkit.hub import Hub, connect
from hubkit.server.folder import Folder
from hubkit.server.process import Running
from hubkit_stages import promote, publish


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> Release:
    return Release.on(hub, tmp_path).train()


def hub_of(release: Release) -> Hub:
    return connect(release.target)


def manifest(release: Release, name: str) -> Manifest:
    return Manifest.from_json(release.made[f"publish[{name}]"].json("bundle.json"))


def heads(release: Release) -> dict[str, str]:
    return hub_of(release).refs(REPO).branches


def assert_whole(release: Release, branch: str) -> None:
    """The branch holds exactly the release's bundle."""
    found = compare(tree_of(manifest(release, branch)), hub_of(release).tree(REPO, branch))
    assert not found, [change.sentence for change in found.changes]


# --- the straight way


def test_publish_stages_and_verifies(hub: Running, release: Release) -> None:
    release.publish("main")
    said = release.made["publish[main]"].json("published.json")
    assert said["repo"] == REPO and said["branch"] == "staging/main" and said["files"] == 10
    assert heads(release)["staging/main"] == said["commit"]
    assert not compare(tree_of(manifest(release, "main")), hub_of(release).tree(REPO, said["commit"]))
    assert "model.safetensors" not in hub_of(release).tree(REPO, "main"), "main is not touched before promotion"
    assert len(hub_of(release).history(REPO, "staging/main")) == 2, "the repo's first commit and one more"


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


def test_promoting_again_does_nothing(hub: Running, release: Release) -> None:
    release.publish()
    first = release.promote()
    ctx = release.context("again")
    faults(hub)
    assert promote.holds(ctx, release.made["promote"]) is None
    assert [publish.holds(ctx, release.made[f"publish[{name}]"]) for name in ("main", "dpo-v0")] == [None, None]
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


# --- who may


@pytest.mark.parametrize("kind", ["none", "read", "wrong"])
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
    settings = {"repo": REPO, "visibility": "private"}
    for name in ("main", "dpo-v0"):
        release.made[f"publish[{name}]"] = publish.run(release.context(f"publish[{name}]", settings))
    release.made["promote"] = promote.run(release.context("promote", settings))
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


def test_a_secret_stops_before_any_byte(hub: Running, release: Release) -> None:
    release.make("card[main]", {"README.md": "hf_" + "Ab3" * 12, "adapter-README.md": "x"})
    faults(hub)
    with pytest.raises(RefusedError, match="must not be published"):
        release.publish("main")
    assert writes(hub) == []


def test_a_card_that_the_hub_refuses(release: Release) -> None:
    release.make("card[main]", {"README.md": "---\nlicense: [not, closed\n---\n", "adapter-README.md": "x"})
    with pytest.raises(RefusedError) as told:
        release.publish("main")
    assert told.value.exit_code == 3


# --- conflicts


def test_a_branch_that_somebody_moved_is_not_written_over(release: Release) -> None:
    release.publish()
    released = release.promote()
    connected = hub_of(release)
    connected.api.upload_file(path_or_fileobj=b"# theirs", path_in_repo="README.md", repo_id=REPO)
    now = str(connected.head(REPO, "main"))
    said = promote.holds(release.context("again"), release.made["promote"])
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
    hub_of(release).api.upload_file(path_or_fileobj=b"# theirs", path_in_repo="README.md", repo_id=REPO)
    again = Release.on(hub, release.folder, fresh=True).train(2)
    again.publish()
    again.promote()
    assert_whole(again, "main")


def test_a_branch_or_repo_that_is_gone_is_published_again(release: Release) -> None:
    release.publish()
    release.promote()
    connected = hub_of(release)
    connected.delete_branch(REPO, "dpo-v0")
    assert "dpo-v0" in str(promote.holds(release.context("again"), release.made["promote"]))
    release.publish()
    release.promote()
    assert_whole(release, "dpo-v0")
    connected.api.delete_repo(REPO)
    assert "not there any more" in str(promote.holds(release.context("again"), release.made["promote"]))
    assert "not there any more" in str(publish.holds(release.context("again"), release.made["publish[main]"]))
    release.publish()
    release.promote()
    assert_whole(release, "main")


def test_somebody_is_faster(hub: Running, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading main's head and the commit, somebody else commits: theirs stays, nothing is mixed."""
    release.publish()
    connected = hub_of(release)
    real = publishing.commit

    def late(hub: Hub, repo: str, branch: str, head: str, *rest: Any) -> str:
        connected.api.upload_file(path_or_fileobj=b"theirs", path_in_repo="THEIRS.md", repo_id=REPO, revision=branch)
        return real(hub, repo, branch, head, *rest)

    monkeypatch.setattr(publishing, "commit", late)
    with pytest.raises(ConflictError, match=r"moved from \w{12} to \w{12} meanwhile") as told:
        release.promote()
    assert told.value.exit_code == 4
    assert sorted(connected.tree(REPO, "main")) == [".gitattributes", "THEIRS.md"]


def test_somebody_makes_the_branch_first(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    release.publish()
    connected = hub_of(release)
    first = publishing.initial_commit(connected, REPO)
    real = Hub.create_branch

    def late(hub: Hub, repo: str, branch: str, commit: str, *rest: Any) -> str:
        real(connected, repo, branch, first)
        return real(hub, repo, branch, commit, *rest)

    monkeypatch.setattr(Hub, "create_branch", late)
    with pytest.raises(ConflictError, match=f"'dpo-v0' of {REPO} moved to {first[:12]}"):
        release.promote()
    assert heads(release)["dpo-v0"] == first


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


# --- faults


def test_an_answer_that_is_lost_is_no_failure(hub: Running, release: Release) -> None:
    lost = {"action": "drop-after", "count": 0}
    faults(hub, {"route": "POST .*/commit/", **lost}, {"route": "POST .*/branch/", **lost})
    release.publish()
    release.promote()
    assert len([line for line in requests(hub) if line.startswith("POST") and "/commit/" in line]) == 3
    assert_whole(release, "main")
    assert len(hub_of(release).history(REPO, "main")) == 2
    assert len(hub_of(release).history(REPO, "dpo-v0")) == 2


@pytest.mark.parametrize("times", [1, 2, 3])
def test_the_hub_stumbles_over_a_commit(hub: Running, release: Release, times: int) -> None:
    faults(hub, {"route": "POST .*/commit/", "action": "status", "status": 500, "count": times})
    release.publish("main")
    assert len(hub_of(release).history(REPO, "staging/main")) == 2


def test_the_hub_never_takes_the_commit(hub: Running, release: Release) -> None:
    release.publish()
    before = heads(release)
    faults(hub, {"route": "POST .*/commit/main", "action": "status", "status": 500, "count": 0})
    with pytest.raises(RemoteError) as told:
        release.promote()
    assert told.value.exit_code == 5 and heads(release)["main"] == before["main"]
    assert len([line for line in requests(hub) if line == f"POST /api/models/{REPO}/commit/main"]) == 4
    faults(hub)
    release.promote()
    assert_whole(release, "main")
    assert len(hub_of(release).history(REPO, "main")) == 2


@pytest.mark.parametrize("after", [0, 2000, 4000])
def test_a_connection_that_breaks_during_an_upload(hub: Running, release: Release, after: int) -> None:
    faults(hub, {"route": "^PUT ", "action": "drop-upload", "after": after})
    release.publish("main")
    assert not compare(tree_of(manifest(release, "main")), hub_of(release).tree(REPO, "staging/main"))


def test_a_hub_that_falls_silent(hub: Running, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    release.publish()
    monkeypatch.setenv("HUBKIT_TIMEOUT", "0.3")
    faults(hub, {"route": "POST .*/commit/main", "action": "hang", "seconds": 30})
    with pytest.raises(RemoteError, match="did not answer in time"):
        release.promote()
    monkeypatch.delenv("HUBKIT_TIMEOUT")
    release.promote()
    assert_whole(release, "main")


def test_the_hub_goes_away(hub: Running, release: Release) -> None:
    from hubkit.server import process

    release.publish()
    release.promote()
    process.stop(hub.data)
    with pytest.raises(RemoteError):
        promote.holds(release.context("again"), release.made["promote"])
    begun = time.monotonic()
    with pytest.raises(RemoteError, match="cannot be reached") as told:
        release.promote()
    assert told.value.exit_code == 5 and time.monotonic() - begun < 5


KILLED = textwrap.dedent("""
    import json, sys
    from pathlib import Path
    from releases import Release
    from hubkit.server.process import Running
    hub = Running(sys.argv[1], 0, Path(sys.argv[2]), sys.argv[3])
    release = Release.on(hub, Path(sys.argv[4])).train()
    release.publish()
    release.promote()
""")
POINTS = (
    "staging-begun:publish[main]",
    "staging-uploaded:publish[main]",
    "staging-committed:publish[dpo-v0]",
    "staging-verified:publish[main]",
    "branch-moved[dpo-v0]",
    "branch-begun[main]",
    "branch-moved[main]",
    "all-promoted",
)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point(hub: Running, tmp_path: Path, point: str) -> None:
    """After the kill every branch is old or new and whole; the same again ends with exactly one new commit."""

    def go(**environment: str) -> int:
        command = [sys.executable, "-c", KILLED, hub.url, str(hub.data), hub.token, str(tmp_path)]
        search = os.pathsep.join(sys.path)
        return subprocess.run(
            command, env={**os.environ, "PYTHONPATH": search, **environment}, timeout=120, check=False
        ).returncode

    assert go(HUBKIT_TEST_KILL_AT=point) == -signal.SIGKILL
    release = Release.on(hub, tmp_path)
    branches = heads(release)
    for name in ("main", "dpo-v0"):
        if name in branches:
            assert len(hub_of(release).tree(REPO, name)) in {1, 10}, "old or new, and whole"
    faults(hub)
    assert go() == 0
    for name in ("main", "dpo-v0"):
        release.made[f"publish[{name}]"] = release.run.find(f"publish[{name}]")  # type: ignore[assignment]
        assert_whole(release, name)
        assert len(hub_of(release).history(REPO, name)) == 2
    assert sorted(heads(release)) == ["dpo-v0", "main"]
    if point not in POINTS[:1]:
        sent = [line for line in requests(hub) if line.startswith("PUT ")]
        assert len(sent) <= 2, "no stored byte is sent again: only the other variant's two files may follow"


# --- what the Hub holds


def lfs_file(hub: Running, content: bytes) -> Path:
    digest = hashlib.sha256(content).hexdigest()
    (found,) = [path for path in Folder(hub.data).lfs.rglob("*") if path.name == digest]
    return found


@pytest.mark.parametrize("damage", ["other", "short", "gone"])
def test_a_file_that_is_damaged_in_the_store_is_found(
    hub: Running, release: Release, tmp_path: Path, damage: str
) -> None:
    release.publish("main")
    commit = release.made["publish[main]"].json("published.json")["commit"]
    wanted = manifest(release, "main")
    folder = publishing.verify_bytes(hub_of(release), REPO, commit, wanted, tmp_path / "sound")
    assert (folder / "model.safetensors").read_bytes() == weights(10)
    stored = lfs_file(hub, weights(10))
    stored.chmod(0o600)
    if damage == "gone":
        stored.unlink()
    else:
        body = weights(10)
        stored.write_bytes(body[:-1] + b"\xff" if damage == "other" else body[:-7])
    with pytest.raises(ConflictError) as told:
        publishing.verify_bytes(hub_of(release), REPO, commit, wanted, tmp_path / "damaged")
    assert "gives back other bytes" in told.value.message
    if damage == "other":
        assert "model.safetensors has other content" in told.value.message


def test_a_staging_branch_that_was_changed_after_the_upload_is_not_promoted(release: Release) -> None:
    release.publish()
    staged = release.made["publish[main]"]
    said = staged.json("published.json")
    connected = hub_of(release)
    connected.api.upload_file(
        path_or_fileobj=b"changed", path_in_repo="config.json", repo_id=REPO, revision="staging/main"
    )
    other = str(connected.head(REPO, "staging/main"))
    with pytest.raises(ConflictError, match=r"config\.json has other content"):
        publishing.verify(connected, REPO, other, manifest(release, "main"))
    # Promotion goes by the verified commit, whatever the branch says now; and leaves the other's branch alone.
    release.promote()
    assert_whole(release, "main")
    assert heads(release)["staging/main"] == other != said["commit"]


def test_the_promotion_checks_every_staged_tree_first(release: Release) -> None:
    release.publish()
    path = release.made["publish[main]"].path / "bundle.json"
    said = json.loads(path.read_text())
    said["files"][0]["git"] = "0" * 40
    path.write_text(json.dumps(said))
    with pytest.raises(ConflictError, match="does not hold what was sent"):
        release.promote()
    assert "dpo-v0" not in heads(release), "no variant is promoted before all are verified"
