"""The server is killed (`kill -9`) at random moments while many write to it: nothing is lost, nothing is half there.

25 kills in `make test`, five times 100 in `make soak`. After each: the folder opens, `fsck` finds nothing, nothing of
what was on its way is left, and each writer finds what it was told is done, byte for byte, with all or nothing of what
was not.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from forked_hubs import ForkedHubs
from real_git import Git, address, git, needs_git
from soak_figures import record
from writers import Caller, InRepo, RefusedError, State, Step, Writer
from writing_load import Commits, Pulls, Refs, Repos, Rows
from xet_uploads import XetUploads

from hubkit.core.errors import HubkitError
from hubkit.server import process
from hubkit.server.backup import backup, restore
from hubkit.server.fsck import fsck
from hubkit.server.garbage import collect
from hubkit.server.process import Running

pytestmark = [needs_git, pytest.mark.fault("F1")]
__all__ = ["git"]
Record = Callable[[str, object], None]
MOST_WRITES, PATIENCE = 12, 20.0
"""A kill comes after fewer acknowledged writes than these, and after so many seconds on a busy machine."""


class Xet(InRepo):
    """Uploads by Xet, as huggingface_hub does by itself. What is new of a file is sent, the rest is known."""

    shy = True

    def __init__(self, name: str, seed: int, uploads: XetUploads) -> None:
        super().__init__(name, seed)
        self.uploads, self.ended = uploads, threading.Event()
        self.body = self.draw.randbytes(250_000)

    def change(self, call: Caller) -> Step:
        title, files = self.title(), dict(self.told["files"])
        place = self.draw.randrange(len(self.body))
        self.body = self.body[:place] + self.draw.randbytes(70_000) + self.body[place + 60_000 :]
        path = f"w{self.number}.safetensors"
        deleted = [next(iter(files))] if len(files) > 2 else []
        order = {"url": call.hub.url, "token": call.hub.token, "repo": self.repo, "path": path, "title": title}
        content = self.body
        files = {name: body for name, body in files.items() if name not in deleted} | {path: content}
        state = {"files": files, "titles": [title, *self.told["titles"]]}
        return state, lambda: self._upload(call, order | {"content": content.hex(), "deleted": deleted})

    def _upload(self, call: Caller, order: dict[str, Any]) -> None:
        if error := self.uploads.upload(self.ended, **order):
            call("GET", "/api/hubkit/status")  # or the server is gone
            raise RefusedError(error)


class Pushes(Writer):
    """Pushes by git of several refs at once, with a large file now and then."""

    shy = True

    def __init__(self, name: str, seed: int, git: Git, work: Path) -> None:
        super().__init__(name, seed)
        self.git, self.work = git, work
        self.bodies: dict[str, dict[str, bytes]] = {}

    @property
    def repo(self) -> str:
        """The repo, to whose ``main`` somebody else commits meanwhile."""
        return f"me/{self.name}"

    def next(self, call: Caller) -> Step:
        self.number += 1
        (self.work / "n.txt").write_bytes(str(self.number).encode())
        if self.number % 3 == 1:
            (self.work / "w.bin").write_bytes(self.draw.randbytes(3000))
        self.git("add", "-A", at=self.work)
        self.git("commit", "-qm", str(self.number), at=self.work)
        head = self.git("rev-parse", "HEAD", at=self.work).stdout.strip()
        self.bodies[head] = {name: (self.work / name).read_bytes() for name in ("n.txt", "w.bin")}
        state, refs = {"one": head, "two": head, "t": head}, ["HEAD:one", "HEAD:two", "+HEAD:refs/tags/t"]
        if self.told and self.draw.random() < 0.25:
            gone = self.draw.choice(list(self.told))
            refs = ["HEAD:one" if gone != "one" else "HEAD:two", f":{gone if gone != 't' else 'refs/tags/t'}"]
            state = {name: commit for name, commit in self.told.items() if name != gone}
            state["one" if gone != "one" else "two"] = head
        return state, lambda: self._push(call, refs)

    def _push(self, call: Caller, refs: list[str]) -> None:
        url = address(call.hub.url, call.hub.token, self.repo)
        pushed = self.git("push", "-q", url, *refs, at=self.work, check=False)
        if pushed.returncode:
            call("GET", "/api/hubkit/status")  # or the server is gone
            raise RefusedError(pushed.stderr)

    def read(self, call: Caller) -> State:
        refs = call("GET", f"/api/models/{self.repo}/refs")
        found = {
            ref["name"]: ref["targetCommit"] for ref in [*refs["branches"], *refs["tags"]] if ref["name"] != "main"
        }
        for commit in set(found.values()):
            files = call.files(self.repo, commit)
            assert {name: files[name] for name in ("n.txt", "w.bin")} == self.bodies[commit]
        return found


class Load:
    """All writers, and backups and collections of garbage beside them."""

    def __init__(self, data: Path, seed: int, git: Git, uploads: XetUploads) -> None:
        self.data, self.draw = data, random.Random(seed)
        self.place = data.parent
        self.pushes = Pushes("pushes", seed, git, self.place / "work")
        kinds = (Commits, Refs, Pulls, Repos, Rows)
        plain = [kind(f"{kind.__name__.lower()}", seed + number) for number, kind in enumerate(kinds)]
        self.xet = Xet("xet", seed, uploads)
        self.writers: list[Writer] = [*plain, Commits("more", seed + 9), self.xet, self.pushes]
        self.calls = [Caller() for _ in self.writers]
        self.problems: list[BaseException] = []
        self.backups = self.collections = self.restored = 0
        self.last: Path | None = None

    def prepare(self, hub: Running) -> None:
        """What the writers begin with."""
        self.calls[0].hub = hub
        self.calls[0]("POST", "/api/repos/create", {"name": self.pushes.repo})
        self.pushes.git("lfs", "install", "--skip-repo", at=self.place)
        url = address(hub.url, hub.token, self.pushes.repo)
        self.pushes.git("clone", "-q", url, str(self.pushes.work), at=self.place)

    def run(self, hub: Running) -> None:
        """Write until the server is killed: at a random moment after a random number of writes."""
        server = psutil.Process(hub.pid)
        ended, enough, collecting = threading.Event(), threading.Event(), self.draw.random() < 0.15
        self.xet.ended = ended
        pairs = list(zip(self.writers, self.calls, strict=True))
        slow = self.draw.random() < 0.5  # else those that start programs would never get done
        if slow:
            pairs = pairs[-2:] + self.draw.sample(pairs[:-2], 2)
        left = iter(range(self.draw.randrange(3 if slow else MOST_WRITES)))

        def progress(writer: Writer) -> None:
            if (writer in self.writers[-2:] or not slow) and next(left, None) is None:
                enough.set()

        acts: list[Callable[[], object]] = [
            partial(writer.write_until, ended, call, partial(progress, writer), refusals=collecting)
            for writer, call in pairs
        ]
        for call in self.calls:
            call.hub = hub
        acts += [self._back_up, *[partial(self._collect, ended)] * collecting]
        threads = [threading.Thread(target=self._guarded, args=[act, enough]) for act in acts]
        for thread in threads:
            thread.start()
        enough.wait(PATIENCE)
        time.sleep(self.draw.uniform(0, 0.1))
        server.kill()
        server.wait(10)
        ended.set()
        for thread in threads:
            thread.join()
        assert not self.problems, self.problems

    def _guarded(self, act: Callable[[], object], enough: threading.Event) -> None:
        try:
            act()
        except BaseException as error:
            self.problems.append(error)
            enough.set()

    def _back_up(self) -> None:
        target = self.place / f"backup-{self.draw.randrange(10**9)}"
        try:
            backup(self.data, target, self.last)
        except HubkitError:
            assert not target.exists(), "a backup has its name only when it is complete"
            return
        self.backups += 1
        if self.last:
            shutil.rmtree(self.last)
        self.last = target

    def _collect(self, ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                collect(self.data, days=0, dry_run=False)
            except HubkitError:
                return
            self.collections += 1

    def settle(self, hub: Running) -> None:
        """After a start: all is there, and no more than that."""
        assert fsck(self.data) == []
        assert list((self.data / "tmp").iterdir()) == []
        stray = [path for path in (self.data / "git").rglob("*") if path.name.endswith(".lock") or "tmp_" in path.name]
        assert stray == []
        for writer, call in zip(self.writers, self.calls, strict=True):
            call.hub = hub
            writer.settle(call)

    def try_backup(self) -> None:
        """The last backup that was complete is a Hub without a problem."""
        if self.last is not None:
            place = self.place / "restored"
            assert restore(self.last, place) == []
            shutil.rmtree(place)
            self.restored += 1

    def figure(self, kills: int) -> str:
        """What was done."""
        told = sum(writer.acknowledged for writer in self.writers)
        taken = sum(writer.taken for writer in self.writers)
        by = ", ".join(f"{writer.name} {writer.acknowledged:,}" for writer in self.writers)
        return (
            f"{kills} kills; {told:,} writes acknowledged ({by}) and none lost; {taken} done and not acknowledged, "
            f"none half; {self.backups} backups, {self.restored} of them restored; "
            f"{self.collections} collections of garbage"
        )


@pytest.fixture(scope="module")
def uploads() -> Iterator[XetUploads]:
    uploads = XetUploads()
    yield uploads
    uploads.end()


SOAK = [pytest.param(100, part, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]) for part in range(1, 6)]


@pytest.mark.parametrize(("kills", "part"), [(25, 0), *SOAK])
def test_killed_under_writing_load(
    kills: int,
    part: int,
    forked_hubs: ForkedHubs,
    git: Git,
    uploads: XetUploads,
    tmp_path: Path,
    record_property: Record,
) -> None:
    seed = int(time.time()) if part else 7
    data, load = tmp_path / "hub", Load(tmp_path / "hub", seed, git, uploads)
    hub = forked_hubs.start(data)
    load.prepare(hub)
    for number in range(1, kills + 1):
        load.run(hub)
        hub = forked_hubs.start(data)
        try:
            load.settle(hub)
        except AssertionError as error:
            error.add_note(f"seed {seed}, kill {number}: {load.figure(number)}")
            raise
        if number % 25 == 0:
            load.try_backup()
    process.stop(data)
    record_property("figure", load.figure(kills))
    if part:
        record(f"the embedded Hub, killed -9 while eight clients write, part {part} of 5", load.figure(kills))
