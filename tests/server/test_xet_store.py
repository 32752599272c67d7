"""The store of Xet in one process: its hashes, any bytes as xorbs and shards, and a crash at each step of an upload."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xet_wire import file_record, named, shard, xorb

from hubkit.core.errors import UsageError
from hubkit.server.fsck import fsck
from hubkit.server.hub import Hub
from hubkit.server.repos.store import Repo
from hubkit.server.storage.database import Database
from hubkit.server.xet import intake, pending, shards, xorbs
from hubkit.server.xet.hashes import file_hash, from_hex, to_hex, xorb_hash
from hubkit.server.xet.intake import Sender
from hubkit.server.xet.pending import mapped

A = "cfc5d07f6f03c29bbf424132963fe08d19a37d5757aaf520bf08119f05cd56d6"
B = "c3e67584b5c4fc2a89837ec39e40f2c8a6bb0b2987ac94cd4b31e5fbdd210a72"
C = "0d2beb91b9196929a5ddec9f6e306924ddf4a24268e3e59fd8464738d525af37"
D = "adf8773496a9b7319b2e50dc98093f344053b17d8ad37100b9c07d9805988784"


@pytest.mark.parametrize(
    ("chunks", "of_xorb", "of_file"),
    [
        ([], "0" * 64, "0" * 64),
        ([(A, 100)], A, "8e16257caa3fe079d484d872a8975264b2ff683b0d6db9028cc7c0f968a45661"),
        (
            [(A, 100), (B, 200), (C, 300)],
            "71ec1275fca074724e2dd666921b3277c7cee603e4d025bcab2d4050015be2bc",
            "54e55dccc6653c612bdb5576c5d3cb34bb31bc4e100248abccf4c908b3ef7715",
        ),
        (
            [(A, 100), (B, 200), (A, 100), (B, 200), (C, 300), (D, 400)],
            "52c826f99507aa05d0b45e9837fa1709e0485425cfbcb1e80db3905cf98b3ee9",
            "91d21684db364c8883ab8209fa5eb2e781cf07f37e1fa43e731c30839afe422f",
        ),
    ],
)
def test_hashes_are_those_of_the_specification(chunks: list[tuple[str, int]], of_xorb: str, of_file: str) -> None:
    given_chunks = [(from_hex(digest), size) for digest, size in chunks]
    assert to_hex(xorb_hash(given_chunks)) == of_xorb
    assert to_hex(file_hash(given_chunks)) == of_file


def some_chunks(count: int, seed: int) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(200 + number) for number in range(count)]


SOUND_XORB = xorb(some_chunks(3, 1), 1) + xorb(some_chunks(2, 2), 2) + xorb(some_chunks(2, 3))
SOUND_SHARD = shard(
    *(file_record([(bytes(32), 0, 3, named(some_chunks(3, 4)))], sha256=sha256) for sha256 in ("1" * 64, None))
)


@st.composite
def changed(draw: Any, sound: bytes) -> bytes:
    """Bytes with some of them exchanged, removed or added."""
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        content[place : place + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(content)


@given(changed(SOUND_XORB) | st.binary(max_size=200))
def test_any_bytes_are_a_xorb_or_refused(body: bytes) -> None:
    try:
        found = xorbs.named(memoryview(body))
    except UsageError:
        return
    assert found and all(0 < chunk.length <= xorbs.LONGEST_CHUNK for _, chunk in found)


@given(changed(SOUND_SHARD) | st.binary(max_size=200))
def test_any_bytes_are_a_shard_or_refused(body: bytes) -> None:
    try:
        found = [list(record.terms()) for record in shards.files(memoryview(body))]
    except UsageError:
        return
    assert all(term.end > term.start for terms in found for term in terms)


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], tuple[Hub, Repo]]]:
    """Open the data folder as a start does, with one repo in it."""
    hubs: list[Hub] = []

    def open_hub() -> tuple[Hub, Repo]:
        hub = Hub(tmp_path / "hub")
        hubs.append(hub)
        hub.folder.sweep(hub.store.uids())
        hub.lfs.sweep()
        hub.xet.sweep()
        actor = hub.accounts.identify(hub.folder.owner_token.read_text().strip())
        assert actor is not None
        repo = hub.store.find("model", "hubkit/a") or hub.store.create(
            "model", "hubkit", "a", actor=actor, private=True
        )
        return hub, repo

    yield open_hub
    for hub in hubs:
        hub.close()


def upload(hub: Hub, repo: Repo, chunks: list[bytes], *, part: int, token: str = "0" * 32) -> None:
    """Upload chunks as a xorb and two files that share them, as a client does who knows of no xorb."""
    sender = Sender(token, repo.uid, lambda uid: uid == repo.uid)
    parts, spool = named(chunks), hub.folder.spool
    (spool / "xorb").write_bytes(xorb(chunks))
    hub.xet.pending.keep(sender.token, spool / "xorb", xorb_hash(parts))
    (spool / "xorb").unlink(missing_ok=True)
    digest = xorb_hash(parts)
    records = [
        file_record([(digest, 0, part, parts[:part])], sha256=hashlib.sha256(b"".join(chunks[:part])).hexdigest()),
        file_record([(digest, part - 1, len(parts), parts[part - 1 :])]),
    ]
    (spool / "shard").write_bytes(shard(*records))
    hub.xet.intake.register(spool / "shard", sender)


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.soak)])
def test_after_a_crash_at_any_step_an_upload_is_done_again(
    opened: Callable[[], tuple[Hub, Repo]], monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """SQLite's way: crash at the first step, at the second, until an upload has no step left to crash at."""
    left = 0
    replace, run, unlink = Path.replace, Database.run, Path.unlink

    def step(work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Crash
            return work(*args, **more)

        return counted

    for number in range(1, 400, every):
        hub, repo = opened()
        chunks = some_chunks(6, number)
        with monkeypatch.context() as patch:
            for owner, name, work in ((Path, "replace", replace), (Database, "run", run), (Path, "unlink", unlink)):
                patch.setattr(owner, name, step(work))
            left = number
            try:
                upload(hub, repo, chunks, part=4)
                crashed = False
            except Crash:
                crashed = True
            left = 0
        hub.close()
        hub, repo = opened()
        assert fsck(hub.folder.root) == [], number
        upload(hub, repo, chunks, part=4)
        stored = {str(item["oid"]) for item in hub.lfs.listed(repo.uid)}
        wanted = [b"".join(chunks[:4]), b"".join(chunks[3:])]
        assert {hashlib.sha256(content).hexdigest() for content in wanted} <= stored
        assert not hub.xet.pending.chunks("0" * 32, xorb_hash(named(chunks)))
        assert fsck(hub.folder.root) == []
        hub.close()
        if not crashed:
            break
    assert number > 15


def test_a_full_disk_is_found_first(opened: Callable[[], tuple[Hub, Repo]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard may name far more than was sent, by naming the same chunks again: what cannot be stored is not begun."""
    hub, repo = opened()
    chunks = [bytes([number]) * 100_000 for number in range(5)]
    parts, digest = named(chunks), xorb_hash(named(chunks))
    sender = Sender("0" * 32, repo.uid, lambda uid: True)
    (hub.folder.spool / "xorb").write_bytes(xorb(chunks))
    hub.xet.pending.keep(sender.token, hub.folder.spool / "xorb", digest)
    (hub.folder.spool / "shard").write_bytes(shard(file_record([(digest, 0, 5, parts)] * 20, proofs=False)))
    with monkeypatch.context() as patch:
        free = type("Free", (), {"f_bavail": 1000, "f_frsize": 4096})()
        patch.setattr("os.statvfs", lambda path: free)
        with pytest.raises(OSError, match="no space left"):
            hub.xet.intake.register(hub.folder.spool / "shard", sender)
    assert not list(hub.folder.lfs.rglob("*"))


def test_an_older_data_folder_opens(opened: Callable[[], tuple[Hub, Repo]]) -> None:
    """One without the tables and the folder of Xet."""
    hub, _ = opened()
    hub.close()
    with sqlite3.connect(hub.folder.database) as database:
        for table in ("xet_chunks", "xet_terms", "xet_parts", "xet_files"):
            database.execute(f"DROP TABLE {table}")
    hub.folder.xet.rmdir()
    hub, repo = opened()
    upload(hub, repo, some_chunks(6, 0), part=4)
    assert fsck(hub.folder.root) == []


def test_xorbs_that_nobody_asks_for_expire(opened: Callable[[], tuple[Hub, Repo]]) -> None:
    """Clients get another address then: they may believe that the xorb is here."""
    hub, _ = opened()
    for number in (1, 2):
        (hub.folder.spool / "xorb").write_bytes(xorb(some_chunks(2, number)))
        hub.xet.pending.keep("0" * 32, hub.folder.spool / "xorb", xorb_hash(named(some_chunks(2, number))))
    address, old = hub.xet.index.address("x"), next(hub.folder.xet.glob("pending/*/*[0-9a-f]"))
    os.utime(old, (0, 0))
    hub.xet.expire()
    left = sorted(path.name for path in hub.folder.xet.glob("pending/*/*"))
    assert len(left) == 2 and old.name not in left[0] and hub.xet.index.address("x") != address


def test_a_xorb_is_read_in_little_memory(tmp_path: Path) -> None:
    """Four clients may send 64 MiB at once: what was read of a mapped file is given back while it is read."""
    (tmp_path / "xorb").write_bytes(xorb([bytes([number % 256]) * 131_072 for number in range(500)]))
    process, highest = psutil.Process(), 0
    before = process.memory_info().rss
    body = mapped(tmp_path / "xorb")
    for _ in xorbs.contents(body, list(xorbs.heads(body))):
        highest = max(highest, process.memory_info().rss - before)
    assert highest < 2**25


def test_a_small_shard_does_not_name_millions_of_chunks(opened: Callable[[], tuple[Hub, Repo]]) -> None:
    """It is refused by its terms alone, before a chunk is looked at."""
    hub, repo = opened()
    chunks = [bytes([number % 256]) for number in range(8192)]
    parts, digest = named(chunks), xorb_hash(named(chunks))
    sender = Sender("0" * 32, repo.uid, lambda uid: True)
    (hub.folder.spool / "xorb").write_bytes(xorb(chunks))
    hub.xet.pending.keep(sender.token, hub.folder.spool / "xorb", digest)
    bomb = shard(file_record([(digest, 0, 8192, parts)] * 300, name=bytes(32), proofs=False))
    assert len(bomb) < 15_000
    (hub.folder.spool / "shard").write_bytes(bomb)
    with pytest.raises(UsageError, match="Upload fewer files at once"):
        hub.xet.intake.register(hub.folder.spool / "shard", sender)


def test_what_a_shard_costs_is_bounded(opened: Callable[[], tuple[Hub, Repo]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Terms of one chunk each, of many xorbs in turn: each is walked once, and terms and time are bounded."""
    hub, repo = opened()
    sender, spool = Sender("0" * 32, repo.uid, lambda uid: True), hub.folder.spool
    kept: list[tuple[bytes, list[tuple[bytes, int]]]] = []
    for number in range(20):
        chunks = [bytes([number, part]) for part in range(50)]
        kept.append((xorb_hash(named(chunks)), named(chunks)))
        (spool / "xorb").write_bytes(xorb(chunks))
        hub.xet.pending.keep(sender.token, spool / "xorb", kept[-1][0])
    walked: list[memoryview] = []
    monkeypatch.setattr(pending, "heads", lambda body: walked.append(body) or xorbs.heads(body))
    in_turn = [(kept[number % 20][0], number % 50, number % 50 + 1, kept[number % 20][1][number % 50 :][:1])
               for number in range(2000)]  # fmt: skip
    (spool / "shard").write_bytes(shard(file_record(in_turn)))
    hub.xet.intake.register(spool / "shard", sender)
    assert len(walked) == 20
    digest, parts = kept[0]
    many = [(digest, 0, 1, parts[:1])] * 40_000
    (spool / "shard").write_bytes(shard(file_record(many, name=bytes(32), proofs=False)))
    with pytest.raises(UsageError, match="may have 32,768 terms"):
        hub.xet.intake.register(spool / "shard", sender)
    monkeypatch.setattr(intake, "_SECONDS", 0.0)
    (spool / "shard").write_bytes(shard(file_record(in_turn[1:])))
    with pytest.raises(UsageError, match="in too many places"):
        hub.xet.intake.register(spool / "shard", sender)
    assert {path.name for path in spool.iterdir()} == {"shard"}


def test_a_file_that_a_shard_names_again_is_put_together_once(
    opened: Callable[[], tuple[Hub, Repo]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is there more time for it: a few bytes would name terabytes."""
    hub, repo = opened()
    sender, spool = Sender("0" * 32, repo.uid, lambda uid: uid == repo.uid), hub.folder.spool
    contents, chunks = list[str](), some_chunks(4, 9)
    parts, digest = named(chunks), xorb_hash(named(chunks))
    put_together = intake.Intake._content

    def content(own: intake.Intake, record: shards.FileRecord, sender: Sender) -> str:
        contents.append(put_together(own, record, sender))
        return contents[-1]

    monkeypatch.setattr(intake.Intake, "_content", content)
    sha256, other = hashlib.sha256(b"".join(chunks) * 4).hexdigest(), hashlib.sha256(chunks[0]).hexdigest()
    same = file_record([(digest, 0, 4, parts)] * 4, sha256=sha256)
    (spool / "xorb").write_bytes(xorb(chunks))
    hub.xet.pending.keep(sender.token, spool / "xorb", digest)
    (spool / "shard").write_bytes(shard(*[same] * 20, file_record([(digest, 0, 1, parts[:1])], sha256=other), same))
    monkeypatch.setattr(intake, "_TOGETHER", 50)  # so that the index is told in between
    size = 4 * sum(map(len, chunks))
    assert intake._require_little(shards.files(mapped(spool / "shard"))) == size + len(chunks[0])
    hub.xet.intake.register(spool / "shard", sender)
    assert contents == [sha256, other]
    assert {item["oid"]: item["size"] for item in hub.lfs.listed(repo.uid)} == {sha256: size, other: len(chunks[0])}
    assert not hub.xet.pending.chunks(sender.token, digest) and fsck(hub.folder.root) == []
    lie = file_record([(digest, 0, 4, parts)] * 4, sha256=other)
    (spool / "shard").write_bytes(shard(same, lie))
    with pytest.raises(UsageError, match="has another sha256"):
        hub.xet.intake.register(spool / "shard", sender)


def test_a_xorb_of_many_files_is_found_in_the_one_that_may_be_read(opened: Callable[[], tuple[Hub, Repo]]) -> None:
    hub, repo = opened()
    upload(hub, repo, some_chunks(6, 7), part=4)
    digest = xorb_hash(named(some_chunks(6, 7)))
    (row,) = [place for place in hub.xet.index.places(digest, 0) if place.last == 4]
    for number in range(250):  # files of others
        other = f"{number:064x}"
        hub.database.run("INSERT INTO xet_files (hash, oid) VALUES (?, ?)", other, other)
        hub.database.run("INSERT INTO xet_terms VALUES (?, 0, 4, ?, 0)", to_hex(digest), other)
    assert len(list(hub.xet.index.places(digest, 3))) == 252, "and the one that begins with this chunk"
    sender = Sender("0" * 32, repo.uid, lambda uid: uid == repo.uid)
    runs = hub.xet.intake._find(digest, 0, 6, sender, stored=True)
    assert runs is not None and [(run.oid == row.oid, len(run.chunks)) for run in runs] == [(True, 4), (False, 2)]


def test_an_upload_costs_the_same_whether_a_private_repo_has_the_file_or_not(
    opened: Callable[[], tuple[Hub, Repo]],
) -> None:
    """Who may not read that repo has the file put together again; who may has not."""
    hub, repo = opened()
    actor = hub.accounts.identify(hub.folder.owner_token.read_text().strip())
    assert actor is not None
    other = hub.store.create("model", "hubkit", "b", actor=actor, private=True)

    def numbers() -> list[int]:
        return sorted(path.stat().st_ino for path in hub.folder.lfs.rglob("*") if path.is_file())

    upload(hub, repo, some_chunks(6, 8), part=4)
    first = numbers()
    upload(hub, repo, some_chunks(6, 8), part=4)
    assert numbers() == first and len(first) == 2
    with ExitStack() as held:  # so that no new file gets the number of an old one
        for path in hub.folder.lfs.rglob("*"):
            if path.is_file():
                held.enter_context(path.open("rb"))
        upload(hub, other, some_chunks(6, 8), part=4, token="1" * 32)
        assert not set(numbers()) & set(first)
