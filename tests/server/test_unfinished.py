"""Killed (`kill -9`) at each step of what touches git and the database: done or not, and never half (F14)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from hubkit.server.accounts.accounts import OWNER
from hubkit.server.fsck import fsck
from hubkit.server.http.bodies import SpooledBody
from hubkit.server.http.request import Request
from hubkit.server.hub import Hub
from hubkit.server.routes import commits, discussions, repos

Record = Callable[[str, object], None]
TOKEN = "hf_" + "a" * 34
STEPS = """
execute create_commit create_reference_direct set_target rename replace unlink remove mkdir link
init_repository create_blob
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
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a Hub with one repo, one pull request with a commit, and one large file."""
    folder = tmp_path_factory.mktemp("unfinished") / "hub"
    hub = Hub(folder)
    hub.accounts.add_token(OWNER, label="test", value=TOKEN)
    repos.create(request_of(hub, {"name": "model", "organization": "me"}))
    commit(hub, query=b"create_pr=1", path="first")
    hub.close()
    return folder


def started(folder: Path) -> Hub:
    """A Hub that has done what a server does at its start."""
    hub = Hub(folder)
    hub.folder.sweep(hub.store.uids())
    hub.lfs.sweep()
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
    assert hub.database.rows("SELECT * FROM unfinished") == []
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
@pytest.mark.fault("F14")
def test_killed_at_each_step(folder: Path, tmp_path: Path, name: str, record_property: Record) -> None:
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
    for step in range(1, 300):
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
    record_property("figure", f"killed at each of {len(seen) - 1} steps of: {name}")


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
