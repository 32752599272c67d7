"""Promotion and rollback: one commit on top, the files copied on the server, nobody's work lost."""

import hashlib
import json
import struct
import time
import urllib.request
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from releases import REPO, Release, faults, hub_of, requests, target_of, weights, writes

from hubkit.core.errors import ConflictError, RefusedError, UsageError
from hubkit.core.files import Digests
from hubkit.core.trees import compare
from hubkit.hub.client import Hub, connect
from hubkit.publishing.copying import restore
from hubkit.publishing.revisions import plan_promotion, plan_rollback
from hubkit.server.process import Running

OTHER = "hubkit/other"


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> Release:
    """Two variants, released by hubkit."""
    release = Release.on(hub, tmp_path).train().publish()
    release.promote()
    return release


@pytest.fixture
def plain(hub: Running, tmp_path: Path) -> Hub:
    """A repo that hubkit did not make, with a branch: ``main`` has a.txt and w.safetensors, ``new`` has other files."""
    connected = connect(target_of(hub, tmp_path))
    connected.ensure_repo(OTHER, "public")
    change(connected, {"a.txt": b"one", "w.safetensors": weights(1), "folder/old.txt": b"old"})
    connected.api.create_branch(OTHER, branch="new")
    change(
        connected,
        {"a.txt": b"two", "w.safetensors": weights(2), "b.txt": b"b", "folder/old.txt": None, "folder": b"a file"},
        "new",
    )
    return connected


def change(hub: Hub, files: dict[str, bytes | None], branch: str = "main", repo: str = OTHER) -> str:
    """One commit; None removes a file."""
    gone = [CommitOperationDelete(path) for path, content in files.items() if content is None]
    added = [CommitOperationAdd(path, content) for path, content in files.items() if content is not None]
    done = hub.api.create_commit(repo, [*gone, *added], commit_message=f"change {len(files)}", revision=branch)
    return str(done.oid)


def equal(hub: Hub, one: str, other: str, repo: str = OTHER) -> bool:
    return not compare(hub.tree(repo, one), hub.tree(repo, other))


# --- promote


def test_promotion_is_one_commit_and_moves_no_large_file(hub: Running, plain: Hub) -> None:
    before = str(plain.head(OTHER, "main"))
    planned = plan_promotion(plain, OTHER, "new", "main")
    assert [(item.kind, item.path) for item in planned.plan.change.changes] == [
        ("changed", "a.txt"),
        ("added", "b.txt"),
        ("added", "folder"),
        ("removed", "folder/old.txt"),
        ("changed", "w.safetensors"),
    ]
    assert planned.plan.kept == () and plain.head(OTHER, "main") == before, "planning writes nothing"
    faults(hub)
    done = planned.apply(plain)
    assert writes(hub) == [f"POST /api/models/{OTHER}/commit/main"]
    assert not [line for line in requests(hub) if "/lfs/" in line or "w.safetensors" in line]
    assert equal(plain, "main", "new") and plain.head(OTHER, "main") == done
    history = plain.history(OTHER, "main")
    assert [history[0].id, history[1].id] == [done, before]
    assert history[0].title == f"Promote new ({str(plain.head(OTHER, 'new'))[:12]}) to main"


def test_promoting_again_does_nothing(hub: Running, plain: Hub) -> None:
    done = plan_promotion(plain, OTHER, "new", "main").apply(plain)
    faults(hub)
    again = plan_promotion(plain, OTHER, "new", "main")
    assert again.nothing_to_do and "holds the files of new" in again.nothing_to_do and done[:12] in again.nothing_to_do
    assert again.apply(plain) == done and writes(hub) == []


def test_a_branch_that_is_not_there_is_made_at_the_commit(hub: Running, plain: Hub) -> None:
    faults(hub)
    planned = plan_promotion(plain, OTHER, "new", "stable")
    assert planned.plan.head is None
    assert planned.apply(plain) == plain.head(OTHER, "new") == plain.head(OTHER, "stable")
    assert [line for line in writes(hub) if "/commit/" in line] == []


def test_files_of_other_people_stay_where_hubkit_publishes(release: Release) -> None:
    connected = hub_of(release)
    change(connected, {"THANKS.md": b"thanks", "README.md": b"---\nlicense: mit\n---\nmine"}, repo=REPO)
    planned = plan_promotion(connected, REPO, "dpo-v0", "main")
    assert planned.plan.kept == ("THANKS.md",)
    planned.apply(connected)
    tree = connected.tree(REPO, "main")
    assert "THANKS.md" in tree
    assert not compare(connected.tree(REPO, "dpo-v0"), {path: tree[path] for path in tree if path != "THANKS.md"})
    assert plan_promotion(connected, REPO, "dpo-v0", "main").nothing_to_do
    exact = plan_promotion(connected, REPO, "dpo-v0", "main", exact=True)
    assert [item.path for item in exact.plan.change.removed] == ["THANKS.md"]
    exact.apply(connected)
    assert equal(connected, "main", "dpo-v0", REPO)


def test_files_of_the_release_before_go(release: Release) -> None:
    connected = hub_of(release)
    change(connected, {"tokenizer.json": None, "model.safetensors": weights(3)}, "dpo-v0", REPO)
    planned = plan_promotion(connected, REPO, "dpo-v0", "main")
    assert [item.path for item in planned.plan.change.removed] == ["tokenizer.json"] and planned.plan.kept == ()
    planned.apply(connected)
    assert equal(connected, "main", "dpo-v0", REPO)


def test_a_file_in_the_way_of_a_folder_does_not_stay(release: Release) -> None:
    connected = hub_of(release)
    change(connected, {"extra": b"a file", "more/file.txt": b"x"}, repo=REPO)
    change(connected, {"extra/file.txt": b"in a folder", "more": b"a file"}, "dpo-v0", REPO)
    planned = plan_promotion(connected, REPO, "dpo-v0", "main")
    assert planned.plan.kept == ()
    planned.apply(connected)
    assert equal(connected, "main", "dpo-v0", REPO)


def test_what_cannot_be_promoted(plain: Hub) -> None:
    plain.api.create_tag(OTHER, tag="v1")
    with pytest.raises(UsageError, match="'v1' is a tag"):
        plan_promotion(plain, OTHER, "new", "v1")
    with pytest.raises(UsageError, match="no revision 'nowhere'"):
        plan_promotion(plain, OTHER, "nowhere", "main")
    with pytest.raises(UsageError, match="cannot be a branch"):
        plan_promotion(plain, OTHER, "new", "a b")
    assert plan_promotion(plain, OTHER, "main", "main").nothing_to_do


def test_a_pull_request_and_a_short_commit_are_revisions(plain: Hub) -> None:
    opened = plain.api.create_commit(
        OTHER, [CommitOperationAdd("c.txt", b"c")], commit_message="c", create_pr=True, revision="main"
    )
    plan_promotion(plain, OTHER, str(opened.pr_revision), "from-pr").apply(plain)
    assert "c.txt" in plain.tree(OTHER, "from-pr")
    short = str(plain.head(OTHER, "new"))[:8]
    planned = plan_promotion(plain, OTHER, short, "main")
    assert planned.title == f"Promote {plain.head(OTHER, 'new')[:12]} to main"  # type: ignore[index]


def test_a_branch_that_moved_since_it_was_planned_is_left_alone(plain: Hub) -> None:
    planned = plan_promotion(plain, OTHER, "new", "main")
    back = plan_rollback(plain, OTHER, "main")
    theirs = change(plain, {"theirs.txt": b"x"})
    for late in (planned, back):
        with pytest.raises(ConflictError, match="it was not overwritten") as told:
            late.apply(plain)
        assert told.value.exit_code == 4
    assert plain.head(OTHER, "main") == theirs
    made = plan_promotion(plain, OTHER, "new", "stable")
    plain.api.create_branch(OTHER, branch="stable", revision="main")
    with pytest.raises(ConflictError, match="'stable'"):
        made.apply(plain)


# --- roll back


def test_rollback_is_one_commit_and_keeps_the_history(hub: Running, plain: Hub) -> None:
    first = str(plain.head(OTHER, "main"))
    plan_promotion(plain, OTHER, "new", "main").apply(plain)
    bad = str(plain.head(OTHER, "main"))
    faults(hub)
    done = plan_rollback(plain, OTHER, "main").apply(plain)
    assert equal(plain, done, first) and not [
        line for line in requests(hub) if "/lfs/" in line or ".safetensors" in line
    ]
    assert [item.id for item in plain.history(OTHER, "main")][:3] == [done, bad, first]
    assert plain.history(OTHER, "main")[0].title == f"Roll back main to {first[:12]}, from {bad[:12]}"


def test_the_same_rollback_again_does_nothing(hub: Running, plain: Hub) -> None:
    """Somebody who was interrupted gives the command once more; the branch must not swing back to what was bad."""
    first = str(plain.head(OTHER, "main"))
    plan_promotion(plain, OTHER, "new", "main").apply(plain)
    done = plan_rollback(plain, OTHER, "main").apply(plain)
    faults(hub)
    for again in (plan_rollback(plain, OTHER, "main"), plan_rollback(plain, OTHER, "main", to=first)):
        assert again.nothing_to_do and again.apply(plain) == done
    assert writes(hub) == []
    assert plan_rollback(plain, OTHER, "main", steps=1).nothing_to_do is None, "said aloud, it goes on"


def test_a_title_alone_makes_no_rollback(plain: Hub) -> None:
    first = str(plain.head(OTHER, "main"))
    plain.api.create_commit(
        OTHER,
        [CommitOperationAdd("a.txt", b"three")],
        commit_message=f"Roll back main to {first[:12]}, from {first[:12]}",
    )
    planned = plan_rollback(plain, OTHER, "main")
    assert planned.nothing_to_do is None and planned.plan.source == first


def without_a_change(hub: Hub) -> str:
    """A commit on main that leaves the tree as it was, as a merge may; the client would leave it out."""
    lines = [
        {"key": "header", "value": {"summary": "nothing new"}},
        {"key": "file", "value": {"path": "a.txt", "content": (hub.read_file(OTHER, "a.txt", "main") or b"").decode()}},
    ]
    request = urllib.request.Request(
        f"{hub.endpoint}/api/models/{OTHER}/commit/main",
        "\n".join(map(json.dumps, lines)).encode(),
        {"authorization": f"Bearer {hub.target.token}", "content-type": "application/x-ndjson"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["commitOid"])


def test_steps_count_changes_of_the_files(plain: Hub) -> None:
    first = str(plain.head(OTHER, "main"))
    same = without_a_change(plain)
    second = change(plain, {"a.txt": b"two"})
    third = change(plain, {"b.txt": b"three"})
    assert without_a_change(plain) == plain.head(OTHER, "main") != third
    sources = [plan_rollback(plain, OTHER, "main", steps=steps).plan.source for steps in (1, 2)]
    assert sources == [second, same] and equal(plain, same, first)
    plan_rollback(plain, OTHER, "main", steps=2).apply(plain)
    assert equal(plain, "main", first)
    with pytest.raises(UsageError, match="has only 4 earlier states"):
        plan_rollback(plain, OTHER, "main", steps=50)


def test_only_where_the_branch_has_been(plain: Hub) -> None:
    new = str(plain.head(OTHER, "new"))
    for name in ("new", new, new[:12]):
        with pytest.raises(RefusedError, match="was never at") as told:
            plan_rollback(plain, OTHER, "main", to=name)
        assert told.value.exit_code == 3 and "--force" in str(told.value.hint)
    assert plan_rollback(plain, OTHER, "main", to="new", force=True).plan.source == new
    plain.api.create_tag(OTHER, tag="v1", revision="main")
    change(plain, {"a.txt": b"two"})
    assert plan_rollback(plain, OTHER, "main", to="v1").plan.source == plain.refs(OTHER).tags["v1"]
    with pytest.raises(UsageError, match="has no branch 'v1'"):
        plan_rollback(plain, OTHER, "v1")
    with pytest.raises(UsageError, match="no revision"):
        plan_rollback(plain, OTHER, "main", to="nowhere")


def test_a_rollback_takes_foreign_files_away_too(release: Release) -> None:
    """The tree is that of the commit gone back to, whoever put files there since; the history keeps them."""
    connected = hub_of(release)
    released = str(connected.head(REPO, "main"))
    change(connected, {"THANKS.md": b"thanks"}, repo=REPO)
    plan_rollback(connected, REPO, "main").apply(connected)
    assert equal(connected, "main", released, REPO)


# --- weights of real size


def sparse(path: Path, size: int, mark: int) -> Digests:
    """A safetensors file with one tensor of ``size`` zeros but for its first byte; its digests are computed."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + bytes([mark]))
        file.truncate(8 + len(header) + size)
    with path.open("rb") as file:
        return Digests(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest(), "")


@pytest.mark.parametrize("size", [64 * 2**20, pytest.param(2**30, marks=pytest.mark.soak)])
def test_large_weights_stay_on_the_server(hub: Running, plain: Hub, tmp_path: Path, size: int) -> None:
    for branch, mark in (("main", 1), ("new", 2)):
        path = tmp_path / f"{branch}.safetensors"
        known = sparse(path, size, mark)
        operation = CommitOperationAdd("big.safetensors", path)
        operation.upload_info.sha256 = bytes.fromhex(known.sha256)
        plain.api.create_commit(OTHER, [operation], commit_message="big", revision=branch)
    faults(hub)
    begun = time.monotonic()
    plan_promotion(plain, OTHER, "new", "main").apply(plain)
    promoted = plain.tree(OTHER, "main")["big.safetensors"]
    plan_rollback(plain, OTHER, "main").apply(plain)
    seconds = time.monotonic() - begun
    assert promoted == plain.tree(OTHER, "new")["big.safetensors"] != plain.tree(OTHER, "main")["big.safetensors"]
    seen = requests(hub)
    assert not [line for line in seen if line.startswith("PUT ") or "/lfs/" in line or "big.safetensors" in line]
    assert len([line for line in seen if "/commit/" in line]) == 2
    print(f"\n{size:,} bytes promoted and rolled back in {seconds:.2f} s by {len(seen)} requests")


def test_restore_puts_an_earlier_tree_back(plain: Hub) -> None:
    first = str(plain.head(OTHER, "main"))
    change(plain, {"a.txt": b"two", "folder/old.txt": None, "folder": b"a file"})
    head = str(plain.head(OTHER, "main"))
    with pytest.raises(ConflictError, match="moved"):
        restore(plain, OTHER, "main", first, head=first, title="Go back")
    done = restore(plain, OTHER, "main", first, head=head, title="Go back")
    assert equal(plain, done, first)
    assert restore(plain, OTHER, "main", first, head=head, title="Go back") == done
    with pytest.raises(ConflictError, match="was removed"):
        restore(plain, OTHER, "nowhere", first, head=head, title="Go back")
