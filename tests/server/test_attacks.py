"""Attacks that once worked: what a security test of the embedded Hub found, one test each."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import httpx

from hubkit.core.errors import ConflictError
from hubkit.server import process
from hubkit.server.fsck import fsck
from hubkit.server.http.bodies import SpooledBody
from hubkit.server.http.commit_payload import lines
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.request import Request
from hubkit.server.hub import Hub
from hubkit.server.process import Running
from hubkit.server.repos import metadata
from hubkit.server.repos.git import Git
from hubkit.server.repos.gitignore import ignored
from hubkit.server.repos.safetensors import parameters
from hubkit.server.routes import commits, discussions, repos


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    for name in ("git/myproject/config", "tmp/notes", "lfs/x"):
        root = tmp_path / name.partition("/")[0]
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("mine")
        root.chmod(0o755)
        with pytest.raises(ConflictError, match=r"no Hub's data folder"):
            process.start(root, port=0)
        assert (root / name).read_text() == "mine" and root.stat().st_mode & 0o777 == 0o755
        assert {path.name for path in root.iterdir()} == {name.partition("/")[0]}


def test_a_lost_database_costs_no_repo(hub: Running) -> None:
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo("me/model")
    api.create_commit("me/model", [CommitOperationAdd("w.bin", b"\0" * 100)], commit_message="m")
    process.stop(hub.data)
    database = hub.data / "hub.sqlite"
    kept, files = database.read_bytes(), sorted(path for path in hub.data.rglob("*") if "git" in path.parts)
    for lose in (lambda: database.write_bytes(b""), database.unlink):
        lose()
        with pytest.raises(ConflictError, match=r"hub\.sqlite is missing"):
            process.start(hub.data, port=0)
        assert sorted(path for path in hub.data.rglob("*") if "git" in path.parts) == files
    database.write_bytes(kept)
    again = process.start(hub.data, port=0)
    assert HfApi(endpoint=again.url, token=again.token).list_repo_files("me/model") == [".gitattributes", "w.bin"]


def test_strange_things_beside_the_repos_stay_and_stop_no_start(hub: Running) -> None:
    process.stop(hub.data)
    (hub.data / "git" / "notes.txt").write_text("mine")
    (hub.data / "git" / "project").mkdir()
    (hub.data / "lfs" / "aa" / "bb" / ("c" * 64)).mkdir(parents=True)
    (hub.data / "server.json").write_text('{"port": 99999}')
    process.start(hub.data)
    assert {path.name for path in (hub.data / "git").iterdir()} == {"notes.txt", "project"}


CARDS = [
    "a: !!bool x", 'title: "\\uD800"', "a: 0x" + "f" * 6000, '!!int ""', 'a: !!int ""', "a: !!timestamp foo",
    "a: !!float x", "a: !!binary é", '"\\uD800": 1', "a: 2026-13-45", "!!set {<<: 1}", "? [a]\n: b",
]  # fmt: skip


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.fault("S8")
def test_no_card_is_more_than_bad_metadata(card: str) -> None:
    with pytest.raises(metadata.MetadataError, match=r"\w"):
        metadata.read(f"---\n{card}\n---\n")


def test_one_bad_repo_does_not_break_the_list_for_all(raw: httpx.Client) -> None:
    configs = ['{"model_type": "\\ud800"}', '{"architectures": [NaN]}', '{"architectures": [1e999]}', "[" * 5000]
    for number, (card, config) in enumerate((card, configs[at % 4]) for at, card in enumerate(CARDS)):
        raw.post("/api/repos/create", json={"name": f"m{number}", "organization": "me"}).raise_for_status()
        text = f"---\n{card}\n---\n"
        lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "s"}}]
        lines += [{"key": "file", "value": {"path": "README.md", "content": text}}]
        lines += [{"key": "file", "value": {"path": "config.json", "content": config}}]
        body = "\n".join(json.dumps(line) for line in lines)
        raw.post(f"/api/models/me/m{number}/commit/main", content=body).raise_for_status()
        assert raw.get(f"/api/models/me/m{number}").status_code == 200, card
        assert raw.post("/api/validate-yaml", json={"content": text}).status_code == 400, card
    assert len(raw.get("/api/models?full=true").json()) == len(CARDS)


@pytest.mark.parametrize("sdk", ["[gradio]", "{a: b}", "1", "true", "[]", "1.5"])
def test_one_space_of_no_sdk_does_not_break_the_pages_of_all(raw: httpx.Client, sdk: str) -> None:
    for kind in ("space", "model"):
        order = {"name": "x", "organization": "me", "type": kind} | ({"sdk": "gradio"} if kind == "space" else {})
        raw.post("/api/repos/create", json=order).raise_for_status()
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "s"}}]
    lines += [{"key": "file", "value": {"path": "README.md", "content": f"---\nsdk: {sdk}\n---\n"}}]
    body = "\n".join(json.dumps(line) for line in lines)
    raw.post("/api/spaces/me/x/commit/main", content=body).raise_for_status()
    for path in ("/", "/spaces", "/me", "/me/x", "/spaces/me/x", "/api/spaces"):
        assert raw.get(path, headers={"Accept": "text/html"}).status_code == 200, path
    assert raw.get("/api/spaces/me/x").json()["sdk"] == "gradio"


def test_types_of_tensors_are_plain_words(tmp_path: Path) -> None:
    head = json.dumps({"a": {"dtype": "\ud800", "shape": [2]}, "b": {"dtype": "F32", "shape": [3]}}).encode()
    (tmp_path / "x").write_bytes(len(head).to_bytes(8, "little") + head)
    assert parameters(tmp_path / "x") == {"F32": 3}


def test_no_tensor_has_more_numbers_than_a_page_can_tell(tmp_path: Path) -> None:
    head = json.dumps({"a": {"dtype": "F32", "shape": [2**39] * 32}, "b": {"dtype": "F32", "shape": [3]}}).encode()
    (tmp_path / "x").write_bytes(len(head).to_bytes(8, "little") + head)
    assert parameters(tmp_path / "x") == {"F32": 3}


@pytest.mark.parametrize("kind", ["!!set ", "", "!!omap "])
@pytest.mark.fault("S8")
def test_merges_of_merges_are_refused_at_once(kind: str) -> None:
    lines = ["a0: &a0 {" + ", ".join(f"k{n}: 1" for n in range(9)) + "}"]
    lines += [f"a{n}: &a{n} {kind}{{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    with pytest.raises(metadata.MetadataError):
        metadata.read("---\n" + "\n".join(lines) + "\n---\n")


SPACES = "x" + " " * 60_000 + "y"
RULES = ["*a" * 5 + "*b", "**/a/" * 5 + "b", "*?" * 30 + "b", "[a-a]*" * 30 + "b", SPACES, "**/" * 300]


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_of_gitignore_takes_for_ever(rule: str) -> None:
    begun = time.process_time()
    for path in ("a" * 200, "a/" * 60 + "a", "x" * 250):
        ignored(path, rule)
    assert time.process_time() - begun < 10


def test_what_gitignore_means_is_what_git_means(tmp_path: Path) -> None:
    rules = "*a*a*b\n**/a/**/c\nq/**\n!q/w/\nsp\\ \n\\[x\\]\nm[^n]o\nfoo**bar\n/r/*.t\\*\n/**/z\ng/**/h\n**\\*\n"
    said = "aab xaxaxb ab a/c a/b/d/c x/a/c q/1 q/w/2 q [x] mno mpo fooxbar foo/bar r/1.t* r/1.tx z p/z g/h g/1/2/h s*"
    paths = [*said.split(), "sp "]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text(rules)
    asked = subprocess.run(
        ["git", "-C", tmp_path, "check-ignore", "--no-index", "--stdin"],
        input="\n".join(paths), capture_output=True, text=True,
    )  # fmt: skip
    assert {path for path in paths if ignored(path, rules)} == set(asked.stdout.splitlines())


def ndjson(*operations: dict[str, Any]) -> str:
    header = {"key": "header", "value": {"summary": "s"}}
    return "\n".join(json.dumps(line) for line in (header, *operations))


@pytest.mark.fault("S7")
def test_bodies_that_anybody_may_send_are_small(api: HfApi, raw: httpx.Client) -> None:
    api.create_repo("me/model")
    for path in ("/api/validate-yaml", "/api/models/me/model/paths-info/main"):
        answer = httpx.post(f"{raw.base_url}{path}", content=b"[" + b"[]," * 400_000 + b"[]]")
        assert answer.status_code == 413
    assert raw.post("/api/models/me/model/paths-info/main", json={"paths": ["a\0b"]}).status_code == 400


NESTS = '{"key": "file", "value": {"a": [' + "[]," * 500_000 + "[]]}}"
WORDS, ENDLESS = "[" + '"",' * 500_000 + '""]', '"' + '\\"' * 900_000


@pytest.mark.parametrize("line", [NESTS, WORDS, ENDLESS])
@pytest.mark.fault("S7")
def test_long_lines_of_a_commit_hold_few_values(tmp_path: Path, line: str) -> None:
    (tmp_path / "body").write_text(line)
    begun = time.process_time()
    with pytest.raises(HTTPException, match=r"1,000 values at most|Unterminated string"):
        list(lines(SpooledBody(tmp_path / "body", 0, "")))
    assert time.process_time() - begun < 10


def test_a_long_file_may_travel_inline(tmp_path: Path) -> None:
    line = {"key": "file", "value": {"path": "x", "content": '[{"\\' * 400_000, "encoding": "utf-8"}}
    (tmp_path / "body").write_text(json.dumps(line))
    assert list(lines(SpooledBody(tmp_path / "body", 0, ""))) == [line]


@pytest.mark.fault("S10")
def test_no_branch_or_tag_hides_a_commit(api: HfApi, hub: Running, raw: httpx.Client) -> None:
    api.create_repo("me/model")
    first = api.model_info("me/model").sha
    assert first
    second = api.create_commit("me/model", [CommitOperationAdd("x", b"x")], commit_message="m").oid
    for name in (first, first.upper()):
        assert raw.post(f"/api/models/me/model/branch/{name}", json={"startingPoint": second}).status_code == 400
        assert raw.post(f"/api/models/me/model/tag/{second}", json={"tag": name}).status_code == 400
    (next((hub.data / "git").iterdir()) / "refs/heads" / first).write_text(second + "\n")  # from before that rule
    assert api.model_info("me/model", revision=first).sha == first


@pytest.mark.fault("S7")
def test_only_who_may_commit_sends_a_body(api: HfApi, hub: Running, make_token: Callable[..., str]) -> None:
    api.create_repo("me/model")
    url, other = httpx.URL(hub.url), make_token("other")
    head = f"POST /api/models/me/model/commit/main HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {other}\r\n"
    with socket.create_connection((url.host, url.port or 80), timeout=20) as line:
        line.sendall(f"{head}Content-Length: 1000000\r\n\r\nhalf a body".encode())
        assert line.recv(65536).startswith(b"HTTP/1.1 403 ")


def test_an_upload_has_the_size_that_was_signed(api: HfApi, hub: Running, raw: httpx.Client) -> None:
    api.create_repo("me/model")
    body = {"operation": "upload", "objects": [{"oid": "a" * 64, "size": 10}]}
    href = raw.post("/me/model.git/info/lfs/objects/batch", json=body).json()["objects"][0]["actions"]["upload"]["href"]
    assert httpx.put(href, content=iter([b"x" * 20])).status_code == 413
    assert list((hub.data / "tmp").iterdir()) == []


@pytest.mark.fault("S2")
def test_addresses_and_cursors_that_lead_nowhere(api: HfApi, raw: httpx.Client) -> None:
    api.create_repo("me/model")
    sha = api.model_info("me/model").sha
    assert raw.get("/me/model/resolve/main/").status_code == 404
    for start in ("9" * 30, "-1", "9" * 5000):
        cursor = base64.urlsafe_b64encode(f"{sha}:{start}".encode()).decode()
        assert raw.get("/api/models/me/model/tree/main", params={"cursor": cursor}).status_code == 400


def test_a_damaged_object_is_repaired_by_sending_it_again(api: HfApi, hub: Running) -> None:
    api.create_repo("me/model")
    add = [CommitOperationAdd("w.bin", b"\0" * 100)]
    api.create_commit("me/model", add, commit_message="m")
    stored = next(path for path in (hub.data / "lfs").rglob("*") if path.is_file())
    stored.write_bytes(b"\1" * 100)
    assert len(fsck(hub.data)) == 1
    api.create_commit("me/model", [CommitOperationAdd("v.bin", b"\0" * 100)], commit_message="m")
    assert fsck(hub.data) == [] and stored.read_bytes() == b"\0" * 100


def test_fsck_says_that_a_database_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "hub.sqlite").write_bytes(b"not a database " * 300)
    with pytest.raises(ConflictError, match="cannot be read"):
        fsck(tmp_path)


def test_lists_show_files_when_asked(api: HfApi, raw: httpx.Client) -> None:
    api.create_repo("me/model")
    adds = [CommitOperationAdd("config.json", b"{}"), CommitOperationAdd("a/w.safetensors", b"\0" * 8)]
    api.create_commit("me/model", adds, commit_message="m")
    short, full, asked = (raw.get(f"/api/models{query}").json()[0] for query in ("", "?full=true", "?expand=siblings"))
    assert "siblings" not in short and {"safetensors", "transformers"} <= set(short["tags"])
    assert full["siblings"] == asked["siblings"] == raw.get("/api/models/me/model").json()["siblings"]
    assert len(full["siblings"]) == 3


# Races, in one process: a handler is held at the repo's lock while something else happens.


@pytest.fixture
def inner(tmp_path: Path) -> Iterator[tuple[Hub, Request]]:
    """A Hub in this process with the repo me/model, and a request about it by its owner."""
    hub = Hub(tmp_path / "inner")
    actor = hub.accounts.identify(hub.folder.owner_token.read_text().strip())
    assert actor is not None
    hub.store.create("model", "me", "model", actor=actor, private=False)
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [(b"host", b"127.0.0.1")]}
    scope |= {"path_params": {"kind": "models", "ns": "me", "name": "model", "rev": "main"}}
    yield hub, Request(scope, hub=hub, actor=actor)
    hub.close()


def test_lists_walk_the_tree_of_a_commit_once(inner: tuple[Hub, Request], monkeypatch: pytest.MonkeyPatch) -> None:
    _, request = inner
    walked: list[str] = []
    walk = Git.walk

    def counted(git: Git, commit: str, path: str = "", *, recursive: bool = True) -> Any:
        walked.append(commit)
        return walk(git, commit, path, recursive=recursive)

    monkeypatch.setattr(Git, "walk", counted)
    for _ in range(3):
        assert b"me/model" in bytes(repos.listing(request).body)
    assert len(walked) == 1


def held_back(
    hub: Hub, handler: Callable[[Request], Any], request: Request, ready: Callable[[], bool]
) -> Callable[[], Any]:
    """Run ``handler`` until ``ready`` while the caller has the lock; what is returned waits for its answer."""
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(handler(request))
        except HTTPException as error:
            results.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    deadline = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < deadline and worker.is_alive()
        time.sleep(0.005)

    def answer() -> Any:
        worker.join(20)
        return results[0]

    return answer


def test_no_commit_names_an_object_that_was_just_deleted(inner: tuple[Hub, Request]) -> None:
    hub, request = inner
    repo = hub.store.find("model", "me/model")
    assert repo is not None
    oid = hashlib.sha256(b"x").hexdigest()
    (hub.folder.spool / "x").write_bytes(b"x")
    hub.lfs.keep(hub.folder.spool / "x", repo.uid, oid, 1)
    (hub.folder.spool / "body").write_text(ndjson({"key": "lfsFile", "value": {"path": "w", "oid": oid, "size": 1}}))
    request.spooled = SpooledBody(hub.folder.spool / "body", 1, "")
    with hub.store.lock(repo):
        answer = held_back(hub, commits.commit, request, lambda: any(hub.folder.spool.glob("*/*")))
        hub.lfs.withdraw(repo.uid, [oid])
    hub.lfs.collect([oid])
    error = answer()
    assert isinstance(error, HTTPException) and error.status_code == 400 and "was not uploaded" in error.detail


def test_a_pull_request_is_merged_once(inner: tuple[Hub, Request]) -> None:
    hub, request = inner
    repo = hub.store.find("model", "me/model")
    assert repo is not None
    git = hub.store.git(repo)
    head = git.target("refs/heads/main")
    assert head is not None
    number = hub.pulls.open(git, repo, head, "me", title="t", text="", base="refs/heads/main", status="open")
    request.path_params["num"] = str(number)
    opened: list[object] = []
    fetch = hub.store.lock

    def seen(repo: Any) -> Any:
        opened.append(repo)
        return fetch(repo)

    hub.store.lock = seen  # type: ignore[method-assign]
    with hub.store.lock(repo):
        answer = held_back(hub, discussions.merge, request, lambda: bool(opened))
        hub.discussions.change(repo, number, status="merged", merged=head)
    error = answer()
    assert isinstance(error, HTTPException) and error.status_code == 400 and git.target("refs/heads/main") == head
