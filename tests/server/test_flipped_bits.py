"""A bit that changed on the disk, in each kind of file that a Hub keeps: `fsck` names it, and no answer is wrong."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from filled_hub import fill
from forked_hubs import ForkedHubs
from huggingface_hub.utils import httpx
from real_git import needs_git
from soak_figures import record

from hubkit.core.errors import ConflictError, HubkitError
from hubkit.server import process
from hubkit.server.backup import backup, restore
from hubkit.server.fsck import fsck

pytestmark = needs_git
Record = Callable[[str, object], None]
FLIPS = pytest.mark.parametrize("flips", [1, pytest.param(25, marks=pytest.mark.soak)])
KINDS = {
    "loose git object": "git/*.git/objects/??/*", "pack": "git/*.git/objects/pack/*.pack",
    "index of a pack": "git/*.git/objects/pack/*.idx", "branch": "git/*.git/refs/heads/*",
    "tag": "git/*.git/refs/tags/*", "pull request": "git/*.git/refs/pr/*", "HEAD": "git/*.git/HEAD",
    "settings": "git/*.git/config",
    "large file": "lfs/*/*/*", "list of chunks": "xet/files/*/*", "uploaded xorb": "xet/pending/*/" + "[0-9a-f]" * 64,
    "list of an uploaded xorb": "xet/pending/*/*.chunks",
}  # fmt: skip
ADDRESSES = """
/me/model/resolve/main/README.md /me/model/resolve/main/model.safetensors /me/model/resolve/v1/config.json
/me/model/resolve/dev/docs/guide.md /me/model/resolve/refs%2Fpr%2F1/docs/guide.md /me/model/resolve/pushed/pushed.txt
/me/by-xet/resolve/main/w.bin /me/gated/resolve/main/.gitattributes /spaces/me/page/resolve/main/README.md
/datasets/team/data/resolve/main/.gitattributes /api/models/me/model/commits/main /api/models/me/model/commits/pushed
/api/models/me/model/tree/main?recursive=1 /api/models/me/model/refs
/me/model.git/info/refs?service=git-upload-pack
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, forked_hubs: ForkedHubs) -> Path:
    """The data folder of a stopped Hub that has everything."""
    place = tmp_path_factory.mktemp("filled")
    hub = forked_hubs.start(place / "hub")
    fill(hub, place / "home")
    process.stop(hub.data)
    with closing(sqlite3.connect(hub.data / "hub.sqlite")) as database:
        ((uid,),) = database.execute("SELECT uid FROM repos WHERE name = 'model'").fetchall()
    command = ["git", "-C", hub.data / "git" / f"{uid}.git", "repack", "-adq"]
    subprocess.run(command, check=True)
    return hub.data


def test_git_is_told_of_a_head_that_names_another_branch(filled: Path, forked_hubs: ForkedHubs, tmp_path: Path) -> None:
    """It would leave HEAD out, and a clone would be empty."""
    hub = forked_hubs.start(Path(shutil.copytree(filled, tmp_path / "hub")))
    address = f"{hub.url}/me/model.git/info/refs?service=git-upload-pack"
    try:
        assert b"HEAD" in httpx.get(address).raise_for_status().content
        for head in hub.data.glob("git/*.git/HEAD"):
            head.write_text("ref: refs/heads/mai\n")
        assert httpx.get(address).status_code >= 500
    finally:
        process.stop(hub.data)


@pytest.fixture(scope="module")
def right(filled: Path, forked_hubs: ForkedHubs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a sound Hub answers."""
    place = Path(shutil.copytree(filled, tmp_path_factory.mktemp("right") / "hub"))
    return {path: answer.content for path, answer in answers(place, forked_hubs)}


def answers(data: Path, forked_hubs: ForkedHubs) -> Iterator[tuple[str, httpx.Response]]:
    """What the Hub of a folder answers to each address."""
    hub = forked_hubs.start(data)
    headers = {"Authorization": f"Bearer {hub.token}"}
    try:
        with httpx.Client(base_url=hub.url, headers=headers, timeout=20, follow_redirects=True) as client:
            for path in ADDRESSES.split():
                yield path, client.get(path)
    finally:
        process.stop(data)


def look(data: Path, right: dict[str, bytes], forked_hubs: ForkedHubs, what: object) -> int:
    """Each answer is right or says that something is damaged; how many are right."""
    sound = 0
    for address, answer in answers(data, forked_hubs):
        assert answer.content == right[address] or answer.status_code >= 400, (what, address)
        assert answer.status_code != 500, (what, address)
        sound += answer.content == right[address]
    return sound


def inflated(body: bytes | bytearray) -> bytes | None:
    """What a file holds that is compressed as a loose git object; None for others."""
    try:
        return zlib.decompress(body)
    except zlib.error:
        return None


def flip(path: Path, draw: random.Random) -> int:
    """Change one bit of a file; which byte it is in. Not one of the few bits that zlib fills its last byte with."""
    sound = path.read_bytes()
    body, unpacked = bytearray(sound), inflated(sound)
    while body == sound or (unpacked is not None and inflated(body) == unpacked):
        body[:] = sound
        place = draw.randrange(len(body))
        body[place] ^= 1 << draw.randrange(8)
    path.chmod(0o600)
    path.write_bytes(body)
    return place


@FLIPS
def test_a_bit_in_each_kind_of_file(
    filled: Path, right: dict[str, bytes], forked_hubs: ForkedHubs, tmp_path: Path, flips: int, record_property: Record
) -> None:
    draw, together = random.Random(5), Path(shutil.copytree(filled, tmp_path / "together"))
    for kind, pattern in KINDS.items():
        for number in range(flips):
            data = Path(shutil.copytree(filled, tmp_path / f"{kind}-{number}", symlinks=True))
            path = draw.choice(sorted(data.glob(pattern)))
            place = flip(path, draw)
            problems = fsck(data)
            name = path.name if "objects" not in path.parts or path.suffix else f"{path.parent.name}{path.name}"
            assert problems, (kind, place)
            if kind not in {"branch", "tag", "pull request", "HEAD", "settings"}:
                stem = name.removesuffix(".chunks").removesuffix(".pack").removesuffix(".idx")
                assert any(stem in line for line in problems), (kind, place, problems)
            if flips == 1:  # and all of them are served at once
                shutil.copy2(path, together / path.relative_to(data))
            else:
                look(data, right, forked_hubs, (kind, place))
            shutil.rmtree(data)
    if flips == 1:
        assert look(together, right, forked_hubs, "all") < len(right)
    figure = f"{len(KINDS)} kinds of files, {flips} bits each: named by fsck, no wrong answer"
    record_property("figure", figure)
    if flips > 1:
        record("the embedded Hub, a flipped bit in each kind of file", figure)


def rows_of(data: Path) -> list[str]:
    with closing(sqlite3.connect(data / "hub.sqlite")) as database:
        database.text_factory = bytes
        tables = [name.decode() for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        tables.remove("row_sums")  # without its sum a row is not compared; it is what it was
        return [
            f"{table} {row}"
            for table in sorted(tables)
            for row in sorted(map(repr, database.execute(f"SELECT * FROM {table}")))
        ]


@pytest.mark.parametrize("flips", [40, pytest.param(2000, marks=pytest.mark.soak)])
def test_a_bit_in_the_database(filled: Path, tmp_path: Path, flips: int, record_property: Record) -> None:
    """`fsck` says that it is damaged, or no row of it is another one: the bit was in unused room."""
    draw, before, named = random.Random(6), rows_of(filled), 0
    data = Path(shutil.copytree(filled, tmp_path / "hub"))
    sound = (data / "hub.sqlite").read_bytes()
    for _ in range(flips):
        place = flip(data / "hub.sqlite", draw)
        try:
            problems = fsck(data)
        except HubkitError as error:
            problems = [error.message]
        if problems:
            named += 1
        else:
            assert rows_of(data) == before, place
        for end in ("-wal", "-shm"):
            (data / f"hub.sqlite{end}").unlink(missing_ok=True)
        (data / "hub.sqlite").write_bytes(sound)
    figure = f"{flips:,} bits of the database: {named:,} named by fsck, the others changed no row"
    record_property("figure", figure)
    if flips > 40:
        record("the embedded Hub, a flipped bit in its database", figure)


def test_a_schema_that_is_no_text(filled: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(filled, tmp_path / "hub"))
    content = (data / "hub.sqlite").read_bytes()
    assert content.count(b"CREATE TABLE repos") == 1
    (data / "hub.sqlite").write_bytes(content.replace(b"CREATE TABLE repos", b"CREATE T\xffBLE repos"))
    with pytest.raises(ConflictError, match="cannot be read: the schema is not text"):
        fsck(data)


def test_a_value_in_each_table_of_the_database(filled: Path, tmp_path: Path) -> None:
    """A row of each table, changed behind the Hub's back, is named by its table. Without its key the Hub says so."""
    data, tables = Path(shutil.copytree(filled, tmp_path / "hub")), set()
    with closing(sqlite3.connect(data / "hub.sqlite")) as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")  # a bit on the disk does not set them off
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in names:
            for row in database.execute(f"PRAGMA table_info({table})").fetchall():
                if row[2] != "TEXT" or row[5] or "id" in row[1] or table in {"row_sums", "meta"}:
                    continue
                changed = (
                    f"UPDATE {table} SET {row[1]} = {row[1]} || 'x' WHERE rowid = (SELECT MIN(rowid) FROM {table})"
                )
                try:
                    if database.execute(changed).rowcount:
                        tables.add(table)
                        break
                except sqlite3.IntegrityError:
                    continue
        database.commit()
    assert {
        "accounts",
        "tokens",
        "repos",
        "discussions",
        "events",
        "collections",
        "webhooks",
        "space_settings",
    } <= tables
    problems = "\n".join(fsck(data))
    for table in tables:
        assert f" of {table} in hub.sqlite is damaged" in problems, table
    with closing(sqlite3.connect(data / "hub.sqlite")) as database:
        database.execute("UPDATE meta SET value = 'x' || value WHERE key = 'secret'")
        database.commit()
    for attempt in (fsck, process.start):
        with pytest.raises(HubkitError, match=r"hub\.sqlite is damaged: the key"):
            attempt(data)


@FLIPS
def test_a_bit_in_each_kind_of_file_of_a_backup(filled: Path, tmp_path: Path, flips: int) -> None:
    """What is restored of it says what is damaged; a backup that builds on it does not take the damage over."""
    draw = random.Random(7)
    backup(filled, tmp_path / "sound")
    kinds = {kind: pattern for kind, pattern in KINDS.items() if "uploaded xorb" not in kind}
    for kind, pattern in kinds.items():
        for number in range(flips):
            place = Path(shutil.copytree(tmp_path / "sound", tmp_path / f"{kind}-{number}"))
            path = draw.choice(sorted(place.glob(pattern)))
            flip(path, draw)
            assert restore(place, tmp_path / "restored"), kind
            shutil.rmtree(tmp_path / "restored")
            if number == 0:
                backup(filled, tmp_path / "next", place)
                assert restore(tmp_path / "next", tmp_path / "restored") == [], kind
                shutil.rmtree(tmp_path / "restored")
                shutil.rmtree(tmp_path / "next")
            shutil.rmtree(place)
