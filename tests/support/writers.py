"""What a client that writes to a Hub remembers of it: what it was told, what it had begun, and what must be found."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
from collections.abc import Callable
from typing import Any

from huggingface_hub.utils import httpx

from hubkit.server.process import Running

State = dict[str, Any]
Step = tuple[State, Callable[[], object]]
"""What will be, and the request that makes it so."""
MOST = 12
"""What a writer may have in one repo before it deletes the repo and begins another."""


class GoneError(Exception):
    """The server answers no more."""


class RefusedError(AssertionError):
    """The server answered, and it was no success."""


class Caller:
    """Requests to the Hub that runs now (:attr:`hub`), as its owner."""

    hub: Running

    def __init__(self) -> None:
        self._client = httpx.Client(verify=False, timeout=60, follow_redirects=True)

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The answer: parsed JSON, or bytes. GoneError, RefusedError."""
        if body is not None:
            more["json"] = body
        more.setdefault("headers", {"Authorization": f"Bearer {self.hub.token}"})
        url = path if path.startswith("http://") else f"{self.hub.url}{path}"
        try:
            answer = self._client.request(method, url, **more)
        except httpx.HTTPError as error:
            raise GoneError(str(error)) from error
        if not answer.is_success:
            raise RefusedError(f"{method} {path}: {answer.status_code} {answer.text[:400]}")
        return answer.json() if "json" in answer.headers.get("content-type", "") else answer.content

    def commit(self, repo: str, lines: list[tuple[str, Any]], revision: str = "main", query: str = "") -> Any:
        """A commit of these lines."""
        content = "\n".join(json.dumps({"key": key, "value": value}) for key, value in lines)
        at = f"/api/models/{repo}/commit/{revision.replace('/', '%2F')}{query}"
        return self("POST", at, content=content)

    def upload(self, repo: str, content: bytes) -> str:
        """A large file by LFS, as far as it is not there; its sha256."""
        oid = hashlib.sha256(content).hexdigest()
        batch = {"operation": "upload", "objects": [{"oid": oid, "size": len(content)}]}
        (item,) = self("POST", f"/{repo}.git/info/lfs/objects/batch", batch)["objects"]
        if "actions" in item:
            self("PUT", item["actions"]["upload"]["href"], content=content, headers={})
        return oid

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Every file at a revision."""
        listed = self("GET", f"/api/models/{repo}/tree/{revision.replace('/', '%2F')}?recursive=1")
        names = [item["path"] for item in listed if item["type"] == "file" and item["path"] != ".gitattributes"]
        return {name: self("GET", f"/{repo}/resolve/{revision.replace('/', '%2F')}/{name}") for name in names}

    def titles(self, repo: str, revision: str = "main") -> list[str]:
        """The titles of all commits of a revision, the first one last."""
        return [item["title"] for item in self("GET", f"/api/models/{repo}/commits/{revision}?limit=1000")]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def header(title: str) -> tuple[str, Any]:
    """The first line of a commit."""
    return "header", {"summary": title}


def text_file(path: str, content: bytes) -> tuple[str, Any]:
    """A line of a commit: a file that travels with it."""
    return "file", {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}


def large_file(path: str, oid: str, size: int) -> tuple[str, Any]:
    """A line of a commit: a file that was uploaded."""
    return "lfsFile", {"path": path, "algo": "sha256", "oid": oid, "size": size}


class Writer:
    """One who writes. ``told`` is what it was told is done, ``begun`` what is under way besides."""

    shy = False
    """Whether the collection of garbage, without the days of grace, may take what it has uploaded."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.draw = name, random.Random(seed)
        self.told: State = {}
        self.begun: State | None = None
        self.acknowledged = self.taken = self.refused = self.number = 0

    def next(self, call: Caller) -> Step:
        """What to do next. It may upload first."""
        raise NotImplementedError

    def read(self, call: Caller) -> State:
        """What there is."""
        raise NotImplementedError

    def title(self) -> str:
        """A title that was never used."""
        self.number += 1
        return f"{self.name} {self.number}"

    def write_until(
        self, ended: threading.Event, call: Caller, progress: Callable[[], object], *, refusals: bool
    ) -> None:
        """Write until the server is gone; ``refusals``: its requests may be refused."""
        while not ended.is_set():
            try:
                state, act = self.next(call)
                self.begun = state
                act()
            except GoneError:
                return
            except RefusedError:
                self.begun = None
                if not (refusals and self.shy):
                    raise
                self.refused += 1
                continue
            self.told, self.begun = state, None
            self.acknowledged += 1
            progress()

    def settle(self, call: Caller) -> None:
        """After a kill: nothing is lost, nothing is half."""
        found = self.read(call)
        if found != self.told:
            assert found == self.begun, difference(self.name, found, self.told, self.begun)
            self.taken += 1
        self.told, self.begun = found, None


def difference(name: str, found: State, told: State, begun: State | None) -> str:
    """What is neither what was told nor what was under way."""
    lines = [f"{name}: what is there is neither what was acknowledged nor what was under way"]
    for key in sorted({*found, *told, *(begun or {})}, key=str):
        values = [state.get(key) if state is not None else "nothing" for state in (found, told, begun)]
        if values[0] != values[1] or values[0] != values[2]:
            lines.append(f"{key}:\n  found {values[0]!r:.600}\n  told  {values[1]!r:.600}\n  begun {values[2]!r:.600}")
    return "\n".join(lines)


class InRepo(Writer):
    """A writer with one repo, which it deletes when it holds much."""

    @property
    def repo(self) -> str:
        """Its id."""
        return f"me/{self.name}"

    def next(self, call: Caller) -> Step:
        if not self.told:
            order = {"name": self.repo}
            return self.empty(), lambda: call("POST", "/api/repos/create", order)
        if self.size() > MOST:
            order = {"name": self.name, "organization": "me"}
            return {}, lambda: call("DELETE", "/api/repos/delete", order)
        return self.change(call)

    def empty(self) -> State:
        """The state of a new repo."""
        return {"files": {}, "titles": ["initial commit"]}

    def size(self) -> int:
        """How much the repo holds."""
        return len(self.told["titles"])

    def change(self, call: Caller) -> Step:
        """What to do next in the repo that there is."""
        raise NotImplementedError

    def read(self, call: Caller) -> State:
        if not any(item["id"] == self.repo for item in call("GET", "/api/models?author=me&limit=1000")):
            return {}
        return self.seen(call)

    def seen(self, call: Caller) -> State:
        """What there is in the repo."""
        return {"files": call.files(self.repo), "titles": call.titles(self.repo)}


SHARED = [random.Random(number).randbytes(9000 + number) for number in range(4)]
"""Contents that several writers upload, each to its own repo."""
