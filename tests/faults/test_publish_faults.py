"""Faults while publishing, injected for real: lost answers, kills, a silent Hub, damaged bytes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from kept import kept
from releases import FILES, REPO, Release, assert_whole, faults, heads, hub_of, manifest, requests, weights

from hubkit.core.errors import ConflictError, RemoteError
from hubkit.core.trees import compare, tree_of
from hubkit.publishing.read_back import verify_bytes, verify_listing
from hubkit.server.process import Running
from hubkit.server.storage.folder import Folder


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> Release:
    return Release.on(hub, tmp_path).train()


@pytest.mark.fault("F6")
def test_an_answer_that_is_lost_is_no_failure(hub: Running, release: Release) -> None:
    lost = {"action": "drop-after", "count": 0}
    faults(hub, {"route": "POST .*/commit/", **lost}, {"route": "POST .*/branch/", **lost})
    release.publish()
    release.promote()
    assert len([line for line in requests(hub) if line.startswith("POST") and "/commit/" in line]) == 3
    assert_whole(release, "main")
    assert len(hub_of(release).history(REPO, "main")) == 2
    assert len(hub_of(release).history(REPO, "dpo-v0")) == 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.fault("F3")
def test_the_hub_stumbles_over_a_commit(hub: Running, release: Release, times: int) -> None:
    faults(hub, {"route": "POST .*/commit/", "action": "status", "status": 500, "count": times})
    release.publish("main")
    assert len(hub_of(release).history(REPO, "staging/main")) == 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.fault("F3")
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
@pytest.mark.fault("F5")
def test_a_connection_that_breaks_during_an_upload(hub: Running, release: Release, after: int) -> None:
    faults(hub, {"route": "^PUT ", "action": "drop-upload", "after": after})
    release.publish("main")
    assert not compare(tree_of(manifest(release, "main")), hub_of(release).tree(REPO, "staging/main"))


@pytest.mark.fault("F7")
def test_a_hub_that_falls_silent(hub: Running, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    release.publish()
    monkeypatch.setenv("HUBKIT_TIMEOUT", "0.3")
    faults(hub, {"route": "POST .*/commit/main", "action": "hang", "seconds": 30})
    with pytest.raises(RemoteError, match="did not answer in time"):
        release.promote()
    monkeypatch.delenv("HUBKIT_TIMEOUT")
    release.promote()
    assert_whole(release, "main")


@pytest.mark.fault("P2")
def test_the_hub_goes_away(hub: Running, release: Release) -> None:
    from hubkit.server import process

    release.publish()
    release.promote()
    process.stop(hub.data)
    with pytest.raises(RemoteError):
        release.outdated("promote")
    begun = time.monotonic()
    with pytest.raises(RemoteError, match="cannot be reached") as told:
        release.promote()
    assert told.value.exit_code == 5 and time.monotonic() - begun < 30


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
@pytest.mark.fault("F1")
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
            assert len(hub_of(release).tree(REPO, name)) in {1, FILES}, "old or new, and whole"
    faults(hub)
    assert go() == 0
    for name in ("main", "dpo-v0"):
        release.made[f"publish[{name}]"] = kept(release.run.find(f"publish[{name}]"))
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
@pytest.mark.fault("F9")
def test_a_file_that_is_damaged_in_the_store_is_found(
    hub: Running, release: Release, tmp_path: Path, damage: str
) -> None:
    release.publish("main")
    commit = release.made["publish[main]"].json("published.json")["commit"]
    wanted = manifest(release, "main")
    folder = verify_bytes(hub_of(release), REPO, commit, wanted, tmp_path / "sound")
    assert (folder / "model.safetensors").read_bytes() == weights(10)
    stored = lfs_file(hub, weights(10))
    stored.chmod(0o600)
    if damage == "gone":
        stored.unlink()
    else:
        body = weights(10)
        stored.write_bytes(body[:-1] + b"\xff" if damage == "other" else body[:-7])
    with pytest.raises(ConflictError) as told:
        verify_bytes(hub_of(release), REPO, commit, wanted, tmp_path / "damaged")
    assert "returned different bytes" in told.value.message
    assert "the Hub says that its copy of a file is damaged" in told.value.message


@pytest.mark.fault("F9")
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
        verify_listing(connected, REPO, other, manifest(release, "main"))
    # Promotion goes by the verified commit, whatever the branch says now; and leaves the other's branch alone.
    release.promote()
    assert_whole(release, "main")
    assert heads(release)["staging/main"] == other != said["commit"]


@pytest.mark.fault("F9")
def test_the_promotion_checks_every_staged_tree_first(release: Release) -> None:
    release.publish()
    path = release.made["publish[main]"].path / "bundle.json"
    said = json.loads(path.read_text())
    said["files"][0]["git"] = "0" * 40
    path.write_text(json.dumps(said))
    with pytest.raises(ConflictError, match="does not hold what was uploaded"):
        release.promote()
    assert "dpo-v0" not in heads(release), "no variant is promoted before all are verified"
