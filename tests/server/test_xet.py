"""Xet: the default client uploads and downloads; only what is proved is stored; rights hold as everywhere."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import httpx
from soak_figures import record
from xet_wire import Wire, file_record, named, packed, shard, whole, xorb

from hubkit.server import process
from hubkit.server.backup import backup, restore
from hubkit.server.fsck import fsck
from hubkit.server.process import Running
from hubkit.server.repos.lfs import Pointer
from hubkit.server.xet.hashes import chunk_hash, file_hash, to_hex, xorb_hash

BY_XET = {"HF_HUB_DISABLE_XET": "0"}
UPLOAD = """
import sys, huggingface_hub as h
h.HfApi().upload_file(path_or_fileobj={file!r}, path_in_repo={name!r}, repo_id={repo!r})
"""
DOWNLOAD = """
import huggingface_hub as h
print(h.snapshot_download({repo!r}, local_dir={folder!r}))
"""


def some_bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def some_chunks(count: int, seed: int, size: int = 1000) -> list[bytes]:
    return [some_bytes(size + number, seed * 1000 + number) for number in range(count)]


def requests_of(raw: httpx.Client) -> list[str]:
    return list(raw.get("/api/hubkit/faults").json()["requests"])


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_default_client_uploads_and_downloads(
    hub: Running, api: HfApi, raw: httpx.Client, script: Callable[..., str], tmp_path: Path
) -> None:
    """A second file of almost the same content sends what is new; every way to read gives the same bytes."""
    api.create_repo("hubkit/a", private=True)
    random_part, words = some_bytes(6_000_000, 1), b"".join(number.to_bytes(4, "big") for number in range(300_000))
    first, second = random_part + words + bytes(400_001), random_part[:3_000_000] + b"new" + random_part[3_000_000:]
    (tmp_path / "w.bin").write_bytes(first)
    script(UPLOAD.format(file=str(tmp_path / "w.bin"), name="w.safetensors", repo="hubkit/a"), **BY_XET)
    assert any("/v1/xorbs/" in line for line in requests_of(raw))
    (tmp_path / "w.bin").write_bytes(second)
    too_much = {"route": "POST .*/v1/xorbs/", "action": "drop-upload", "after": 1_000_000, "count": 0}
    raw.put("/api/hubkit/faults", json=[too_much]).raise_for_status()
    script(UPLOAD.format(file=str(tmp_path / "w.bin"), name="w2.safetensors", repo="hubkit/a"), **BY_XET)
    assert not files_below(hub.data / "xet" / "pending"), "every xorb became part of files"
    place = tmp_path / "down"
    script(DOWNLOAD.format(repo="hubkit/a", folder=str(place)), **BY_XET)
    assert (place / "w.safetensors").read_bytes() == first and (place / "w2.safetensors").read_bytes() == second
    assert any("/api/xet/data/" in line for line in requests_of(raw)), "the download was by Xet"
    plain = raw.get("/hubkit/a/resolve/main/w2.safetensors", headers={"Range": "bytes=2999990-3000010"})
    assert plain.content == second[2999990:3000011] and plain.headers["X-Xet-Hash"]
    assert raw.get("/hubkit/a/resolve/main/w.safetensors").content == first
    item = raw.get("/api/models/hubkit/a/tree/main").json()[-1]
    assert item["path"] == "w2.safetensors" and item["xetHash"] == plain.headers["X-Xet-Hash"]
    assert fsck(hub.data) == []


def test_what_was_deleted_is_sent_again(
    hub: Running, api: HfApi, raw: httpx.Client, script: Callable[..., str], tmp_path: Path
) -> None:
    """The client remembers what it has uploaded; after a deletion it must not rely on it."""
    (tmp_path / "w.bin").write_bytes(some_bytes(300_000, 2))
    api.create_repo("hubkit/a")
    upload = UPLOAD.format(file=str(tmp_path / "w.bin"), name="w.bin", repo="hubkit/a")
    script(upload, **BY_XET)
    api.create_repo("hubkit/b")
    raw.put("/api/hubkit/faults", json=[])
    script(upload.replace("hubkit/a", "hubkit/b"), **BY_XET)
    assert not any("/v1/xorbs/" in line for line in requests_of(raw)), "the Hub has these bytes"
    api.delete_repo("hubkit/a")
    api.delete_repo("hubkit/b")
    assert not files_below(hub.data / "xet") and not files_below(hub.data / "lfs")
    api.create_repo("hubkit/a")
    script(upload, **BY_XET)
    assert raw.get("/hubkit/a/resolve/main/w.bin").content == some_bytes(300_000, 2)


def test_only_what_is_proved_is_stored(hub: Running, api: HfApi) -> None:
    """Lies about digests, lengths and chunks: 400 each, and nothing of them stays."""
    api.create_repo("hubkit/a")
    wire = Wire(hub.url, hub.token, "hubkit/a")
    chunks = some_chunks(5, 3)
    parts, digest = named(chunks), xorb_hash(named(chunks))
    assert wire.xorb(xorb(chunks[:4]), digest).status_code == 400
    assert wire.shard(whole(chunks)).status_code == 400, "no such xorb"
    assert wire.xorb(xorb(chunks), digest).json() == {"was_inserted": True}
    assert wire.xorb(xorb(chunks), digest).json() == {"was_inserted": False}
    term = (digest, 0, 5, parts)
    for lie in (
        shard(file_record([term], sha256="0" * 64)),
        shard(file_record([term], name=bytes(32))),
        shard(file_record([(digest, 0, 6, parts)])),
        shard(file_record([(digest, 1, 5, parts)])),
        shard(file_record([(digest, 3, 3, [])])),
        shard(file_record([(digest, 0, 5, [*parts[:4], (parts[4][0], 999)])])),
        shard(file_record([(digest, 0, 5, [*parts[:4], (bytes(32), parts[4][1])])], name=file_hash(parts))),
        whole(chunks)[:-100],
        b"",
        b"\0" * 48,
    ):
        answer = wire.shard(lie)
        assert answer.status_code == 400, answer.text
    assert not files_below(hub.data / "lfs") and not files_below(hub.data / "xet" / "files")
    assert not files_below(hub.data / "tmp")
    assert wire.shard(whole(chunks)).json() == {"result": 1}
    assert [path.name for path in files_below(hub.data / "lfs")] == [hashlib.sha256(b"".join(chunks)).hexdigest()]
    assert wire.shard(whole(chunks)).json() == {"result": 1}, "a shard whose answer was lost is sent again"
    terms = [(digest, 2, 5, parts[2:]), (digest, 0, 1, parts[:1]), (digest, 2, 3, parts[2:3])]
    assert wire.shard(shard(file_record(terms))).status_code == 200
    mixed = b"".join([*chunks[2:], chunks[0], chunks[2]])
    assert hashlib.sha256(mixed).hexdigest() in [path.name for path in files_below(hub.data / "lfs")]


def test_xorbs_are_read_in_every_compression_and_refused_when_malformed(hub: Running, api: HfApi) -> None:
    """Bombs included: no chunk is decompressed beyond what its head says, and that is 128 KiB at most."""
    api.create_repo("hubkit/a")
    wire = Wire(hub.url, hub.token, "hubkit/a")
    chunks = [bytes(131_072), b"x", b"ab" * 5001, some_bytes(70_003, 4)]
    for scheme in (0, 1, 2):
        wire.upload([*chunks, bytes([scheme])], scheme)
    stored = {path.read_bytes() for path in files_below(hub.data / "lfs")}
    assert stored == {b"".join(chunks) + bytes([scheme]) for scheme in (0, 1, 2)}
    bomb = packed(bytes(10_000_000), 1, length=1000)
    sound = xorb(some_chunks(3, 5), 1)
    for body in (
        b"", b"\0", bomb, packed(b"abc", 3), packed(b"abc", 99), packed(b""), packed(b"abc", 1, length=4),
        packed(b"abc", 0, length=4), packed(bytes(131_073)), sound[:-1], sound + b"\0", b"\1" + sound[1:],
        packed(b"x") * 8193, packed(b"\0" * 8)[:8] + b"garbage!", b"XETBLOB" + sound,
    ):  # fmt: skip
        answer = wire.xorb(body, "0" * 64)
        assert answer.status_code == 400, (body[:40], answer.text)
    assert wire.xorb(sound, "G" * 64).status_code == 400
    assert wire.xorb(sound, "../" + "0" * 61).status_code in {400, 404}
    assert not files_below(hub.data / "tmp") and not files_below(hub.data / "xet" / "pending")


def test_nobody_reads_by_xet_what_he_may_not(
    hub: Running, api: HfApi, raw: httpx.Client, make_token: Callable[..., str]
) -> None:
    """Who knows all hashes of a private file still gets none of its bytes: not to read, and not into a repo of his."""
    api.create_repo("hubkit/secret", private=True)
    chunks = some_chunks(4, 6)
    parts, digest = named(chunks), xorb_hash(named(chunks))
    owner = Wire(hub.url, hub.token, "hubkit/secret")
    assert owner.xorb(xorb(chunks), digest).status_code == 200
    token = make_token("mallory")
    mallory = HfApi(endpoint=hub.url, token=token)
    mallory.create_repo("mallory/m")
    wire = Wire(hub.url, token, "mallory/m")
    assert wire.shard(whole(chunks)).status_code == 400, "the xorb waits for its owner's shard"
    name = owner.upload(chunks)
    first = f"/v1/chunks/default-merkledb/{to_hex(chunk_hash(chunks[0]))}"
    assert owner.get(first).status_code == 200 and wire.get(first).status_code == 404
    assert wire.shard(whole(chunks)).status_code == 400
    reader = Wire(hub.url, token, "mallory/m", scope="read")
    for version in ("v1", "v2"):
        assert reader.get(f"/{version}/reconstructions/{name}").status_code == 404
        assert owner.get(f"/{version}/reconstructions/{name}").status_code == 200
    address = f"{hub.url}/api/models/hubkit/secret/xet-read-token/main"
    assert wire.client.get(address, headers={"Authorization": f"Bearer {token}"}).status_code == 404
    assert wire.client.get(address).status_code == 401
    assert reader.shard(whole(chunks)).status_code == 403
    pointer = Pointer(hashlib.sha256(b"".join(chunks)).hexdigest(), len(b"".join(chunks))).text()
    mallory.upload_file(path_or_fileobj=pointer, path_in_repo="guess.txt", repo_id="mallory/m")
    seen = [
        raw.get("/api/models/mallory/m/tree/main"),
        raw.post("/api/models/mallory/m/paths-info/main", json={"paths": ["guess.txt"]}),
    ]
    assert ["xetHash" in item for answer in seen for item in answer.json() if "lfs" in item] == [False] * 2
    # Once he may read it, what the Hub has need not be sent; and what he was given he keeps.
    api.update_repo_settings("hubkit/secret", private=False)
    assert wire.shard(whole(chunks)).status_code == 200
    assert file_hash(parts) and reader.get(f"/v1/reconstructions/{name}").status_code == 200


def test_tokens_end_with_the_one_they_were_given_to(
    hub: Running, api: HfApi, raw: httpx.Client, make_token: Callable[..., str]
) -> None:
    token = make_token("bob")
    bob = HfApi(endpoint=hub.url, token=token)
    bob.create_repo("bob/b", private=True)
    wire = Wire(hub.url, token, "bob/b")
    name = wire.upload(some_chunks(2, 7))
    places = wire.get(f"/v1/reconstructions/{name}").json()["fetch_info"]
    url = next(iter(places.values()))[0]["url"]
    assert wire.client.get(url).status_code == 200
    good = wire.headers["Authorization"]
    for bad in (good[:-1], good.replace("_write_", "_read_"), "Bearer " + hub.token, "Bearer x", "Basic eDp5"):
        wire.headers = {"Authorization": bad}
        assert wire.get(f"/v1/reconstructions/{name}").status_code == 401, bad
    assert wire.client.get(f"{wire.url}/v1/reconstructions/{name}").status_code == 401
    wire.headers = {"Authorization": good}
    listed = next(item for item in raw.get("/api/hubkit/accounts").json() if item["name"] == "bob")
    raw.delete(f"/api/hubkit/tokens/bob/{listed['tokens'][0]['id']}").raise_for_status()
    assert wire.get(f"/v1/reconstructions/{name}").status_code == 401
    assert wire.client.get(url).status_code == 403


def test_git_lfs_is_offered_xet_when_it_knows_it(hub: Running, api: HfApi, raw: httpx.Client) -> None:
    """git-xet names its transfer in the batch; it is given a token, and where to get the next one."""
    api.create_repo("hubkit/a")
    oid = hashlib.sha256(b"x").hexdigest()
    batch = {"operation": "upload", "transfers": ["basic", "xet"], "objects": [{"oid": oid, "size": 1}]}
    answer = raw.post("/hubkit/a.git/info/lfs/objects/batch", json=batch).json()
    action = answer["objects"][0]["actions"]["upload"]
    assert answer["transfer"] == "xet" and raw.get(action["href"]).json()["casUrl"] == action["header"]["X-Xet-Cas-Url"]
    wire = Wire(hub.url, hub.token, "hubkit/a")
    wire.url = action["header"]["X-Xet-Cas-Url"]
    wire.headers = {"Authorization": f"Bearer {action['header']['X-Xet-Access-Token']}"}
    wire.upload([b"x"])
    assert raw.get("/api/models/hubkit/a/lfs-files").json()[0]["oid"] == oid
    for transfers in (["basic"], "xet", 5, None):
        answer = raw.post("/hubkit/a.git/info/lfs/objects/batch", json=batch | {"transfers": transfers}).json()
        assert answer["transfer"] == "basic"


def test_a_range_of_a_file_is_put_together(hub: Running, api: HfApi) -> None:
    """What the Hub says of a range gives just its bytes, wherever the chunks end; also of parts that are alike."""
    api.create_repo("hubkit/a")
    wire = Wire(hub.url, hub.token, "hubkit/a")
    chunks = [bytes(100), *some_chunks(6, 8, 50), bytes(100)] * 200
    name, content = wire.upload(chunks), b"".join(chunks)
    for start, end in ((0, len(content)), (0, 1), (99, 101), (100, 100_000), (len(content) - 1, len(content))):
        answer = wire.get(f"/v1/reconstructions/{name}", Range=f"bytes={start}-{end - 1}").json()
        found = b""
        for term in answer["terms"]:
            place = next(item for item in answer["fetch_info"][term["hash"]] if item["range"] == term["range"])
            span = f"bytes={place['url_range']['start']}-{place['url_range']['end']}"
            body = wire.client.get(place["url"], headers={"Range": span}).content
            found += unframed(body)
        offset = answer["offset_into_first_range"]
        assert found[offset : offset + end - start] == content[start:end]
    assert wire.get(f"/v1/reconstructions/{name}", Range=f"bytes={len(content)}-").status_code == 416


def unframed(body: bytes) -> bytes:
    """The content of uncompressed chunks with their heads."""
    content, place = b"", 0
    while place < len(body):
        length = int.from_bytes(body[place + 5 : place + 8], "little")
        content += body[place + 8 : place + 8 + length]
        place += 8 + length
    return content


def test_a_xorb_that_was_damaged_while_it_waited_is_sent_again(hub: Running, api: HfApi) -> None:
    """Else the client, which remembers that it has sent it, could never upload the file."""
    api.create_repo("hubkit/a")
    wire = Wire(hub.url, hub.token, "hubkit/a")
    chunks = some_chunks(3, 11)
    for sha256 in (None, hashlib.sha256(b"".join(chunks)).hexdigest()):
        assert wire.xorb(xorb(chunks), xorb_hash(named(chunks))).status_code == 200
        waiting = files_below(hub.data / "xet" / "pending")[0]
        waiting.write_bytes(waiting.read_bytes()[:-1] + b"?")
        assert len(fsck(hub.data)) == 1
        assert wire.shard(whole(chunks, sha256=sha256)).status_code == 400
        old = wire.url
        wire.renew()
        assert wire.url != old and not files_below(hub.data / "xet" / "pending") and fsck(hub.data) == []
    wire.upload(chunks)


def test_damage_is_found_and_not_served(hub: Running, api: HfApi) -> None:
    """A flipped bit in a list of chunks or in a file: `fsck` names it, and a download by Xet breaks off."""
    api.create_repo("hubkit/a")
    wire = Wire(hub.url, hub.token, "hubkit/a")
    chunks = some_chunks(3, 9)
    name = wire.upload(chunks)
    api.upload_file(repo_id="hubkit/a", path_or_fileobj=b"".join(chunks), path_in_repo="model.bin")  # else it may go
    url = next(iter(wire.get(f"/v1/reconstructions/{name}").json()["fetch_info"].values()))[0]["url"]
    (content,), (listing,) = files_below(hub.data / "lfs"), files_below(hub.data / "xet" / "files")
    assert wire.client.get(url).status_code == 200 and fsck(hub.data) == []
    for path, words in ((listing, "list of chunks"), (content, "is damaged")):
        sound = path.read_bytes()
        path.write_bytes(sound[:40] + bytes([sound[40] ^ 1]) + sound[41:])
        problems = fsck(hub.data)
        assert len(problems) == 1 and content.name in problems[0] and words in problems[0]
        with pytest.raises((httpx.HTTPError, AssertionError)):
            assert wire.client.get(url).status_code == 200
        path.write_bytes(sound)
    assert fsck(hub.data) == []


def test_a_restored_hub_relies_on_nothing_that_clients_remember(hub: Running, api: HfApi, tmp_path: Path) -> None:
    """A backup has the files and their lists of chunks, and not the xorbs that were waiting."""
    api.create_repo("hubkit/a")
    wire = Wire(hub.url, hub.token, "hubkit/a")
    name, chunks = wire.upload(some_chunks(3, 12)), some_chunks(3, 13)
    assert wire.xorb(xorb(chunks), xorb_hash(named(chunks))).status_code == 200
    backup(hub.data, tmp_path / "backup")
    assert restore(tmp_path / "backup", tmp_path / "restored") == []
    again = process.start(tmp_path / "restored", port=0)
    try:
        other = Wire(again.url, again.token, "hubkit/a")
        assert other.url.rpartition("/")[2] != wire.url.rpartition("/")[2]
        assert other.get(f"/v1/reconstructions/{name}").status_code == 200
        assert other.shard(whole(chunks)).status_code == 400
        other.upload(chunks)
    finally:
        process.stop(again.data)


def test_an_upload_goes_on_after_a_kill(hub: Running, api: HfApi) -> None:
    """Xorbs that arrived before the server was killed are there after it, and only for who sent them."""
    api.create_repo("hubkit/a")
    wire = Wire(hub.url, hub.token, "hubkit/a")
    chunks = some_chunks(4, 10)
    assert wire.xorb(xorb(chunks), xorb_hash(named(chunks))).status_code == 200
    os.kill(hub.pid, signal.SIGKILL)
    again = process.start(hub.data, port=int(hub.url.rpartition(":")[2]), faults=True)
    resumed = Wire(again.url, hub.token, "hubkit/a")
    assert resumed.url.rpartition("/")[2] == wire.url.rpartition("/")[2], "the client knows the Hub by this"
    assert resumed.shard(whole(chunks)).status_code == 200


FOLDER = """
import sys, huggingface_hub as h
h.HfApi().upload_folder(folder_path={folder!r}, repo_id="hubkit/a", path_in_repo={place!r})
"""


@pytest.mark.soak
@pytest.mark.fault("F1")
def test_uploads_of_the_default_client_survive_kills(hub: Running, api: HfApi, tmp_path: Path) -> None:
    """The server is killed while xorbs arrive, while files are put together, and in between; the client runs again."""
    api.create_repo("hubkit/a")
    port, kills = int(hub.url.rpartition(":")[2]), 30
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    running, killed, wanted = hub, 0, dict[str, bytes]()
    for number in range(kills):
        folder = tmp_path / f"f{number}"
        folder.mkdir()
        shared = some_bytes(2_000_000, number // 2)
        for name, size in (("one.bin", 3_000_000), ("two.bin", 8_000_000)):
            content = shared + some_bytes(size, 100 * number + size)
            (folder / name).write_bytes(content)
            wanted[f"f{number}/{name}"] = content
        command = [sys.executable, "-c", FOLDER.format(folder=str(folder), place=f"f{number}")]
        client = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        place = [hub.data / "tmp", hub.data / "xet" / "pending", hub.data / "xet" / "files"][number % 3]
        before, until = len(files_below(place)), time.monotonic() + 20
        while client.poll() is None and len(files_below(place)) <= before and time.monotonic() < until:
            pass
        if client.poll() is None:
            killed += 1
            os.kill(running.pid, signal.SIGKILL)
            running = process.start(hub.data, port=port, faults=True)
        if client.wait(120):
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    assert fsck(hub.data) == [] and killed > kills // 2
    assert not files_below(hub.data / "tmp") and not files_below(hub.data / "xet" / "pending")
    with httpx.Client(headers={"Authorization": f"Bearer {hub.token}"}, timeout=60) as client:
        for name, content in wanted.items():
            assert client.get(f"{hub.url}/hubkit/a/resolve/main/{name}").content == content, name
    record("uploads by Xet of the default client, server killed meanwhile", f"{killed} kills, every file whole")
