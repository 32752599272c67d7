"""What the real client would never send: names, addresses and bodies made to do harm (S2, S7, S10)."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import httpx

from hubkit.server.process import Running

PATHS = [
    "../x", "../../../../tmp/x", "/abs", "a//b", "a/../../b", "a\\..\\b", "nul\0", "new\nline", "", ".", "..",
    "a" * 300, "CON", "aux.txt", "a/.git/config", ".GIT/hooks", "rtl\u202eexe.txt", "e\u0301.txt", "x/" * 600 + "y",
    "\ud800",
]  # fmt: skip
REFS = [
    "a b", "../x", "-x", "x..y", "x.lock", "@{0}", "HEAD", "@", "refs/heads/x", "x" * 300, "x/", "/x", "x//y", ".x",
    "a/.b", "x~1", "x^", "x:y", "x?", "x*", "x[", "x\\y", "tab\t", "nul\0",
]  # fmt: skip
REPOS = ["../x", "..", ".", "a/b/c", "a b", "x.git", "-x", "a--b", "x" * 200, "é", "", "a\\b", "nul\0", "%2e%2e"]


@pytest.fixture(autouse=True)
def repo(api: HfApi) -> str:
    api.create_repo("me/model")
    return "me/model"


def outside(hub: Running) -> set[Path]:
    return {path for path in hub.data.parent.rglob("*") if hub.data not in path.parents}


def commit(raw: httpx.Client, *operations: dict[str, Any], to: str = "main") -> httpx.Response:
    lines = [{"key": "header", "value": {"summary": "s"}}, *operations]
    return raw.post(f"/api/models/me/model/commit/{to}", content="\n".join(json.dumps(line) for line in lines))


@pytest.mark.fault("S2")
def test_hostile_paths_are_refused_and_nothing_is_written(api: HfApi, hub: Running, raw: httpx.Client) -> None:
    before, start = outside(hub), api.model_info("me/model").sha
    for path in PATHS:
        for key, more in (("file", {"content": "eA==", "encoding": "base64"}), ("deletedFile", {})):
            answer = commit(raw, {"key": key, "value": {"path": path, **more}})
            assert answer.status_code in {400, 422}, (path, answer.text)
        asked = raw.post(
            "/api/models/me/model/preupload/main", content=json.dumps({"files": [{"path": path, "size": 1}]})
        )
        assert asked.status_code in {400, 422}, path
    assert outside(hub) == before and api.model_info("me/model").sha == start


@pytest.mark.fault("S2")
def test_no_address_leads_out_of_the_store(hub: Running, raw: httpx.Client) -> None:
    (hub.data.parent / "secret.txt").write_text("secret")
    ways = [
        "../secret.txt",
        "..%2f..%2fsecret.txt",
        "%2e%2e%2fsecret.txt",
        "%252e%252e%252fsecret.txt",
        "..%5csecret.txt",
    ]
    ways += ["%2fetc%2fpasswd", "a%00b", "%ff%fe", ".git/config", "config", "HEAD"]
    for way in ways:
        for prefix in ("/me/model/resolve/main/", "/me/model/resolve/", "/me/model/raw/main/", "/lfs/", "/lfs/x/", "/"):
            for tail in ("", "/x"):
                with socket.create_connection((raw.base_url.host, raw.base_url.port or 80)) as line:
                    auth = f"Authorization: Bearer {hub.token}"
                    head = f"GET {prefix}{way}{tail} HTTP/1.1\r\nHost: 127.0.0.1\r\n{auth}\r\nConnection: close\r\n\r\n"
                    line.sendall(head.encode())
                    answer = b"".join(iter(lambda line=line: line.recv(65536), b""))
                assert int(answer.split()[1]) in {400, 403, 404}, (prefix, way, answer[:200])
                assert b"secret" not in answer.partition(b"\r\n\r\n")[2].replace(way.encode(), b"").replace(
                    b"secret.txt", b""
                )


@pytest.mark.fault("S2", "S10")
def test_hostile_refs_are_refused(api: HfApi, raw: httpx.Client) -> None:
    from urllib.parse import quote

    for ref in REFS:
        name = quote(ref, safe="")
        assert raw.post(f"/api/models/me/model/branch/{name}", json={}).status_code in {400, 404}, ref
        assert raw.post("/api/models/me/model/tag/main", json={"tag": ref}).status_code == 400, ref
        assert commit(raw, to=name).status_code in {400, 404, 422} or ref == "refs/heads/x", ref
    for revision in ("HEAD~1", "main^", ":/initial", "main@{0}", "main:.gitattributes", "refs/../x"):
        assert raw.get(f"/api/models/me/model/revision/{quote(revision, safe='')}").status_code == 404
    assert [branch.name for branch in api.list_repo_refs("me/model").branches] == ["main"]


@pytest.mark.fault("S2")
def test_hostile_repo_names_are_refused(hub: Running, raw: httpx.Client) -> None:
    before = outside(hub)
    for name in REPOS:
        for body in ({"name": name, "organization": "me"}, {"name": "x", "organization": name or "a b"}):
            if body["organization"] == "me" and name == "":
                continue
            assert raw.post("/api/repos/create", json=body).status_code in {400, 403}, body
    for reserved in ("api", "datasets", "lfs"):
        assert raw.post("/api/repos/create", json={"name": "x", "organization": reserved}).status_code == 400
    moved = raw.post("/api/repos/move", json={"fromRepo": "me/model", "toRepo": "../../x", "type": "model"})
    assert moved.status_code == 400 and outside(hub) == before


@pytest.mark.fault("S7")
def test_values_of_the_wrong_type_are_refused(raw: httpx.Client) -> None:
    wrong: list[Any] = [None, 1, [], {}, True, [1], {"a": 1}, "x" * 100_000, "\ud800", "nul\0"]
    routes = {
        "/api/repos/create": ("name", "organization", "type", "visibility", "sdk"),
        "/api/repos/move": ("fromRepo", "toRepo", "type"),
        "/api/validate-yaml": ("content", "repoType"),
        "/api/models/me/model/tag/main": ("tag", "message"),
        "/api/models/me/model/branch/b": ("startingPoint",),
        "/api/models/me/model/preupload/main": ("files", "gitIgnore"),
        "/api/models/me/model/super-squash/main": ("message",),
        "/api/models/me/model/lfs-files/batch": ("deletions",),
        "/me/model.git/info/lfs/objects/batch": ("operation", "objects", "hash_algo"),
        "/api/models/me/model/discussions": ("title", "description"),
        "/api/models/me/model/duplicate": ("repository", "visibility"),
        "/api/hubkit/tokens": ("user", "role"),
    }
    for route, names in routes.items():
        for body in [*wrong, *({name: value} for name in names for value in wrong)]:
            answer = raw.post(route, content=json.dumps(body))
            assert answer.status_code < 500, (route, str(body)[:80], answer.text)
    for value in wrong:
        for key in ("file", "lfsFile", "deletedFile", "deletedFolder", "header", "other", [], {}):
            assert commit(raw, {"key": key, "value": value}).status_code in {400, 404, 413, 422}
            for name in ("path", "content", "oid", "encoding", "summary", "parentCommit"):
                assert commit(raw, {"key": key, "value": {name: value}}).status_code < 500


def body_of(size: int) -> Iterator[bytes]:
    for _ in range(size // 65536):
        yield b"[" * 65536


@pytest.mark.fault("S7")
def test_bodies_without_end_cost_no_memory_and_hold_up_nobody(
    hub: Running, raw: httpx.Client, record_property: Callable[[str, object], None]
) -> None:
    server = psutil.Process(hub.pid)
    raw.get("/api/whoami-v2")
    before = server.memory_info().rss
    with socket.create_connection((raw.base_url.host, raw.base_url.port or 80)) as slow:
        slow.sendall(b"POST /api/validate-yaml HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le")
        big = 10**9
        for path in ("/api/validate-yaml", "/api/repos/create", "/api/models/me/model/preupload/main"):
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {hub.token}\r\n"
            with socket.create_connection((raw.base_url.host, raw.base_url.port or 80)) as line:
                line.sendall(f"{head}Content-Length: {big}\r\n\r\n".encode())
                assert re.match(rb"HTTP/1.1 413 ", line.recv(4096))
        for _ in range(3):
            try:
                answer = raw.post("/api/validate-yaml", content=body_of(200_000_000))
                assert answer.status_code == 413
            except httpx.TransportError:
                pass  # hung up on while still sending: as good an answer
        for depth, code in ((100_000, 400), (4_000_000, 413)):
            answer = raw.post("/api/repos/create", content=b"[" * depth + b"]" * depth)
            assert answer.status_code == code, answer.text[:200]
        assert commit(raw, {"key": "file", "value": {"path": "x", "content": "A" * 40_000_000}}).status_code == 413
        squeezed = raw.post("/api/validate-yaml", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
        assert squeezed.status_code == 415
        assert raw.post("/api/repos/create", content=b"\xff\xfe").status_code == 400
        assert raw.get("/api/whoami-v2").status_code == 200
        grown = server.memory_info().rss - before
    assert grown < 64 * 2**20, f"{grown:,} bytes more"
    record_property("figure", f"the server grew by {grown / 2**20:.1f} MiB")
    assert list((hub.data / "tmp").iterdir()) == []


def test_it_answers_to_loopback_names_only(raw: httpx.Client) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "hub.local:8750", "", "localhost@evil"):
        assert raw.get("/api/whoami-v2", headers={"Host": host}).status_code in {400, 421}, host
    assert raw.get("/api/whoami-v2", headers={"Host": "localhost:1234"}).status_code == 200


def test_uploads_go_only_where_they_were_signed_for(hub: Running, raw: httpx.Client) -> None:
    from hashlib import sha256

    good, oid = b"content" * 100, sha256(b"content" * 100).hexdigest()
    body = {"operation": "upload", "objects": [{"oid": oid, "size": len(good)}]}
    href = raw.post("/me/model.git/info/lfs/objects/batch", json=body).json()["objects"][0]["actions"]["upload"]["href"]
    plain = httpx.Client()
    assert plain.put(href, content=b"Content" * 100).status_code == 400
    assert plain.put(href, content=b"short").status_code == 400
    assert plain.put(href.replace(oid, "b" * 64), content=good).status_code == 403
    assert plain.put(href.replace("expires=", "expires=1"), content=good).status_code in {400, 403}
    assert plain.put(re.sub(r"expires=\d", "expires=3", href), content=good).status_code == 403
    assert plain.put(re.sub(r"signature=.", "signature=x", href), content=good).status_code == 403
    assert plain.get(href).status_code == 403
    assert [path for path in (hub.data / "lfs").rglob("*") if path.is_file()] == []
    assert plain.put(href, content=good).status_code == 200
    for bad in (b"", b"../" + oid.encode(), b"A" * 64):
        body = {"operation": "download", "objects": [{"oid": bad.decode(), "size": 1}]}
        assert raw.post("/me/model.git/info/lfs/objects/batch", json=body).json()["objects"][0]["error"]["code"] == 422


def test_only_the_owner_manages_accounts(raw: httpx.Client, make_token: Any) -> None:
    other = {"Authorization": f"Bearer {make_token('other')}"}
    for method, path in (
        ("GET", "accounts"),
        ("POST", "users"),
        ("POST", "orgs"),
        ("POST", "tokens"),
        ("PUT", "faults"),
    ):
        assert raw.request(method, f"/api/hubkit/{path}", headers=other, json={}).status_code == 403
        assert httpx.request(method, f"{raw.base_url}/api/hubkit/{path}", json={}).status_code == 401
    listed = raw.get("/api/hubkit/accounts").text
    assert "other" in listed and other["Authorization"].removeprefix("Bearer ") not in listed
