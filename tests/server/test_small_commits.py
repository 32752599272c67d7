"""What makes many small commits cheap, and what it must not change."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import httpx
from prepared_requests import prepared, send_all
from starlette.requests import Request

from hubkit.server.http.bodies import comes_at_once
from hubkit.server.process import Running
from hubkit.server.repos import trees
from hubkit.server.repos.git import Change, Git
from hubkit.server.repos.objects import DamagedError
from hubkit.server.storage import flushing
from hubkit.server.storage.flushing import flush_files, flush_folders

COMMIT = b'{"key":"header","value":{"summary":"s"}}\n{"key":"file","value":{"path":"%s","content":"x"}}\n'
PATH = "/api/models/me/model/commit/main"


def test_who_flushes_alone_is_helped_and_others_flush_for_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in "abc"]
    paths = [folder / name for folder in folders for name in "de"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    by, sync, inside, go_on = dict[int, int](), os.fsync, threading.Event(), threading.Event()
    slow = tmp_path / "slow"
    slow.touch()

    def note(handle: int) -> None:
        inode = os.fstat(handle).st_ino
        if inode == slow.stat().st_ino:
            inside.set()
            assert go_on.wait(30)
        by[inode] = threading.get_ident()
        sync(handle)

    def flush() -> set[int]:
        by.clear()
        flush_files(paths)
        flush_folders(folders)
        assert by.keys() == {path.stat().st_ino for path in (*paths, *folders)}
        return set(by.values())

    monkeypatch.setattr(os, "fsync", note)
    own = threading.get_ident()
    assert own not in flush()
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(flush_files, [slow])
        try:
            assert inside.wait(30)
            assert flush() == {own}
        finally:
            go_on.set()
        other.result()
    assert own not in flush()


def test_a_file_that_cannot_be_flushed_is_said_either_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.touch()
    before = psutil.Process().num_fds()

    def refuse(handle: int) -> None:
        raise OSError(5, "refused")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="refused"):
        patched.setattr(os, "fsync", refuse)
        flush_files(paths)
    with pytest.raises(FileNotFoundError):
        flush_files([*paths, tmp_path / "gone"])
    assert psutil.Process().num_fds() == before, "no file stays open"


def test_who_flushes_several_files_holds_few_of_them_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many do so at once, and a process may have 256 files open."""
    paths = [tmp_path / f"{number}" for number in range(16)]
    for path in paths:
        path.touch()
    before, most, sync, counting = psutil.Process().num_fds(), list[int](), os.fsync, threading.Lock()

    def count(handle: int) -> None:
        with counting:  # to count them opens a folder
            most.append(psutil.Process().num_fds())
        sync(handle)

    monkeypatch.setattr(os, "fsync", count)
    flush_files(paths)
    assert len(most) == 16 and max(most) - before <= 9, "one for each of the threads that flush"
    with ThreadPoolExecutor(1) as threads, flushing._going.alone():
        most.clear()
        threads.submit(flush_files, paths).result()
    assert len(most) == 16 and max(most) - before <= 2


def one_commit(tmp_path: Path) -> tuple[Git, str]:
    """A repo with one commit, whose objects are on their way; the commit."""
    (tmp_path / "incoming").mkdir()
    git = Git(Git.create(tmp_path / "a.git").path, tmp_path / "incoming")
    return git, git.write_commit(git.write_tree(None, [Change("a", git.write_blob(b"a"))]), [], "m", "me")


TAKEN: dict[str, tuple[Callable[[Path], object], bool]] = {
    "a link to itself": (lambda place: (place.parent.mkdir(), place.symlink_to(place.name)), True),
    "a link to nothing": (lambda place: (place.parent.mkdir(), place.symlink_to("nothing")), True),
    "a folder": (lambda place: place.mkdir(parents=True), False),
    "a file above": (lambda place: place.parent.touch(), False),
    "a link above to itself": (lambda place: place.parent.symlink_to(place.parent.name), False),
    "a link above to nothing": (lambda place: place.parent.symlink_to("nothing"), False),
}


@pytest.mark.parametrize("what", TAKEN)
def test_what_is_at_the_place_of_an_object_is_replaced_or_said(tmp_path: Path, what: str) -> None:
    git, commit = one_commit(tmp_path)
    take, replaced = TAKEN[what]
    take(git.path / "objects" / commit[:2] / commit[2:])
    if replaced:
        git.move("refs/heads/main", commit, None)
        assert Git(git.path).commit(commit).message == "m"
    else:
        with pytest.raises(DamagedError, match=f"{commit} is taken"):
            git.move("refs/heads/main", commit, None)
        assert git.value("refs/heads/main") is None


def test_a_sound_object_on_its_way_counts_and_not_the_damaged_one_that_the_repo_has(tmp_path: Path) -> None:
    git, commit = one_commit(tmp_path)
    place = git.path / "objects" / commit[:2] / commit[2:]
    place.parent.mkdir()
    place.write_bytes((tmp_path / "incoming" / commit).read_bytes()[:-5])
    assert git.peel(commit) == commit
    with pytest.raises(DamagedError):
        Git(git.path).peel(commit)


def test_a_large_tree_is_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A regular expression over all of it would stop every other thread for as long."""

    class Never:
        def fullmatch(self, content: bytes) -> None:
            raise AssertionError("others wait")

    line = b"100644 %06d\0" + b"x" * 20
    content = b"".join(line % number for number in range(2**20 // 34 + 1))
    monkeypatch.setattr(trees, "_AS_USUAL", Never())
    assert len(dict(trees._items("a", content))) == len(content) // 34
    with pytest.raises(AssertionError, match="wait"):
        trees._items("a", content[:34])


@pytest.mark.parametrize("seed", range(20))
def test_trees_are_read_alike_at_once_and_one_by_one(seed: int) -> None:
    draw = random.Random(seed)
    modes = [b"100644", b"40000", b"160000", b"120000", b"040000"] + [b"644"] * (seed % 2)
    names = {draw.randbytes(draw.randrange(1, 9)).replace(b"\0", b" ").replace(b"/", b"0") for _ in range(50)}
    content = b"".join(b"%s %s\0%s" % (draw.choice(modes), name, draw.randbytes(20)) for name in names)
    items = dict(trees._items("a", content))
    assert items == dict(trees._one_by_one("a", content)) and items.keys() == names
    with pytest.raises(DamagedError):
        dict(trees._items("a", content[:-1]))


@pytest.mark.parametrize(
    ("headers", "at_once"),
    [
        ({"authorization": "Bearer x", "content-length": "65536"}, True),
        ({"authorization": "Bearer x", "content-length": "65537"}, False),
        ({"authorization": "Bearer x", "content-length": "9" * 5000}, False),
        ({"authorization": "Bearer x", "content-length": "1", "expect": "100-continue"}, False),
        ({"authorization": "Bearer x", "transfer-encoding": "chunked"}, False),
        ({"authorization": "Bearer x", "content-length": "10", "transfer-encoding": "chunked"}, False),
        ({"content-length": "1"}, False),
    ],
)
def test_which_bodies_are_read_before_their_sender_is_looked_up(headers: dict[str, str], at_once: bool) -> None:
    raw = [(key.encode(), value.encode()) for key, value in headers.items()]
    assert comes_at_once(Request({"type": "http", "headers": raw})) is at_once


def test_a_short_commit_needs_the_rights_of_any_other(api: HfApi, hub: Running, raw: httpx.Client) -> None:
    api.create_repo("me/model")
    head = api.model_info("me/model").sha
    for token, path, code in (
        ("Bearer hf_unknown", PATH, 401),
        ("", PATH, 401),
        (f"Bearer {hub.token}", PATH.replace("me/model", "me/other"), 404),
        (f"Bearer {hub.token}", PATH.replace("main", "gone"), 404),
    ):
        headers = {"Authorization": token} if token else {}
        answer = httpx.post(f"{hub.url}{path}", content=COMMIT % b"a", headers=headers)
        assert answer.status_code == code, (token, path, answer.text)
    answer = raw.post(PATH, content=COMMIT % b"b", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert api.model_info("me/model").sha == head


def test_a_body_that_has_a_length_and_none_is_not_read_before_its_sender_is_looked_up(hub: Running) -> None:
    """In pieces it may be of any size, whatever the length says."""
    head = prepared(hub, PATH, b"x" * 10).partition(b"\r\n\r\n")[0].replace(hub.token.encode(), b"hf_unknown")
    with socket.create_connection(("127.0.0.1", urlsplit(hub.url).port or 0), timeout=30) as connection:
        connection.sendall(head + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 401"), "no piece was sent"


def test_who_waits_to_be_told_to_send_is_answered_first(api: HfApi, hub: Running) -> None:
    api.create_repo("me/model")
    request = prepared(hub, PATH, COMMIT % b"a")
    head, _, body = request.partition(b"\r\n\r\n")
    for token, first in ((b"hf_unknown", b"HTTP/1.1 401"), (hub.token.encode(), b"HTTP/1.1 100")):
        with socket.create_connection(("127.0.0.1", urlsplit(hub.url).port or 0), timeout=30) as connection:
            connection.sendall(head.replace(hub.token.encode(), token) + b"\r\nExpect: 100-continue\r\n\r\n")
            assert connection.recv(65536).startswith(first)
            if first.endswith(b"100"):
                connection.sendall(body)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_many_at_once_to_one_repo_and_to_several(api: HfApi, hub: Running) -> None:
    """Each is in the history of its repo, whatever the others did meanwhile."""
    names = ["me/model", "me/two", "me/three"]
    for name in names:
        api.create_repo(name)
    asked = [
        [prepared(hub, PATH.replace("me/model", names[who % 3]), COMMIT % b"%d-%d" % (who, k)) for k in range(10)]
        for who in range(6)
    ]
    send_all(hub, asked)
    for place, name in enumerate(names):
        files = {file.path for file in api.list_repo_tree(name)} - {".gitattributes"}
        assert files == {f"{who}-{k}" for who in (place, place + 3) for k in range(10)}
        assert len(api.list_repo_commits(name)) == 21
