"""What is fuzzed: everything that reads what strangers wrote. Each target raises when an input was too much for it.

``HubkitError`` and its like are answers; any other exception, a signal, 2 s of processor time or 3 GiB are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import shutil
import struct
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzzing import CORPUS, ROOT, Target

Run = Callable[[bytes], None]


def kept(name: str) -> list[bytes]:
    """The inputs that are kept of a target; some are packed."""
    files = sorted((CORPUS / name).glob("*")) if (CORPUS / name).is_dir() else []
    return [gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in files]


def files(*patterns: str) -> list[bytes]:
    return [path.read_bytes() for pattern in patterns for path in sorted(ROOT.glob(pattern)) if path.is_file()]


# --- texts


def front_matter(work: Path) -> Run:
    from hubkit.cards.lint import lint_file
    from hubkit.checks.model.files import card_of
    from hubkit.checks.source import FolderSource
    from hubkit.core.errors import HubkitError
    from hubkit.server.repos import metadata

    folder = work / "model"
    folder.mkdir()
    source = FolderSource(folder)

    tried = 0

    def run(content: bytes) -> None:
        nonlocal tried
        tried += 1
        text = content.decode("utf-8", "surrogateescape")
        with contextlib.suppress(metadata.MetadataError):
            metadata.read(text)
        for kind in ("models", "datasets", "spaces"):
            metadata.check(text, kind)
        metadata.body(text)
        if tried % 8 == 0:  # all the rest of a card takes fifty times as long
            with contextlib.suppress(HubkitError):
                lint_file(text, "README.md")
        (folder / "README.md").write_bytes(content)
        card_of(source, [])

    return run


def card_seeds() -> list[bytes]:
    cards = [card[:3000] for card in files("tests/lint_cards/*.md")]
    heads = [
        "license: apache-2.0\nbase_model: me/base\ntags: [a, b]\ndatasets:\n- x/y\nlanguage: [en, 'no']\n",
        "model-index:\n- name: m\n  results:\n  - task: {type: t}\n    dataset: {name: d, type: d}\n"
        "    metrics:\n    - {type: acc, value: 0.5, name: n}\n",
        "a: &x [1, 2]\nb: *x\nc: !!int '3'\nd: |\n  text\n  more\ne: >-\n  folded\n? key\n: value\n",
        "title: S\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\ncolorFrom: blue\npinned: false\n",
        "m: {<<: {a: 1}, b: 2}\ndate: 2024-01-01\nn: 1e3\nh: 0x1f\ns: 190:20:30\nbool: on\n",
    ]
    return cards + [f"---\n{head}---\n# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n".encode() for head in heads]


YAML_WORDS = (
    b"---\n", b"- ", b"? ", b": ", b"[", b"]", b"{", b"}", b"&a ", b"*a", b"!!", b"!!int ", b"!!binary ",
    b"!!python/name:os",
    b"!!set ", b"!!omap ", b"!!timestamp ", b"!<x> ", b"|\n", b">-\n", b"'", b'"', b"<<: ", b"%YAML 1.1\n",
    b"...\n", b"#",
    b"\t", b"  ", b"\\u", b"\\x", b"a: ", b"0x", b"0b1", b"1_0", b"1:2:3", b".inf", b"~", b"base_model: ",
    b"license: ", b"- - ",
)  # fmt: skip
MARKDOWN_WORDS = (
    b"|",
    b"|---|",
    b"# ",
    b"```python\n",
    b"```",
    b"<!--",
    b"-->",
    b"<details>",
    b"](",
    b"![",
    b"> ",
    b"* ",
    b"1. ",
)


def recipe(work: Path) -> Run:
    from hubkit.core.errors import HubkitError
    from hubkit.recipe.loading import read_recipe

    path = work / "hubkit.yaml"

    def run(content: bytes) -> None:
        path.write_bytes(content)
        try:
            read_recipe(path)
        except HubkitError as error:
            assert len(str(error)) < 1_000_000

    return run


def recipe_seeds() -> list[bytes]:
    return files(
        "stages/hubkit_stages/recipes/*/hubkit.yaml",
        "stages/hubkit_stages/recipes/*/*.yaml",
        "tests/data/recipes/*.yaml",
    )


def manifest(work: Path) -> Run:
    from hubkit.core.errors import HubkitError
    from hubkit.publishing.manifest import Provenance, parse_manifest

    def run(content: bytes) -> None:
        try:
            parse_manifest(content)
        except HubkitError as error:
            assert len(str(error)) < 100_000
        Provenance.parse(content)

    return run


def manifest_seeds() -> list[bytes]:
    entry = {"path": "a", "size": 1, "sha256": "0" * 64, "git": "0" * 40}
    small = {
        "schema": 1,
        "files": [entry, {**entry, "path": "b/c"}],
        "hubkit": "0.1.0",
        "branch": "main",
        "release": "x",
    }
    return [*files("tests/data/published-0.1.0/manifest.json"), json.dumps(small).encode()]


JSON_WORDS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b'{"a":', b'[[', b'"path":', b'"size":', b'"sha256":', b'"files":',
    b"null",
    b"1e400", b"-1", b"\\ud800", b"\\u0000", b"1E5", b"0.1", b"Infinity", b'"__metadata__":', b'"schema":',
)  # fmt: skip


# --- safetensors


def safetensors(work: Path) -> Run:
    from safetensors import SafetensorError, deserialize

    from hubkit.core.errors import HubkitError
    from hubkit.models.tensors import open_header
    from hubkit.server.repos.safetensors import parameters

    count = getattr(parameters, "__wrapped__", parameters)
    path = work / "model.safetensors"

    def run(content: bytes) -> None:
        """``content``: one byte that says how long the header claims to be, one for the data's size, the header."""
        odd, size, header = content[:1] or b"\0", (content[1:2] or b"\0")[0], content[2:]
        length = {0xFF: 2**63, 0xFE: len(header) + 1, 0xFD: 0, 0xFC: 2**31}.get(odd[0], len(header))
        whole = struct.pack("<Q", length) + header + bytes(size * 2)
        sound = True
        try:
            open_header(io.BytesIO(whole), "model.safetensors")
        except HubkitError as error:
            sound = False
            assert len(str(error)) < 100_000
        path.write_bytes(whole)
        count(path)
        if sound:
            try:
                deserialize(whole)
            except SafetensorError as error:
                raise AssertionError(f"accepted, and the library refuses it: {error}") from error

    return run


def safetensors_seeds() -> list[bytes]:
    def tensor(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}

    headers = [
        {},
        {"__metadata__": {"format": "pt"}},
        {"a": tensor(0, 8, [2])},
        {"a": tensor(0, 8, [1, 2]), "b": tensor(8, 12, [2], "BF16"), "__metadata__": {"x": "y"}},
        {"a": tensor(0, 0, [0, 5]), "model.layers.0.self_attn.q_proj.weight": tensor(0, 4, [2, 1], "F16")},
    ]
    sizes = [0, 0, 4, 6, 2]
    return [
        bytes([0, size]) + json.dumps(header, separators=(",", ":")).encode()
        for header, size in zip(headers, sizes, strict=True)
    ]


SAFETENSORS_WORDS = (
    *JSON_WORDS, b'"dtype":"F32"', b'"dtype":"', b'"shape":[', b'"data_offsets":[', b"BF16", b"I64", b"F8_E4M3",
    b"F4", b"BOOL", b"0,0",
)  # fmt: skip


# --- chat templates


class TimeUp(BaseException):
    """A template took longer than a hundredth of what the sandbox's child may take."""


FORBIDDEN = (
    "open",
    "os.",
    "subprocess.",
    "socket.",
    "import",
    "exec",
    "ctypes.",
    "shutil.",
    "pty.",
    "code.__new__",
    "glob.",
)
"""Events of Python's audit hooks that no template may cause."""


def chat_template(work: Path) -> Run:
    """In this process, each event that a template must not cause is an error; every 300th input in the real child."""
    import signal

    from hubkit.core.errors import HubkitError
    from hubkit.models.chat import sandbox
    from hubkit.models.chat.rendering import render_untrusted

    talk = [
        {"role": "system", "content": "S"}, {"role": "user", "content": "Hé <b>"},
        {"role": "assistant", "content": "A"},
    ]  # fmt: skip
    requests = [
        {"messages": talk, "add_generation_prompt": False},
        {"messages": talk[:2], "add_generation_prompt": True},
    ]
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    caused: list[str] = []
    rendering = threading.local()

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if getattr(rendering, "on", False) and event.startswith(FORBIDDEN):
            if event == "open" and str(args[0]).endswith(("<template>", ".py")):
                return  # Python shows a line of what it warns about, or of an exception that nobody can catch
            source = sys._getframe(1).f_code.co_filename
            if event != "open" and source.endswith(("jinja2/environment.py", "jinja2/debug.py")):
                return  # Jinja compiles and runs its own code
            caused.append(f"{event} {args!r:.200}")

    def up(number: int, frame: Any) -> None:
        raise TimeUp

    import unicodedata  # noqa: F401 - Python itself imports it for a name in a template that is not ASCII

    for used in (
        "{{ messages|tojson }}{{ strftime_now('%d') }}{{ lipsum() }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ []|xmlattr }}",
    ):
        sandbox.answer(
            {"template": used, "variables": variables, "requests": requests}
        )  # imported now, not while it counts
    sys.addaudithook(audit)
    signal.signal(signal.SIGVTALRM, up)
    tried = 0

    def run(content: bytes) -> None:
        nonlocal tried
        tried += 1
        template = content.decode("utf-8", "replace")
        if tried % 300 == 0:
            with contextlib.suppress(HubkitError):
                render_untrusted(template, [(talk, True)], variables=variables, timeout=2)
        caused.clear()
        # What would take the whole memory or time of the child in one step cannot be stopped in this process.
        if (
            any(word in template for word in ("**", "range", "center", "*", "ljust", "rjust", "zfill", "format", "%"))
            and tried % 300
        ):
            template = template.replace("9" * 4, "9").replace("**", "+").replace("*", "+")
        rendering.on = True
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.2)
        try:
            sandbox.answer({"template": template, "variables": variables, "requests": requests})
        except (TimeUp, MemoryError):
            pass
        finally:
            rendering.on = False
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        assert not caused, caused[:3]

    return run


def template_seeds() -> list[bytes]:
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from hostile_words import PAYLOADS

    return [
        *files("toolkit/hubkit/models/chat/templates/*.jinja", "toolkit/hubkit/models/chat/templates/training/*.jinja"),
        *(payload.encode() for payload in PAYLOADS),
        b"{{ ''.__class__.__mro__[1].__subclasses__() }}",
        b"{% for m in messages %}{{ m.items.__globals__ }}{{ (m|attr('__class__')) }}{% endfor %}",
        b"{{ lipsum.__globals__['os'].popen('id').read() }}{{ namespace(a=1).a }}{{ joiner()() }}",
        b"{{ '{0.__class__}'.format(messages) }}{{ strftime_now('%Y') }}{{ messages|map(attribute='content')|tojson }}",
        b"{% macro f(x) %}{{ f(x) or caller() }}{% endmacro %}{% call f(3) %}{{ x }}{% endcall %}",
        b"{% generation %}{{ raise_exception('no') }}{% endgeneration %}{% set ns = namespace() %}{% set ns.x = 1 %}",
    ]


JINJA_WORDS = (
    b"{{ ", b" }}", b"{% ", b" %}", b"{#", b"#}", b"{%- ", b"-%}", b"{% for m in messages %}", b"{% endfor %}",
    b"{% if ", b"{% endif %}",
    b"{% set x = ", b"__class__", b"__globals__", b"|attr('", b"')", b".format(", b"|map(attribute='", b"|tojson",
    b"|list", b"|join",
    b"messages", b"[0]", b"['content']", b".content", b"loop.index", b"namespace(", b"cycler", b"lipsum(", b"dict(",
    b"range(9)",
    b"raise_exception(", b"strftime_now('%Y')", b"{% macro f() %}", b"{% endmacro %}", b"{% include 'x' %}",
    b"{% import 'x' as y %}",
    b"{% extends 'x' %}", b"{% block b %}", b"{% endblock %}", b"{% generation %}", b"{% endgeneration %}", b"~",
    b"(", b")", b"|", b"'",
    b"|selectattr('role')", b"|groupby('role')", b"|batch(2)", b"|sort", b"|xmlattr", b"|urlize", b"|wordwrap(1)",
    b"|indent(", b"|default(",
)  # fmt: skip


# --- the server


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


# --- repos on disk

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

TARGETS = {
    target.name: target
    for target in (
        Target(
            "front-matter",
            front_matter,
            lambda: [*card_seeds(), *kept("front-matter")],
            YAML_WORDS + MARKDOWN_WORDS,
            100_000,
        ),
        Target(
            "chat-template", chat_template, lambda: [*template_seeds(), *kept("chat-template")], JINJA_WORDS, 20_000
        ),
        Target(
            "safetensors-header",
            safetensors,
            lambda: [*safetensors_seeds(), *kept("safetensors-header")],
            SAFETENSORS_WORDS,
            200_000,
        ),
        Target("commit-body", commit_body, lambda: [*commit_seeds(), *kept("commit-body")], COMMIT_WORDS, 100_000),
        Target("lfs-batch", lfs_batch, lambda: [*lfs_seeds(), *kept("lfs-batch")], JSON_WORDS, 300_000),
        Target("damaged-repo", damaged_repo, lambda: [*repo_seeds(), *kept("damaged-repo")], GIT_WORDS, 4_000),
        Target("manifest", manifest, lambda: [*manifest_seeds(), *kept("manifest")], JSON_WORDS, 200_000),
        Target("recipe", recipe, lambda: [*recipe_seeds(), *kept("recipe")], YAML_WORDS, 100_000),
    )
}
