"""The Hub's own disk and database give out (F13); refs that git cannot hold beside each other (S10)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pygit2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import httpx
from real_git import pack_of, push_body, real_git
from xet_wire import Wire, named, whole, xorb

from hubkit.core.errors import HubkitError
from hubkit.server import app, process
from hubkit.server.backup import backup
from hubkit.server.fsck import fsck
from hubkit.server.garbage import collect
from hubkit.server.process import Running
from hubkit.server.xet.hashes import xorb_hash

Record = Callable[[str, object], None]
BLOCK = 4096
REPO = "/api/models/me/model"


def ndjson(*operations: dict[str, Any]) -> bytes:
    return b"\n".join(json.dumps(line).encode() for line in ({"key": "header", "value": {"summary": "s"}}, *operations))


def file(path: str, content: str = "x") -> dict[str, Any]:
    return {"key": "file", "value": {"path": path, "content": content}}


def client_of(hub: Running) -> httpx.Client:
    return httpx.Client(base_url=hub.url, headers={"Authorization": f"Bearer {hub.token}"}, timeout=30)


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("S10")
def test_no_branch_and_no_tag_beside_what_is_below_its_name(raw: httpx.Client) -> None:
    raw.post("/api/repos/create", json={"name": "model", "organization": "me"}).raise_for_status()

    def create(kind: str, name: str, **more: str) -> httpx.Response:
        name = name.replace("/", "%2F")
        if kind == "branch":
            return raw.post(f"{REPO}/branch/{name}", json=more)
        return raw.post(f"{REPO}/tag/main", json={"tag": name.replace("%2F", "/"), **more})

    for kind, family in (("branch", "refs/heads"), ("tag", "refs/tags")):
        for more in ({}, {"message": "m"}) if kind == "tag" else ({},):
            assert create(kind, "a/b", **more).status_code == 200
            assert create(kind, "a/b", **more).status_code == 409
            for name in ("a", "a/b/c", "a/b/c/d"):
                answer = create(kind, name, **more)
                assert answer.status_code == 409, (kind, name)
                assert f"{family}/{name} " in answer.json()["error"] and answer.json()["error"].endswith("a/b.")
            assert create(kind, "A", **more).status_code == 200, "another letter is another name"
            for gone in ("a%2Fb", "A"):
                assert raw.delete(f"{REPO}/{kind}/{gone}").status_code == 200
            assert create(kind, "a", **more).status_code == 200, "what is gone is in nobody's way"
            assert raw.delete(f"{REPO}/{kind}/a").status_code == 200


# The database --------------------------------------------------------------------------------------------------------

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


@pytest.mark.fault("F13")
def test_a_database_that_another_process_holds_is_said_and_readers_go_on(
    api: HfApi, hub: Running, raw: httpx.Client, record_property: Record
) -> None:
    api.create_repo("me/model")
    command = [sys.executable, "-c", HOLD, str(hub.data / "hub.sqlite")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        for method, path, body in (
            ("POST", "/api/repos/create", {"name": "other", "organization": "me"}),
            ("POST", f"{REPO}/discussions", {"title": "t", "pullRequest": True}),
            ("PUT", f"{REPO}/settings", {"private": True}),
        ):
            begun = time.monotonic()
            answer = raw.request(method, path, json=body)
            assert answer.status_code == 503 and answer.headers["Retry-After"] == "1", answer.text
            assert "Another process" in answer.json()["error"]
            record_property("figure", f"a locked database is said after: {time.monotonic() - begun:.1f} s")
            assert raw.get(f"{REPO}").status_code == 200, "reading needs no lock"
        holder.stdin.write("\n")
        holder.stdin.flush()
        holder.wait(20)
    assert raw.post(f"{REPO}/discussions", json={"title": "t", "pullRequest": True}).json()["num"] == 1
    assert {path.suffix for path in (hub.data / "git").iterdir()} == {".git"} and fsck(hub.data) == []


# The disk ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Running]:
    """A Hub whose data folder is on a disk of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    hub = process.start(place / "hub", port=0)
    yield hub
    process.stop(hub.data)
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, free: int) -> Path:
    """Take all the room but ``free`` bytes."""
    stat, path = os.statvfs(disk), disk / "filler"
    path.write_bytes(bytes(stat.f_bavail * stat.f_frsize - free))
    return path


def log_of(hub: Running) -> str:
    return (hub.data / "log" / "hub.log").read_text()[-1500:]


def state(client: httpx.Client, hub: Running) -> dict[str, Any]:
    """All that a client can see, and the objects of all repos."""
    asked = (
        "/api/models",
        "/api/settings/webhooks",
        f"{REPO}/refs?include_prs=1",
        f"{REPO}/discussions",
        f"{REPO}/lfs-files",
    )
    seen: dict[str, Any] = {path: client.get(path).json() for path in asked}
    for item in seen[f"{REPO}/discussions"]["discussions"]:
        seen[str(item["num"])] = client.get(f"{REPO}/discussions/{item['num']}").json()
    folders = ("git/*/objects/*/*", "lfs/*/*/*", "tmp/*")
    return seen | {"files": sorted(str(path) for name in folders for path in hub.data.glob(name))}


def upload(client: httpx.Client) -> httpx.Response:
    content = os.urandom(9000)
    item = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    answer = client.post("/me/model.git/info/lfs/objects/batch", json={"operation": "upload", "objects": [item]})
    return client.put(answer.json()["objects"][0]["actions"]["upload"]["href"], content=content)


def by_xet(client: httpx.Client) -> httpx.Response:
    """A file by Xet: first its xorb, then the shard that makes a file of it."""
    wire = Wire(str(client.base_url).rstrip("/"), client.headers["Authorization"].partition(" ")[2], "me/model")
    chunks = [os.urandom(5000), os.urandom(4000)]
    answer = wire.xorb(xorb(chunks), xorb_hash(named(chunks)))
    digest = hashlib.sha256(b"".join(chunks)).hexdigest()
    return wire.shard(whole(chunks, sha256=digest)) if answer.is_success else answer


def pushed(client: httpx.Client) -> httpx.Response:
    """A push of a new branch, with a pack that is made once; its words as a status."""
    with tempfile.TemporaryDirectory() as folder:
        home, work = Path(folder, "home"), Path(folder, "work")
        git = real_git(home)
        git("init", "-q", str(work), at=home)
        (work / "n.txt").write_text("n" * 9000)
        git("add", "-A", at=work)
        git("commit", "-qm", "pushed", at=work)
        head = git("rev-parse", "HEAD", at=work).stdout.strip()
        body = push_body((None, head, "refs/heads/pushed"), pack=pack_of(home, work, "HEAD"))
    headers = {"Content-Type": "application/x-git-receive-pack-request"}
    answer = client.post("/me/model.git/git-receive-pack", content=body, headers=headers)
    if answer.status_code != 200 or b"ok refs/heads/pushed" in answer.content:
        return answer
    return httpx.Response(507 if b"disk of the Hub is full" in answer.content else 599, content=answer.content)


WEBHOOK = {"url": "http://127.0.0.1:9/x", "watched": [{"type": "user", "name": "me"}], "secret": "s" * 400}
WRITES: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "commit": lambda c: c.post(f"{REPO}/commit/main", content=ndjson(file("a/b/c", "y" * 9000), file("d"))),
    "commit to a pull request": lambda c: c.post(f"{REPO}/commit/refs%2Fpr%2F1", content=ndjson(file("e"))),
    "open by a commit": lambda c: c.post(f"{REPO}/commit/main?create_pr=1", content=ndjson(file("f"))),
    "open": lambda c: c.post(f"{REPO}/discussions", json={"title": "t", "pullRequest": True}),
    "comment": lambda c: c.post(f"{REPO}/discussions/1/comment", json={"comment": "x" * 9000}),
    "rename": lambda c: c.post(f"{REPO}/discussions/1/title", json={"title": "x" * 9000}),
    "merge": lambda c: c.post(f"{REPO}/discussions/1/merge", json={}),
    "merge of lines": lambda c: c.post(f"{REPO}/discussions/2/merge", json={}),
    "branch": lambda c: c.post(f"{REPO}/branch/new", json={"emptyBranch": True}),
    "tag": lambda c: c.post(f"{REPO}/tag/main", json={"tag": "v1", "message": "m"}),
    "squash": lambda c: c.post(f"{REPO}/super-squash/main", json={}),
    "create": lambda c: c.post("/api/repos/create", json={"name": "two", "organization": "me"}),
    "duplicate": lambda c: c.post(f"{REPO}/duplicate", json={"repository": "me/three"}),
    "move": lambda c: c.post("/api/repos/move", json={"fromRepo": "me/three", "toRepo": "other/four"}),
    "large file": upload,
    "large file by Xet": by_xet,
    "webhook": lambda c: c.post("/api/settings/webhooks", json=WEBHOOK),
}
if shutil.which("git"):
    WRITES["push"] = pushed


@pytest.mark.fault("F13")
def test_no_room_at_any_write_of_the_hub(small: Running, record_property: Record) -> None:
    """Each kind of write, with room for 0, 1, 2, ... blocks, until it comes through."""
    client = client_of(small)
    client.post("/api/repos/create", json={"name": "model", "organization": "me"}).raise_for_status()
    client.post(f"{REPO}/commit/main?create_pr=1", content=ndjson(file("first"))).raise_for_status()
    upload(client).raise_for_status()
    lines = [f"line {number}" for number in range(30)]
    for where, changed in (("main", lines), ("main?create_pr=1", ["first", *lines[1:]]), ("main", [*lines, "last"])):
        client.post(f"{REPO}/commit/{where}", content=ndjson(file("t", "\n".join(changed)))).raise_for_status()
    full = 0
    for name, write in WRITES.items():
        before = state(client, small)
        for blocks in range(60):
            filler = fill(small.data.parent, blocks * BLOCK)
            try:
                answer = write(client)
            finally:
                filler.unlink()
            if answer.status_code == 200:
                break
            full += 1
            assert answer.status_code == 507, (name, blocks, answer.text, log_of(small))
            after = state(client, small)
            if name == "large file by Xet":  # its content may be there, uploaded and in no commit, for the next attempt
                after |= {key: before[key] for key in ("files", f"{REPO}/lfs-files")}
            assert after == before, (name, blocks)
        else:
            raise AssertionError(f"{name} never came through")
        assert state(client, small) != before, name
    assert fsck(small.data) == []
    record_property("figure", f"{len(WRITES)} kinds of writes, full at {full} sizes of free room; 507 and unchanged")


@pytest.mark.fault("F13")
def test_no_room_to_start(small: Running) -> None:
    process.stop(small.data)
    for blocks in range(20):
        filler = fill(small.data.parent, blocks * BLOCK)
        try:
            process.start(small.data, port=0)
        except HubkitError as error:
            assert error.message.endswith(f"the disk of {small.data} is full.") and "Make room" in str(error.hint)
        else:
            break
        finally:
            filler.unlink()
    assert 0 < blocks < 19 and process.status(small.data), "it was struck, and came up"


@pytest.mark.fault("F13")
def test_a_disk_that_can_only_be_read(hub: Running, tmp_path: Path) -> None:
    """Each command says so in a sentence, and nothing is changed."""
    process.stop(hub.data)
    place, before = tmp_path / "read", sorted(hub.data.rglob("*"))
    place.mkdir()
    for command in (["--bind", str(tmp_path), str(place)], ["-o", "remount,ro,bind", str(place)]):
        if os.geteuid() != 0 or subprocess.run(["mount", *command], check=False, capture_output=True).returncode:
            pytest.skip("this machine does not let us mount a folder")
    data = place / "hub"
    try:
        for attempt in (
            lambda: fsck(data), lambda: backup(data, tmp_path / "b"), lambda: collect(data, days=1, dry_run=False),
            lambda: process.start(data, port=0),
        ):  # fmt: skip
            with pytest.raises(HubkitError, match="Read-only file system"):
                attempt()
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert sorted(hub.data.rglob("*")) == before and fsck(hub.data) == []


@pytest.mark.fault("F13")
def test_a_running_hub_whose_disk_can_only_be_read_any_more(api: HfApi, hub: Running, raw: httpx.Client) -> None:
    """It says so, in words and by a status that no client tries again at once; it still reads, and writes again."""
    api.create_repo("me/model")
    head, place = api.model_info("me/model").sha, str(hub.data / "tmp")
    for command in (["--bind", place, place], ["-o", "remount,ro,bind", place]):
        if os.geteuid() != 0 or subprocess.run(["mount", *command], check=False, capture_output=True).returncode:
            pytest.skip("this machine does not let us mount a folder")
    try:
        for _ in range(2):
            answer = raw.post(f"{REPO}/commit/main", content=ndjson(file("a")))
            assert answer.status_code == 507 and "Read-only file system" in answer.json()["error"], answer.text
            assert str(hub.data) not in answer.text, "a stranger need not know where it is"
        assert "the disk can only be read" in log_of(hub)
        assert api.model_info("me/model").sha == head
    finally:
        subprocess.run(["umount", place], check=True)
    raw.post(f"{REPO}/commit/main", content=ndjson(file("a"))).raise_for_status()
    assert fsck(hub.data) == []


@pytest.mark.fault("F13")
def test_which_errors_mean_that_the_disk_can_only_be_read() -> None:
    with closing(sqlite3.connect("file:x?mode=memory&cache=shared", uri=True)) as database:
        database.execute("PRAGMA query_only=ON")
        with pytest.raises(sqlite3.OperationalError) as caught:
            database.execute("CREATE TABLE t (x)")
    words = "failed to create locked file 'x': Read-only file system"
    errors = [OSError(30, "Read-only file system"), pygit2.GitError(words), OSError(words), caught.value]
    assert all(app._is_read_only(error) for error in errors), "pygit2's errors have no number"
    assert not app._is_read_only(OSError(5, "Input/output error")) and not app._is_read_only(sqlite3.Error("x"))


@pytest.mark.fault("F13")
def test_a_transaction_that_cannot_be_committed_ends(tmp_path: Path) -> None:
    from hubkit.server.storage.database import Database

    database = Database(tmp_path / "x.sqlite")
    pages = database.row("PRAGMA page_count")
    assert pages is not None
    database.run(f"PRAGMA max_page_count={pages[0] + 2}")
    with pytest.raises(sqlite3.OperationalError, match="full"), database.transaction():
        for number in range(1000):
            database.run("INSERT INTO meta VALUES (?, ?)", str(number), "x" * 1000)
    with database.transaction():
        database.run("INSERT INTO meta VALUES ('a', 'b')")
    database.close()
    other = Database(tmp_path / "x.sqlite")
    assert other.meta("a") == "b", "the next one was committed"
    other.close()


@pytest.mark.fault("F14")
def test_a_refused_commit_leaves_no_object(api: HfApi, hub: Running, raw: httpx.Client) -> None:
    api.create_repo("me/model")
    head = api.model_info("me/model").sha

    def size() -> int:
        return sum(path.stat().st_size for name in ("git", "tmp") for path in (hub.data / name).rglob("*"))

    before, large = size(), file("a", os.urandom(2_000_000).hex())
    gone: dict[str, Any] = {"key": "deletedFile", "value": {"path": "gone"}}
    parent: dict[str, Any] = {"key": "header", "value": {"summary": "s", "parentCommit": "0" * 40}}
    for last, code in ((gone, 404), (file("../x"), 422), ({"key": "other", "value": {}}, 400), (parent, 412)):
        answer = raw.post(f"{REPO}/commit/main", content=ndjson(large, file("b"), last))
        assert answer.status_code in {code, 400 if code == 422 else code}, answer.text
    assert raw.post(f"{REPO}/commit/main", content=ndjson(large) + b"\n{").status_code == 400
    assert size() == before and api.model_info("me/model").sha == head
    kept = raw.post(f"{REPO}/commit/main", content=ndjson(large, file("b")))
    assert kept.status_code == 200 and size() > before
    assert len(raw.get(f"/me/model/raw/{kept.json()['commitOid']}/a").content) == 4_000_000
    shutil.which("git") and subprocess.run(
        ["git", "-C", str(next((hub.data / "git").iterdir())), "fsck", "--strict"], check=True, capture_output=True
    )
