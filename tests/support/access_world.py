"""A Hub with repos of every kind, each full of words that say where they came from, and tokens of every kind.

It runs in the test's own process, without a socket: :meth:`World.send` calls the application.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubkit.core.fine_grained import DISCUSS, READ, WRITE, FineGrained, Scope
from hubkit.server.accounts.accounts import TokenRole
from hubkit.server.accounts.grants import Limits, Publisher
from hubkit.server.app import build
from hubkit.server.hub import Hub
from hubkit.server.repos.git import Change
from hubkit.server.repos.lfs import Pointer
from hubkit.server.repos.store import Repo, RepoType
from hubkit.server.spaces.data import Setting

WORD = re.compile(r"zq[a-z][0-9a-f]{8}|[0-9a-f]{64}|[0-9a-f]{40}")
"""The words of a repo (``zq``, what they are, which repo), and digests."""
PORT = 8750


@dataclass(frozen=True)
class Place:
    """A repo of the world: type, namespace, public, private or gated."""

    kind: RepoType
    ns: str
    state: str

    def word(self, letter: str) -> str:
        """The repo's word for one of its parts."""
        return f"zq{letter}{hashlib.sha256(repr(self).encode()).hexdigest()[:8]}"

    @property
    def name(self) -> str:
        """Its name; the old one is :attr:`old_name`."""
        return f"{self.state}-{self.word('n')}"

    @property
    def old_name(self) -> str:
        """The name it had before it was moved."""
        return f"old-{self.word('n')}"

    @property
    def id(self) -> str:
        """``namespace/name``."""
        return f"{self.ns}/{self.name}"


ONE = Place("model", "ann", "private-one")
"""The repo that tokens of one repo are for."""
PLACES = [
    *(Place("model", "ann", state) for state in ("public", "private", "gated")),
    *(Place("space", "ann", state) for state in ("private", "gated")),
    Place("dataset", "ann", "private"),
    ONE,
    Place("model", "team", "private"), Place("model", "team", "gated"), Place("space", "team", "public"),
    Place("model", "bob", "private"), Place("space", "bob", "private"),
]  # fmt: skip


@dataclass
class Words:
    """The words and digests of a repo, by who may read them."""

    seen: set[str] = field(default_factory=set)
    """With the repo's card: that it exists, names of its files, the commit of ``main``."""
    read: set[str] = field(default_factory=set)
    """With its files."""
    inspected: set[str] = field(default_factory=set)
    """With a Space's logs and the names of its secrets."""
    never: set[str] = field(default_factory=set)
    """By nobody."""


@dataclass
class Answer:
    """A response: status, headers in small letters, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """Everything that the client receives."""
        lines = "".join(f"{key}: {value}\n" for key, value in self.headers.items() if key != "x-request-id")
        return lines + self.body.decode("utf-8", "replace")


class World:
    """The Hub, its words, its tokens."""

    def __init__(self, folder: Path) -> None:
        self.hub = Hub(folder)
        self.app = build(self.hub)
        self.words: dict[Place, Words] = {}
        self.oids: dict[Place, dict[str, str]] = {}
        self.hidden: dict[Place, str] = {}
        self.tokens: dict[str, str | None] = {}
        self.loop = asyncio.new_event_loop()
        accounts = self.hub.accounts
        for user in ("ann", "bob", "reader", "writer", "boss"):
            accounts.add_user(user)
        accounts.add_org("team", members={"reader": "read", "writer": "write", "boss": "admin"})
        for place in PLACES:
            self._make(place)
        self._make_tokens()

    def repo(self, place: Place) -> Repo:
        """The repo at a place."""
        repo = self.hub.store.find(place.kind, place.id)
        assert repo is not None
        return repo

    # Repos -------------------------------------------------------------------------------------------------------

    def _make(self, place: Place) -> None:
        owner = self.hub.accounts.identify(self.hub.accounts.add_token("hubkit"))
        assert owner is not None
        hub, words, say = self.hub, Words(), place.word
        sdk = "static" if place.kind == "space" else None
        made = hub.store.create(place.kind, "bob", place.old_name, actor=owner, private=True, sdk=sdk)
        repo = hub.store.move(made, place.ns, place.name, actor=owner)
        git = hub.store.git(repo)
        large = f"large {say('l')}".encode()
        oid = hashlib.sha256(large).hexdigest()
        spooled = hub.folder.spool / oid
        spooled.write_bytes(large)
        hub.lfs.keep(spooled, repo.uid, oid, len(large))
        card = f"---\nsdk: static\n---\n# Card {say('c')}\n" if sdk else f"# Card {say('c')}\n"
        blobs = {
            "README.md": git.write_blob(card.encode()),
            f"{say('f')}.txt": git.write_blob(f"content {say('x')}".encode()),
            f"{say('f')}.bin": git.write_blob(Pointer(oid, len(large)).text()),
        }
        first = git.target("refs/heads/main")
        assert first is not None
        tree = git.write_tree(first, [Change(path, blob) for path, blob in blobs.items()])
        main = git.write_commit(tree, [first], f"message {say('m')}", "ann")
        git.move("refs/heads/main", main, first)
        branch = git.write_tree(main, [Change(f"{say('o')}.txt", git.write_blob(say("y").encode()))])
        other = git.write_commit(branch, [main], f"branch {say('e')}", "ann")
        git.move(f"refs/heads/branch-{say('b')}", other, None)
        git.tag(f"tag-{say('t')}", other, f"tagged {say('e')}", "ann")
        for number, word, base in ((1, "d", None), (2, "p", "refs/heads/main")):
            hub.discussions.insert(repo, number, f"title {say(word)}", f"said {say(word)}", "zed", base=base)
        git.move("refs/pr/2", other, None)
        hub.discussions.add_event(repo, 2, "commit", "zed", {"subject": say("p"), "oid": other})
        event = hub.discussions.add_comment(repo, 1, "zed", f"words {say('h')}")["id"]
        hub.discussions.edit_comment(repo, 1, event, by="zed", text=f"other words {say('h')}")
        hub.discussions.edit_comment(repo, 1, event, by="zed")
        self.hidden[place] = event
        earlier = hub.discussions.add_comment(repo, 1, "zed", "x")["id"]  # hidden by an earlier version of the Hub
        data = {"hidden": True, "edited": True, "latest": {"raw": "hidden"}, "history": [{"raw": f"words {say('h')}"}]}
        hub.database.run("UPDATE events SET data = ? WHERE id = ?", json.dumps(data), earlier)
        if place.kind == "space":
            hub.spaces.data.put(repo.uid, Setting(f"SECRET_{say('s')}", say("v"), secret=True, description=say("s")))
            hub.spaces.data.put(repo.uid, Setting(f"SIZE_{say('r')}", f"value {say('r')}", secret=False))
            logs = hub.folder.spaces / repo.uid
            logs.mkdir(parents=True)
            for name in ("run.log", "build.log"):
                line = {"data": f"line {say('g')}\n", "timestamp": "2026-01-01T00:00:00.000Z"}
                (logs / name).write_text(json.dumps(line) + "\n")
        hub.store.change_settings(
            repo, private=place.state.startswith("private"), gated="manual" if place.state == "gated" else ""
        )
        collection = hub.collections.create(place.ns, f"Collection {len(self.words)}", None, private=False)
        hub.collections.add(collection, place.kind, place.id, f"note {say('q')}", repo)
        words.seen = {say("n"), say("c"), say("f"), say("q"), main}
        words.read = {say(letter) for letter in "xmobtyedplr"} | {oid, other, *map(str, blobs.values())}
        words.inspected = {say("s"), say("g")}
        words.never = {say("h"), say("v")}
        self.words[place] = words
        self.oids[place] = {
            "collection": collection.slug.partition("/")[2],
            "main": main,
            "other": other,
            "lfs": oid,
            "first": first,
            "uid": repo.uid,
        }

    # Tokens ------------------------------------------------------------------------------------------------------

    def _token(self, user: str, role: TokenRole = "write", limits: Limits | None = None, **options: Any) -> str:
        return self.hub.accounts.add_token(user, role=role, limits=limits, **options)

    def _make_tokens(self) -> None:
        one = f"{ONE.ns}/{ONE.name}".upper()

        def fine(*rights: str, kind: str = "model", name: str = one, user: str = "ann") -> str:
            return self._token(user, limits=FineGrained(scopes=(Scope(kind, name, frozenset(rights)),)))

        self.tokens = {
            "nobody": None,
            "ann: read": self._token("ann", "read"),
            "ann: write": self._token("ann"),
            "ann: nothing": self._token("ann", limits=FineGrained()),
            "ann: reads one": fine(READ),
            "ann: writes one": fine(WRITE),
            "ann: one dataset of the same name": fine(READ, WRITE, kind="dataset"),
            "ann: her namespace": fine(READ, WRITE, DISCUSS, kind="user", name="Ann"),
            "ann: bob's namespace": fine(READ, WRITE, DISCUSS, kind="user", name="bob"),
            "ann: discussions": self._token("ann", limits=FineGrained(frozenset({DISCUSS}))),
            "bob": self._token("bob"),
            "bob: reads one of ann": fine(READ, WRITE, user="bob"),
            "reader of team": self._token("reader"),
            "writer of team": self._token("writer"),
            "admin of team": self._token("boss"),
            "owner": self._token("hubkit"),
            "owner: read": self._token("hubkit", "read"),
            "owner: reads one": fine(READ, user="hubkit"),
            "publisher of one": self._token("hubkit", limits=Publisher(self.repo(ONE).uid, "repo:x/y"), lives=3600),
            "publisher of a deleted repo": self._token("hubkit", limits=Publisher("0" * 32), lives=3600),
            "revoked": self._token("ann", value="hf_revoked" + "x" * 30, label="revoked"),
            "expired": self._token("ann", lives=0),
            "unknown": "hf_" + "u" * 34,
        }
        for token in self.hub.accounts.tokens("ann"):
            if token["label"] == "revoked":
                assert self.hub.accounts.revoke_token("ann", token["id"])

    def cookie(self, who: str) -> str:
        """The cookie of a browser that was logged in with a token."""
        key = self.hub.sessions.key(str(self.tokens[who]), "/")
        redeemed = self.hub.sessions.redeem(key)
        assert redeemed is not None
        return f"hubkit_{PORT}={redeemed[0]}"

    # Requests ----------------------------------------------------------------------------------------------------

    def send(
        self, method: str, path: str, *, token: str | None = None, body: Any = None, query: str = "",
        headers: Mapping[str, str] | None = None, meanwhile: Callable[[], object] | None = None,
    ) -> Answer:  # fmt: skip
        """The application's response to one request; ``body`` is sent as JSON unless it is bytes.

        ``meanwhile`` is called once: when half of the body was sent, or without one when the response has begun.
        """
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"host": f"127.0.0.1:{PORT}", "content-length": str(len(content)), **(headers or {})}
        sent |= {"authorization": f"Bearer {token}"} if token else {}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(key.lower().encode(), value.encode()) for key, value in sent.items()],
            "server": ("127.0.0.1", PORT), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        return self.loop.run_until_complete(self._call(scope, content, meanwhile))

    async def _call(self, scope: dict[str, Any], content: bytes, meanwhile: Callable[[], object] | None) -> Answer:
        parts: list[bytes] = []
        answer = Answer(0, {}, b"")
        half = len(content) // 2
        bodies: list[dict[str, Any]] = [{"type": "http.request", "body": content[half:], "more_body": False}]
        bodies += [{"type": "http.request", "body": content[:half], "more_body": True}] if half else []
        waiting = [meanwhile] if meanwhile else []
        ended = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if len(bodies) == 1 and half and waiting:
                await asyncio.to_thread(waiting.pop())
            if bodies:
                return bodies.pop()
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {key.decode().lower(): value.decode() for key, value in message["headers"]}
            else:
                parts.append(message.get("body", b""))
                if parts[-1] and waiting:
                    await asyncio.to_thread(waiting.pop())
                if not message.get("more_body"):
                    ended.set()

        await self.app(scope, receive, send)  # type: ignore[arg-type]
        answer.body = b"".join(parts)
        return answer


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """A world for as long as the block lasts."""
    made = World(folder)
    try:
        yield made
    finally:
        made.loop.run_until_complete(made.loop.shutdown_default_executor())
        made.loop.close()
        made.hub.close()
