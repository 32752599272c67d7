"""Fuzz targets of the embedded Hub: bodies of requests, and repos that are damaged."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

from fuzz_parsers import JSON_WORDS
from fuzz_samples import Run


class App:
    """The embedded Hub's application in this process, called as a server calls it."""

    def __init__(self, folder: Path) -> None:
        from hubkit.server.accounts.accounts import OWNER
        from hubkit.server.app import build
        from hubkit.server.hub import Hub

        self.hub = Hub(folder)
        self.app = build(self.hub)
        self.token = self.hub.accounts.add_token(OWNER)
        self.loop = asyncio.new_event_loop()

    def call(
        self, method: str, path: str, body: bytes = b"", *, media: str = "application/json", token: bool = True
    ) -> tuple[int, bytes]:
        """Status and body of the answer. An exception that the application does not handle comes out here."""
        address, _, query = path.partition("?")
        headers = [
            (b"host", b"127.0.0.1:8750"),
            (b"content-type", media.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        if token:
            headers.append((b"authorization", f"Bearer {self.token}".encode()))
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": address, "raw_path": address.encode(), "query_string": query.encode(), "headers": headers,
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8750), "root_path": "", "state": {},
        }  # fmt: skip
        sent = False
        answer: dict[str, Any] = {"status": 0, "body": b""}

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if sent:
                await asyncio.sleep(3600)
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
            elif message["type"] == "http.response.body" and len(answer["body"]) < 2**20:
                answer["body"] += message.get("body", b"")

        self.loop.run_until_complete(self.app(scope, receive, send))
        return answer["status"], answer["body"]

    def ok(self, *args: Any, **options: Any) -> bytes:
        status, body = self.call(*args, **options)
        assert status < 300, (args[:2], status, body[:500])
        return body


def commit_body(work: Path) -> Run:
    app = App(work / "hub")
    tried = 0

    def run(content: bytes) -> None:
        nonlocal tried
        name = f"model{tried // 1000}"
        if tried % 1000 == 0:
            app.ok("POST", "/api/repos/create", json.dumps({"name": name, "organization": "hubkit"}).encode())
        tried += 1
        status, body = app.call("POST", f"/api/models/hubkit/{name}/commit/main", content, media="application/x-ndjson")
        assert 200 <= status < 500, (status, body[:500])
        if status == 200 or tried % 50 == 0:  # what it made can be read
            for path in (
                f"/api/models/hubkit/{name}",
                f"/api/models/hubkit/{name}/tree/main?recursive=1",
                f"/hubkit/{name}",
            ):
                status, body = app.call("GET", path)
                assert status == 200, (path, status, body[:500])

    return run


def commit_seeds() -> list[bytes]:
    header = {"key": "header", "value": {"summary": "s", "description": "d"}}
    operations: list[list[dict[str, Any]]] = [
        [{"key": "file", "value": {"path": "a.txt", "content": "eA==", "encoding": "base64"}}],
        [
            {"key": "file", "value": {"path": "a/b.txt", "content": "text\n"}},
            {"key": "deletedFile", "value": {"path": "a.txt"}},
        ],
        [{"key": "deletedFolder", "value": {"path": "a/"}}],
        [{"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}}],
        [{"key": "file", "value": {"path": "README.md", "content": "---\nlicense: mit\ntags: [x]\n---\n# T\n"}}],
        [{"key": "file", "value": {"path": ".gitattributes", "content": "*.bin filter=lfs\n"}}],
        [{"key": "file", "value": {"path": "config.json", "content": '{"architectures": ["X"]}'}}],
    ]
    return ["\n".join(json.dumps(line) for line in [header, *lines]).encode() for lines in operations]


COMMIT_WORDS = (
    *JSON_WORDS, b"\n", b'{"key":"header","value":{"summary":"s"}}\n', b'{"key":"file","value":{"path":"',
    b'","content":"', b'"parentCommit":"',
    b'"key":"deletedFolder"', b'"key":"lfsFile"', b'"encoding":"base64"', b"/", b"..", b".git", b"README.md",
    b".gitattributes", b"config.json",
    b"---\\n", b"a/b", b"\\\\", b"\\n", b"model-index:\\n", b"adapter_config.json",
)  # fmt: skip


def lfs_batch(work: Path) -> Run:
    app = App(work / "hub")
    app.ok("POST", "/api/repos/create", json.dumps({"name": "model", "organization": "hubkit"}).encode())
    tried = 0

    def run(content: bytes) -> None:
        nonlocal tried
        tried += 1
        path, media = "/hubkit/model.git/info/lfs/objects/batch", "application/vnd.git-lfs+json"
        status, body = app.call("POST", path, content, media=media, token=tried % 2 == 0)
        assert 200 <= status < 500, (status, body[:500])

    return run


def lfs_seeds() -> list[bytes]:
    item = {"oid": "0" * 64, "size": 12}
    return [
        json.dumps(
            {
                "operation": operation,
                "transfers": ["basic"],
                "objects": objects,
                "hash_algo": "sha256",
                "ref": {"name": "x"},
            }
        ).encode()
        for operation in ("upload", "download")
        for objects in ([item], [item] * 30, [])
    ]


PAGES = (
    "/api/models", "/api/models?full=1", "/", "/hubkit", "/api/models/hubkit/hurt",
    "/api/models/hubkit/hurt/refs?include_pull_requests=1",
    "/api/models/hubkit/hurt/tree/main?recursive=1", "/api/models/hubkit/hurt/tree/main?expand=1",
    "/api/models/hubkit/hurt/commits/main",
    "/hubkit/hurt/resolve/main/README.md", "/hubkit/hurt", "/hubkit/hurt/tree/main", "/hubkit/hurt/commits/main",
    "/api/models/hubkit/whole/tree/main", "/hubkit/whole/resolve/main/README.md",
)  # fmt: skip


def damaged_repo(work: Path) -> Run:
    """Byte 0 chooses a file of a repo that gets the other bytes, or an object that is stored soundly and read."""
    app = App(work / "hub")
    for name in ("hurt", "whole"):
        app.ok("POST", "/api/repos/create", json.dumps({"name": name, "organization": "hubkit"}).encode())
        for number in range(3):
            lines = [
                {"key": "header", "value": {"summary": f"commit {number}"}},
                {"key": "file", "value": {"path": "README.md", "content": f"---\nlicense: mit\n---\n# {number}\n"}},
                {"key": "file", "value": {"path": f"a/b{number}.json", "content": json.dumps({"n": number})}},
            ]
            app.ok("POST", f"/api/models/hubkit/{name}/commit/main", "\n".join(map(json.dumps, lines)).encode())
    repo = app.hub.store.find("model", "hubkit/hurt")
    assert repo is not None
    folder = app.hub.store.path(repo)
    safe = work / "safe.git"
    shutil.copytree(folder, safe)
    names = sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "hooks" not in path.parts
    )
    tried = 0

    def run(content: bytes) -> None:
        nonlocal tried
        tried += 1
        choice, rest = (content[:1] or b"\0")[0], content[1:]
        if choice < 4:
            kind = ("commit", "tree", "blob", "tag")[choice]
            raw = f"{kind} {len(rest)}\0".encode() + rest
            oid = hashlib.sha1(raw).hexdigest()
            (folder / "objects" / oid[:2]).mkdir(exist_ok=True)
            (folder / "objects" / oid[:2] / oid[2:]).write_bytes(zlib.compress(raw))
            (folder / "refs" / "heads" / "main").write_text(f"{oid}\n")
        else:
            path = folder / names[choice % len(names)]
            path.chmod(0o600)
            path.write_bytes(rest)
        try:
            for path in PAGES:
                status, body = app.call("GET", path)
                assert status in {200, 302, 307, 400, 403, 404, 409, 410, 422, 503} or (
                    status == 520 and "/hurt" in path and b"damaged" in body
                ), (path, status, body[:500])
                assert "/hurt" in path or status == 200, (path, status, body[:500])
        finally:
            shutil.rmtree(folder)
            shutil.copytree(safe, folder)

    return run


def repo_seeds() -> list[bytes]:
    author = b"author a <a@b> 1700000000 +0000\ncommitter a <a@b> 1700000000 +0000\n\nsubject\n"
    tree = b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n"
    return [
        b"\x00" + tree + author,
        b"\x00" + tree + b"parent " + b"1" * 40 + b"\n" + author,
        b"\x01" + b"100644 README.md\0" + bytes(20) + b"40000 a\0" + bytes(range(20)),
        b"\x03object " + b"1" * 40 + b"\ntype commit\ntag v1\ntagger a <a@b> 1 +0000\n\nm\n",
        *(
            bytes([choice]) + content
            for choice in range(4, 60, 3)
            for content in (b"", b"ref: refs/heads/main\n", bytes(100), b"\x78\x9c\x03")
        ),
    ]


GIT_WORDS = (
    b"tree ", b"parent ", b"author ", b"committer ", b"\n\n", b"\0", b"100644 ", b"40000 ", b"120000 ", b"160000 ",
    b"ref: refs/heads/main\n",
    b"ref: ", b"0" * 40, b"4b825dc642cb6eb9a060e54bf8d69288fbee4904", b"[core]\n", b"bare = true\n",
    b"repositoryformatversion = 9\n",
    b"[include]\npath = ", b"..", b"README.md", b" <", b"> ", b"+9999", b"^", b"# pack-refs with: peeled\n",
    b"\x78\x9c", b"gpgsig ",
)  # fmt: skip
