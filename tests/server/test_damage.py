"""Damaged repos in the data folder: each file in each of nine ways, every route. Nothing hangs or sends wrong bytes."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import httpx

from hubkit.server import process
from hubkit.server.fsck import fsck
from hubkit.server.process import Running

HTML = {"Accept": "text/html"}
PATIENCE = 15.0
"""Seconds for one answer. What was measured is a figure; this tells a hang from a busy machine."""
CARD = "---\nlicense: apache-2.0\ntags: [sound]\n---\n"
FILES = {
    "README.md": CARD.encode(), "config.json": b'{"model_type": "mistral"}\n', "docs/guide.md": b"guide\n" * 200,
    "model.safetensors": b"\2\0\0\0\0\0\0\0{}" + bytes(range(256)) * 4,
}  # fmt: skip


def flip(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 0x10]) + body[middle + 1 :]


def rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


WAYS: dict[str, Callable[[Path], object]] = {
    "emptied": rewritten(lambda body: b""),
    "half": rewritten(lambda body: body[: len(body) // 2]),
    "last byte cut": rewritten(lambda body: body[:-1]),
    "zeroed": rewritten(lambda body: b"\0" * len(body)),
    "flipped": rewritten(flip),
    "garbage": rewritten(lambda body: os.urandom(len(body) + 10)),
    "deleted": replaced(lambda path: None),
    "a folder": replaced(lambda path: path.mkdir()),
    "a link": replaced(lambda path: path.symlink_to(path.name)),
}


@dataclass
class Template:
    """A repo with everything that routes read, and what they answer for it."""

    uid: str
    folder: Path
    heads: dict[str, str]
    listing: Any

    def git(self, *command: str) -> str:
        done = subprocess.run(["git", "-C", self.folder, *command], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def object_file(self, revision: str) -> str:
        oid = self.git("rev-parse", revision)
        return f"objects/{oid[:2]}/{oid[2:]}"


def database(hub: Running) -> sqlite3.Connection:
    return sqlite3.connect(hub.data / "hub.sqlite", timeout=20)


def uid_of(hub: Running, name: str) -> str:
    with database(hub) as connection:
        (uid,) = connection.execute("SELECT uid FROM repos WHERE name = ?", (name,)).fetchone()
    return str(uid)


@pytest.fixture
def template(api: HfApi, hub: Running, raw: httpx.Client) -> Template:
    api.create_repo("me/good")
    adds = [CommitOperationAdd(path, body) for path, body in FILES.items()]
    api.create_commit("me/good", adds, commit_message="first")
    api.create_branch("me/good", branch="dev")
    api.create_tag("me/good", tag="v1", tag_message="annotated")
    proposed = [CommitOperationAdd("docs/guide.md", b"another guide\n")]
    api.create_commit("me/good", proposed, commit_message="propose", create_pr=True)
    api.create_commit("me/good", [CommitOperationAdd("docs/new.md", b"new\n")], commit_message="second")
    heads = {"main": api.model_info("me/good").sha or "", "dev": api.model_info("me/good", revision="dev").sha or ""}
    listing = raw.get("/api/models/me/good/tree/main?recursive=1").json()
    uid = uid_of(hub, "good")
    return Template(uid, hub.data / "git" / f"{uid}.git", heads, listing)


def copy(hub: Running, raw: httpx.Client, template: Template, name: str) -> Path:
    """The git folder of the new repo ``me/name`` with all that the template has. The Hub has read nothing of it."""
    assert raw.post("/api/repos/create", json={"name": f"me/{name}"}).status_code == 200
    uid = uid_of(hub, name)
    folder = hub.data / "git" / f"{uid}.git"
    shutil.rmtree(folder)
    shutil.copytree(template.folder, folder)
    with database(hub) as connection:
        for table, columns in (
            ("lfs", "oid, size, pushed"),
            ("discussions", "num, title, status, pull, base, merged, author, created"),
        ):
            connection.execute(
                f"INSERT INTO {table} (repo, {columns}) SELECT ?, {columns} FROM {table} WHERE repo = ?",
                (uid, template.uid),
            )
    return folder


_READS = """
/api/models/me/{} /api/models/me/{}?blobs=1 /api/models/me/{}/revision/dev /api/models/me/{}/tree/main?recursive=1
/api/models/me/{}/tree/main?expand=1 /api/models/me/{}/tree/dev/docs /api/models/me/{}/refs?include_prs=1
/api/models/me/{}/commits/main /api/models/me/{}/lfs-files /api/models/me/{}/discussions
/me/{} /me/{}/tree/main /me/{}/tree/v1/docs /me/{}/blob/main/README.md
/me/{}/commits/main /me/{}/commit/main /me/{}/discussions/1
"""
READS = _READS.split()
COMPARED = "/api/models/me/{}/discussions/1?diff=1"
LISTS = ("/api/models", "/api/models?full=1&limit=1000", "/models", "/", "/me", "/api/settings/repositories")


class Asked:
    """Asks a Hub, and keeps the longest time that an answer took."""

    def __init__(self, client: httpx.Client) -> None:
        self.client, self.longest = client, 0.0

    def __call__(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {} if path.startswith("/api") or "/resolve/" in path else HTML
        begun = time.monotonic()
        answer = self.client.request(method, path, headers=headers, timeout=PATIENCE, **more)
        self.longest = max(self.longest, time.monotonic() - begun)
        if answer.status_code == 520:
            assert answer.headers["x-error-code"] == "RepoDamaged", path
            assert ("is damaged" in answer.text) if headers else ("is damaged" in answer.json()["error"]), path
        else:
            assert answer.status_code < 500, (path, answer.status_code, answer.text)
        return answer


def ask_everything(ask: Asked, template: Template, name: str) -> int:
    """Read all of a damaged repo. Each answer is right or says that the repo is damaged; how many say that."""
    damaged = 0
    for path in READS:
        damaged += ask("GET", path.format(name)).status_code == 520
    answer = ask("GET", f"/api/models/me/{name}")
    assert answer.status_code == 520 or answer.json()["sha"] == template.heads["main"]
    answer = ask("GET", f"/api/models/me/{name}/tree/main?recursive=1")
    assert answer.status_code == 520 or answer.json() == template.listing
    for path, body in FILES.items():
        answer = ask("GET", f"/me/{name}/resolve/main/{path}")
        assert answer.status_code == 520 or answer.content == body, path
        damaged += answer.status_code == 520
        paths = ask("POST", f"/api/models/me/{name}/paths-info/main", json={"paths": [path], "expand": True})
        expected = [item for item in template.listing if item["path"] == path]
        plain = (
            [{key: item[key] for key in item if key != "lastCommit"} for item in paths.json()]
            if paths.is_success
            else []
        )
        assert not paths.is_success or plain == expected
    return damaged


def ask_to_write(ask: Asked, name: str) -> None:
    """Writes are carried out, or refused; what was carried out can be read."""
    sample = {"files": [{"path": "docs/x.bin", "size": 9, "sample": "eA=="}]}
    ask("POST", f"/api/models/me/{name}/preupload/main", json=sample)
    lines = [
        {"key": "header", "value": {"summary": "third"}},
        {"key": "file", "value": {"path": "docs/third.md", "content": "third"}},
        {"key": "file", "value": {"path": "README.md", "content": CARD}},
    ]
    body = "\n".join(json.dumps(line) for line in lines)
    answer = ask("POST", f"/api/models/me/{name}/commit/main", content=body)
    if answer.is_success:
        assert ask("GET", f"/me/{name}/resolve/main/docs/third.md").text == "third"
        assert ask("GET", f"/me/{name}/resolve/main/README.md").text == CARD, "written again over the damaged one"
    else:
        assert answer.status_code == 520
    ask("POST", f"/api/models/me/{name}/branch/new", json={"startingPoint": "dev"})
    ask("POST", f"/api/models/me/{name}/tag/main", json={"tag": "new", "message": "annotated"})
    ask("POST", f"/api/models/me/{name}/discussions/1/merge", json={})
    ask("POST", f"/api/models/me/{name}/super-squash/dev", json={})


def ask_for_the_others(ask: Asked, hub: Running, template: Template, count: int) -> None:
    """Lists show all repos, to anybody, and the sound one is as it was."""
    for path in LISTS:
        assert ask("GET", path).status_code == 200, path
    listed = ask("GET", "/api/models?limit=1000").json()
    assert len(listed) == count + 1
    (good,) = [item for item in listed if item["id"] == "me/good"]
    assert good["sha"] == template.heads["main"] and "sound" in good["tags"] and "damaged" not in good
    with httpx.Client(base_url=hub.url, timeout=PATIENCE) as anybody:
        assert len(anybody.get("/api/models?limit=1000").json()) == count + 1
    assert ask_everything(ask, template, "good") == 0


def assert_ends(hub: Running) -> float:
    begun = time.monotonic()
    os.kill(hub.pid, 15)
    assert process.stop(hub.data) or True
    took = time.monotonic() - begun
    assert took < 9, "it ended by SIGTERM, and was not killed after ten seconds"
    return took


def loose_files(template: Template) -> dict[str, str]:
    """One file of each kind of a git folder: a name for it, and its path."""
    objects = {
        "head commit": "main", "first commit": "dev", "tree": "main^{tree}", "subtree": "main:docs", "tag": "v1",
        "card": "main:README.md", "config.json": "main:config.json", "pointer": "main:model.safetensors",
        "proposal": "refs/pr/1",
    }  # fmt: skip
    files = {name: template.object_file(revision) for name, revision in objects.items()}
    refs = ("refs/heads/main", "refs/heads/dev", "refs/tags/v1", "refs/pr/1")
    return files | {name: name for name in (*refs, "HEAD", "config")}


def harmless(file: str, way: str) -> bool:
    """Whether nobody can see the damage: reading needs neither HEAD nor config, nobody knows which branches were."""
    gone = file.startswith("refs/") and file != "refs/heads/main" and way in {"deleted", "a folder"}
    return gone or (file.startswith("refs/") and way == "last byte cut") or file in {"HEAD", "config"}


def ways(place: int, every: int) -> list[tuple[str, Callable[[Path], object]]]:
    """Every ``every``-th of the ways to damage a file, from another one on for each ``place``."""
    return [item for number, item in enumerate(WAYS.items()) if (number + place) % every == 0]


THIRD = pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.soak)])
"""`make test` damages each file in three of the nine ways, and in each way some file; `make soak` each in each."""


@THIRD
@pytest.mark.fault("R1")
def test_each_file_of_a_repo_damaged_in_each_way(
    hub: Running, raw: httpx.Client, template: Template, every: int, record_property: Callable[[str, object], None]
) -> None:
    """All at once: a repo for each file and way. Every answer is right or says what is damaged; fsck names them all."""
    ask, repos = Asked(raw), {}
    for place, (label, file) in enumerate(loose_files(template).items()):
        for way, damage in ways(place, every):
            name = f"r{len(repos)}"
            repos[name] = label, file, way
            path = copy(hub, raw, template, name) / file
            path.chmod(0o600)
            damage(path)
    ask_for_the_others(ask, hub, template, len(repos))
    shown = ask("GET", "/models").text
    assert "damaged" in shown
    for name, (label, _, way) in repos.items():
        damaged = ask_everything(ask, template, name)
        assert damaged or harmless(label, way), (label, way)
        if label in {"proposal", "subtree", "first commit"}:  # it costs a process each, unless it is damaged
            ask("GET", COMPARED.format(name))
    problems = "\n".join(fsck(hub.data))
    for name, (label, file, way) in repos.items():
        mine = [line for line in problems.splitlines() if line.startswith(f"me/{name}: ")]
        assert mine or harmless(label, way), (label, way)
        if file.startswith("objects/"):
            assert any(file[8:].replace("/", "") in line or file[8:10] in line for line in mine), (label, way, mine)
    assert "me/good" not in problems
    for name in repos:
        ask_to_write(ask, name)
    ask_for_the_others(ask, hub, template, len(repos))
    record_property("figure", f"longest answer with {len(repos)} damaged repos: {ask.longest:.2f} s")
    record_property("figure", f"to end by SIGTERM: {assert_ends(hub):.2f} s")


@THIRD
@pytest.mark.fault("R1")
def test_packs_and_folders_damaged_in_each_way(hub: Running, raw: httpx.Client, template: Template, every: int) -> None:
    ask, repos = Asked(raw), {}
    packed = copy(hub, raw, template, "packed")
    subprocess.run(["git", "-C", packed, "gc", "-q", "--prune=now"], check=True)
    packs = sorted(path.relative_to(packed) for path in (packed / "objects" / "pack").iterdir())
    uid = uid_of(hub, "packed")
    files = [path for path in packs if path.suffix in {".pack", ".idx"}] + [Path("packed-refs")]
    sound = Template(uid, packed, template.heads, template.listing)
    for place, file in enumerate(files):
        for way, damage in ways(place, every):
            name = f"p{len(repos)}"
            repos[name] = str(file), way
            path = copy(hub, raw, sound, name) / file
            path.chmod(0o600)
            damage(path)
    for what in ("objects", "refs", ".", "refs/heads", "objects/pack"):
        for way in ("deleted", "a file"):
            name = f"p{len(repos)}"
            repos[name] = what, way
            folder = copy(hub, raw, sound if what == "objects/pack" else template, name) / what
            shutil.rmtree(folder)
            if way == "a file":
                folder.write_bytes(b"no folder")
    ask_for_the_others(ask, hub, template, len(repos) + 1)
    assert ask_everything(ask, template, "packed") == 0
    for name, (file, way) in repos.items():
        assert ask_everything(ask, template, name) > 0, (file, way)
        ask_to_write(ask, name)
    problems = fsck(hub.data)
    for name, (file, way) in repos.items():
        assert any(line.startswith(f"me/{name}: ") for line in problems), (file, way)
    assert not any(line.startswith(("me/packed: ", "me/good: ")) for line in problems)
    with database(hub) as connection:
        states = connection.execute("SELECT repo, num, status FROM discussions ORDER BY 1, 2").fetchall()
    assert_ends(hub)
    again = process.start(hub.data, port=0)
    with httpx.Client(base_url=again.url, headers=raw.headers, timeout=PATIENCE) as client:
        assert len(client.get("/api/models?limit=1000").json()) == len(repos) + 2
    with database(hub) as connection:
        assert connection.execute("SELECT repo, num, status FROM discussions ORDER BY 1, 2").fetchall() == states


IN_THE_WAY: dict[str, tuple[str, Callable[[Path], object]]] = {
    "pack": ("objects/pack/*.pack", WAYS["flipped"]), "no pack": ("objects/pack/*.pack", Path.unlink),
    "no index": ("objects/pack/*.idx", Path.unlink), "no head": ("HEAD", Path.unlink),
    "config": ("config", lambda path: path.write_bytes(b"[core\n")),
}  # fmt: skip


@pytest.mark.fault("R1")
@pytest.mark.parametrize("query", ["", "?create_pr=1"])
def test_a_damaged_repo_takes_no_commit_even_one_that_reads_nothing_of_what_is_damaged(
    hub: Running, raw: httpx.Client, template: Template, query: str
) -> None:
    path = "/api/models/me/{}/commit/main"
    lines = '{"key":"header","value":{"summary":"s"}}\n{"key":"file","value":{"path":"%s","content":"x"}}\n'
    template.git("gc", "-q", "--prune=now")
    raw.post(path.format("good"), content=(lines % "loose").encode()).raise_for_status()
    for name, (pattern, damage) in IN_THE_WAY.items():
        name = name.replace(" ", "-")
        folder = copy(hub, raw, template, name)
        raw.post(path.format(name), content=(lines % "before").encode()).raise_for_status()
        (place,) = folder.glob(pattern)
        place.chmod(0o600)
        damage(place)
        assert raw.post(path.format(name) + query, content=(lines % "after").encode()).status_code == 520, name


LOOPS = {
    "refs/heads/main": b"ref: refs/heads/dev2\n", "refs/heads/dev2": b"ref: refs/heads/main\n",
    "refs/heads/odd": b"ref: ../../../etc/passwd\n", "refs/heads/short": b"abc\n",
}  # fmt: skip


@pytest.mark.fault("R1")
def test_refs_that_lead_nowhere_and_objects_that_are_another(
    hub: Running, raw: httpx.Client, template: Template
) -> None:
    ask = Asked(raw)
    folder = copy(hub, raw, template, "loop")
    for name, body in LOOPS.items():
        (folder / name).write_bytes(body)
    blob, tree, commit = (template.object_file(name) for name in ("main:README.md", "main^{tree}", "main"))
    for name, (target, source) in {"wrong": (commit, blob), "swapped": (blob, tree)}.items():
        folder = copy(hub, raw, template, name)
        (folder / target).chmod(0o600)
        shutil.copyfile(folder / source, folder / target)
    folder = copy(hub, raw, template, "to-a-blob")
    (folder / "refs/heads/main").write_text(template.git("rev-parse", "main:README.md") + "\n")
    ask_for_the_others(ask, hub, template, 4)
    for name in ("loop", "wrong", "swapped", "to-a-blob"):
        assert ask_everything(ask, template, name) > 0, name
        assert any(line.startswith(f"me/{name}: ") for line in fsck(hub.data)), name


@pytest.mark.fault("R1", "F9")
@pytest.mark.parametrize("way", WAYS)
def test_a_large_file_that_is_damaged_is_not_sent(
    hub: Running, raw: httpx.Client, template: Template, way: str
) -> None:
    body = FILES["model.safetensors"]
    (stored,) = [path for path in (hub.data / "lfs").rglob("*") if path.is_file()]
    stored.chmod(0o600)
    assert raw.get("/me/good/resolve/main/model.safetensors").content == body
    WAYS[way](stored)
    ask = Asked(raw)
    assert ask("GET", "/me/good/resolve/main/model.safetensors").status_code == 520
    for path in READS:
        ask("GET", path.format("good"))
    assert ask("GET", "/me/good/resolve/main/README.md").content == FILES["README.md"]
    assert any(stored.name in line for line in fsck(hub.data))


@pytest.mark.fault("R1")
def test_lists_read_no_objects(api: HfApi, hub: Running, raw: httpx.Client, template: Template) -> None:
    """What lists show is kept by commit: they are right even when no object can be read any more."""
    before = {path: raw.get(path).text for path in LISTS}
    process.stop(hub.data)
    for path in template.folder.glob("objects/??/*"):
        path.unlink()
    again = process.start(hub.data, port=int(hub.url.rpartition(":")[2]))
    with httpx.Client(base_url=again.url, headers=raw.headers, timeout=PATIENCE) as client:
        assert {path: client.get(path).text for path in LISTS} == before
        assert client.get("/api/models/me/good/tree/main").status_code == 520
