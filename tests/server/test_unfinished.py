"""Killed (`kill -9`) at each step of what touches git and the database: done or not, and never half (F14)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from real_git import pack_of, push_body, real_git
from xet_wire import named, whole, xorb

from hubkit.server.accounts.accounts import OWNER
from hubkit.server.fsck import fsck
from hubkit.server.http.bodies import COMMIT_LIMIT, SpooledBody
from hubkit.server.http.request import Request
from hubkit.server.hub import Hub
from hubkit.server.repos.lfs import LARGE_BYTES
from hubkit.server.routes import commits, discussions, refs, repos
from hubkit.server.smart.packets import read_push
from hubkit.server.smart.receiving import Receiver
from hubkit.server.xet.hashes import xorb_hash
from hubkit.server.xet.intake import Sender

Record = Callable[[str, object], None]
TOKEN = "hf_" + "a" * 34
STEPS = """
execute create_commit create_reference_direct set_target rename replace unlink remove mkdir link
init_repository create_blob delete
"""
OBJECT = b"w" * 5000


def request_of(hub: Hub, body: Any = None, *, query: bytes = b"", **params: str) -> Request:
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"127.0.0.1")]}
    params = {"kind": "models", "ns": "me", "name": "model", "rev": "main", **params}
    scope |= {"query_string": query, "path_params": params}
    request = Request(scope, hub=hub, actor=hub.accounts.identify(TOKEN))
    request.json_body = body
    return request


def commit(hub: Hub, *, query: bytes = b"", rev: str = "main", path: str = "x/y") -> None:
    request, body = request_of(hub, query=query, rev=rev), hub.folder.spool / "body"
    lines = [{"key": "header", "value": {"summary": "new"}}, {"key": "file", "value": {"path": path, "content": "z"}}]
    body.write_text("\n".join(json.dumps(line) for line in lines))
    request.spooled = SpooledBody(body, body.stat().st_size, "")
    commits.commit(request)
    body.unlink()


def store_object(hub: Hub) -> None:
    repo = hub.store.find("model", "me/model")
    assert repo is not None
    (hub.folder.spool / "w").write_bytes(OBJECT)
    hub.lfs.keep(hub.folder.spool / "w", repo.uid, hashlib.sha256(OBJECT).hexdigest(), len(OBJECT))


def store_by_xet(hub: Hub) -> None:
    repo, chunks = hub.store.find("model", "me/model"), [OBJECT, b"end"]
    assert repo is not None
    sender, spool = Sender("0" * 32, repo.uid, lambda uid: True), hub.folder.spool
    (spool / "xorb").write_bytes(xorb(chunks))
    hub.xet.pending.keep(sender.token, spool / "xorb", xorb_hash(named(chunks)))
    (spool / "shard").write_bytes(whole(chunks))
    hub.xet.intake.register(spool / "shard", sender)
    (spool / "shard").unlink()


def push(hub: Hub) -> None:
    """A push that moves a branch and a pull request, creates one branch and deletes another."""
    repo, actor = hub.store.find("model", "me/model"), hub.accounts.identify(TOKEN)
    assert repo is not None and actor is not None
    main, pull = (hub.store.git(repo).value(ref) for ref in ("refs/heads/main", "refs/pr/1"))
    ids = (hub.folder.root / "commits").read_text().split()
    commands = [(main, ids[0], "refs/heads/main"), (None, ids[0], "refs/heads/topic/new"), (pull, ids[1], "refs/pr/1")]
    pack = (hub.folder.root / "pack").read_bytes()
    body = io.BytesIO(push_body(*commands, (main, None, "refs/heads/topic"), pack=pack))
    asked = read_push(body)
    with tempfile.TemporaryFile() as file:
        file.write(pack)
        file.seek(0)
        outcome = Receiver(hub, repo, actor, LARGE_BYTES, COMMIT_LIMIT).receive(asked, file)
    assert len(outcome.moved) == 4, outcome


PULL = {"title": "t", "description": "d", "pullRequest": True}
ACTS: dict[str, Callable[[Hub], Any]] = {
    "open": lambda hub: discussions.create(request_of(hub, PULL)),
    "open by a commit": lambda hub: commit(hub, query=b"create_pr=1"),
    "commit to a pull request": lambda hub: commit(hub, rev="refs/pr/1", path="more"),
    "merge": lambda hub: discussions.merge(request_of(hub, {}, num="1")),
    "close": lambda hub: discussions.status(request_of(hub, {"status": "closed", "comment": "c"}, num="1")),
    "comment": lambda hub: discussions.comment(request_of(hub, {"comment": "c"}, num="1")),
    "rename": lambda hub: discussions.title(request_of(hub, {"title": "other"}, num="1")),
    "create": lambda hub: repos.create(request_of(hub, {"name": "two", "organization": "me"})),
    "duplicate": lambda hub: repos.duplicate(request_of(hub, {"repository": "me/three"})),
    "move": lambda hub: repos.move(request_of(hub, {"fromRepo": "me/model", "toRepo": "other/name"})),
    "delete": lambda hub: repos.delete(request_of(hub, {"name": "model", "organization": "me"})),
    "large file": store_object,
    "large file by Xet": store_by_xet,
}
if shutil.which("git"):
    ACTS["push"] = lambda hub: push(hub)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a Hub with one repo, one pull request with a commit, and one large file."""
    folder = tmp_path_factory.mktemp("unfinished") / "hub"
    hub = Hub(folder)
    hub.accounts.add_token(OWNER, label="test", value=TOKEN)
    repos.create(request_of(hub, {"name": "model", "organization": "me"}))
    commit(hub, query=b"create_pr=1", path="first")
    refs.create_branch(request_of(hub, branch="topic"))
    repo = hub.store.find("model", "me/model")
    assert repo is not None
    bare = hub.store.path(repo)
    hub.close()
    if shutil.which("git"):
        make_pack(bare, folder)
    return folder


def make_pack(bare: Path, folder: Path) -> None:
    """A commit above ``main`` and one above the pull request, and a pack of both."""
    work = folder.parent / "work"
    git = real_git(folder.parent / "home")
    git("clone", "-q", str(bare), str(work), at=folder.parent)
    git("fetch", "-q", "origin", "refs/pr/1", at=work)
    ids = []
    for start in ("origin/main", "FETCH_HEAD"):
        git("checkout", "-q", start, at=work)
        (work / "pushed").write_text(start)
        git("add", "-A", at=work)
        git("commit", "-qm", "pushed", at=work)
        ids.append(git("rev-parse", "HEAD", at=work).stdout.strip())
    (folder / "commits").write_text("\n".join(ids))
    (folder / "pack").write_bytes(pack_of(folder.parent / "home", work, *ids, "^origin/main", "^FETCH_HEAD"))


def started(folder: Path) -> Hub:
    """A Hub that has done what a server does at its start."""
    hub = Hub(folder)
    hub.folder.sweep(hub.store.uids())
    hub.lfs.sweep()
    hub.xet.sweep()
    hub.pushes.repair()
    hub.pulls.repair()
    return hub


def state(hub: Hub) -> dict[str, Any]:
    """All that there is, without what differs each time: ids of commits, times."""
    seen: dict[str, Any] = {}
    for repo in hub.store.all("model"):
        git = hub.store.git(repo)
        heads = dict(git.refs())
        refs = {ref: [entry.path for entry in git.walk(head) or ()] for ref, head in heads.items()}
        pulls = []
        for row in hub.discussions.listed(repo):
            events = [(event["type"], sorted(event["data"])) for event in hub.discussions.events(repo, row["num"])]
            merged = row["merged"] and row["merged"] == heads[row["base"]]
            pulls.append((row["num"], row["title"], row["status"], merged, events))
        assert {f"refs/pr/{pull[0]}" for pull in pulls} == {ref for ref in refs if ref.startswith("refs/pr/")}
        seen[repo.id] = (refs, pulls, [item["oid"] for item in hub.lfs.listed(repo.uid)])
    assert hub.database.rows("SELECT * FROM unfinished") == hub.database.rows("SELECT * FROM pushes") == []
    assert {path.name for path in hub.folder.git.iterdir()} == {f"{uid}.git" for uid in hub.store.uids()}
    assert not list(hub.folder.spool.iterdir())
    objects = {path.name for path in hub.folder.lfs.glob("*/*/*")}
    assert objects == {oid for _, _, oids in seen.values() for oid in oids}
    return seen


def killed_at(folder: Path, act: Callable[[Hub], Any], step: int) -> bool:
    """Do ``act`` in a child that is killed before its ``step``-th step; False when it had fewer."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    code = 1
    try:
        hub, count = Hub(folder), 0
        names = set(STEPS.split())

        def watch(frame: FrameType, event: str, what: Any) -> None:
            nonlocal count
            if event == "c_call" and getattr(what, "__name__", "") in names:
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(watch)
        act(hub)
        sys.setprofile(None)
        code = 0
    finally:
        os._exit(code)


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.fault("F14")
def test_killed_at_each_step(folder: Path, tmp_path: Path, name: str, every: int, record_property: Record) -> None:
    """`make test` kills at every other step, `make soak` at each."""

    def copy(into: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / into))

    hub = started(copy("old"))
    old = state(hub)
    hub.close()
    hub = Hub(copy("new"))
    ACTS[name](hub)
    hub.close()
    hub = started(tmp_path / "new")
    new = state(hub)
    hub.close()
    assert old != new
    seen: list[bool] = []
    for step in range(1, 300, every):
        place = copy(str(step))
        killed = killed_at(place, ACTS[name], step)
        hub = started(place)
        after = state(hub)
        hub.close()
        assert after in (old, new), (step, after)
        assert fsck(place) == []
        shutil.rmtree(place)
        seen.append(after == new)
        if not killed:
            break
    assert not seen[0] and seen[-1] and seen == sorted(seen), "not done, and from one step on done"
    record_property("figure", f"killed at {len(seen) - 1} steps of: {name}")


@pytest.mark.fault("F14")
def test_a_pull_request_that_an_earlier_version_left_without_a_ref_is_closed(folder: Path, tmp_path: Path) -> None:
    hub = Hub(Path(shutil.copytree(folder, tmp_path / "hub")))
    repo = hub.store.find("model", "me/model")
    assert repo is not None
    hub.discussions.insert(repo, 2, "lost", "", "me", base="refs/heads/main")
    hub.close()
    hub = started(tmp_path / "hub")
    row, kept = hub.discussions.row(repo, 2), hub.discussions.row(repo, 1)
    assert row is not None and row["status"] == "closed" and kept is not None and kept["status"] == "open"
    assert hub.discussions.events(repo, 2)[-1]["data"] == {"status": "closed"}
    hub.close()


def test_the_note_of_a_push_that_failed_moves_nothing_later(folder: Path, tmp_path: Path) -> None:
    """Its refs went back, but on a full disk the note stayed; then one of the refs moved to the same commit."""
    hub = Hub(Path(shutil.copytree(folder, tmp_path / "hub")))
    repo = hub.store.find("model", "me/model")
    assert repo is not None
    before = dict(hub.store.git(repo).refs())
    main, pull = before["refs/heads/main"], before["refs/pr/1"]
    made = {"ref": "refs/heads/topic", "old": None, "new": main}
    for left in ({"old": main, "new": "1" * 40}, {"old": "2" * 40, "new": pull}):
        note = {"moves": [made, {"ref": "refs/heads/main", **left}], "told": [], "author": "me"}
        hub.database.run("INSERT INTO pushes VALUES (NULL, ?, ?)", repo.uid, json.dumps(note))
    hub.close()
    hub = started(tmp_path / "hub")
    assert dict(hub.store.git(repo).refs()) == before
    assert hub.database.rows("SELECT * FROM pushes") == []
    if "push" in ACTS:
        hub.database.run("INSERT INTO pushes VALUES (NULL, ?, ?)", repo.uid, "{}")
        ACTS["push"](hub)
        assert hub.database.rows("SELECT * FROM pushes") == []
    hub.close()
