"""Pull requests that are expensive to compare, merges, last changes: bounded, computed once, and nobody else waits."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pygit2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import httpx

from hubkit.server.process import Running
from hubkit.server.repos import comparing, history
from hubkit.server.repos.git import Change, Git
from hubkit.server.repos.reader import Links, Reader
from hubkit.server.storage.cache import BusyError


@pytest.fixture(autouse=True)
def quick_writes() -> Iterator[None]:
    """The repos that tests build in this process need not survive a crash of the machine."""
    pygit2.settings.enable_fsync_gitdir(False)
    yield
    pygit2.settings.enable_fsync_gitdir(True)


def words(seed: int, size: int) -> bytes:
    """Short lines that often repeat: the worst there is for a line by line comparison."""
    draw = random.Random(seed)
    return b"".join(b"%d\n" % draw.randrange(3000) for _ in range(size // 5))


@pytest.mark.fault("S12")
def test_a_large_text_in_a_pull_request(
    api: HfApi, hub: Running, raw: httpx.Client, record_property: Callable[[str, object], None]
) -> None:
    """4 MB of text that both sides changed: its difference is not shown, it is a conflict, and the Hub stays free."""
    api.create_repo("me/model")
    api.create_commit("me/model", [CommitOperationAdd("big.txt", words(0, 4_000_000))], commit_message="m")
    more = [CommitOperationAdd("big.txt", words(1, 4_000_000)), CommitOperationAdd("small.txt", b"small\n")]
    api.create_commit("me/model", more, commit_message="theirs", create_pr=True)
    api.create_commit("me/model", [CommitOperationAdd("big.txt", words(2, 4_000_000))], commit_message="ours")
    server = psutil.Process(hub.pid)
    before = sum(server.cpu_times()[:4])
    first = raw.get("/api/models/me/model/discussions/1?diff=1", timeout=60).json()
    spent = sum(server.cpu_times()[:4]) - before
    assert first["filesWithConflicts"] == ["big.txt"]
    assert "Too large to show (" in first["diff"] and "+small" in first["diff"] and len(first["diff"]) < 2000
    before = sum(server.cpu_times()[:4])
    for _ in range(20):
        assert raw.get("/api/models/me/model/discussions/1?diff=1").json() == first
        assert raw.get("/me/model/discussions/1").status_code == 200
    again = (sum(server.cpu_times()[:4]) - before) / 20
    assert spent < 3 and again < 0.2
    assert raw.post("/api/models/me/model/discussions/1/merge").status_code == 409
    record_property("figure", f"CPU of a pull request with 4 MB of text, first: {spent:.2f} s")
    record_property("figure", f"CPU of it, again: {again:.3f} s")


@pytest.mark.fault("S12")
def test_files_that_are_slow_to_compare_end_at_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the limit of one file, and many of them: the whole difference has its own limits, of size and of time."""
    git = Git.create(tmp_path / "git")
    sides = []
    for seed in (0, 1):
        files = [Change(f"{number}.txt", git.write_blob(words(seed * 100 + number, 250_000))) for number in range(12)]
        sides.append(git.write_commit(git.write_tree(None, files), sides[:], "m", "me"))
    begun = time.monotonic()
    patch = comparing.diff(git, *sides)
    assert time.monotonic() - begun < 15
    assert len(patch) < 2.5 * comparing.PATCH_LIMIT and "not shown" in patch and patch.startswith("diff --git a/0.txt")
    monkeypatch.setattr(comparing, "_run", lambda job: pytest.fail("computed again"))
    assert comparing.diff(git, *sides) == patch


def test_too_many_at_once_are_told_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a comparison holds a thread of the Hub: two compute, ten more wait, the others are refused."""
    git, free = Git.create(tmp_path / "git"), threading.Event()
    first, second = sides(git, {"a": b"a"}, {"a": b"b"}, {"a": b"c"})
    others = [sides(git, {"a": b"%d" % number}, {"a": b"b"}, {})[0] for number in range(20)]
    patches: list[str] = []
    refused: list[BaseException] = []

    def slow(job: dict[str, Any]) -> dict[str, str]:
        assert free.wait(20)
        return {"patch": "made"}

    def ask(other: str) -> None:
        try:
            patches.append(comparing.diff(Git(git.path), first, other))
        except BusyError as error:
            refused.append(error)

    monkeypatch.setattr(comparing, "_run", slow)
    threads = [threading.Thread(target=ask, args=(other,)) for other in (second, *others)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while len(refused) < len(threads) - 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    free.set()
    for thread in threads:
        thread.join()
    assert (len(patches), len(refused)) == (12, len(threads) - 12)


def sides(
    git: Git, base: dict[str, bytes], ours: dict[str, bytes | None], theirs: dict[str, bytes | None]
) -> list[str]:
    def commit(parents: list[str], changes: dict[str, Any]) -> str:
        lines = [Change(path, None if body is None else git.write_blob(body)) for path, body in changes.items()]
        return git.write_commit(git.write_tree(parents[0] if parents else None, lines), parents, "m", "me")

    fork = commit([], base)
    return [commit([fork], ours), commit([fork], theirs)]


LINES = b"".join(b"line %d\n" % number for number in range(40))
MERGES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, bytes] | list[str]]] = {
    "other files": ({"b": b"ours"}, {"c/d": b"theirs"}, {"a": LINES, "b": b"ours", "c/d": b"theirs"}),
    "the same": ({"a": b"x"}, {"a": b"x"}, {"a": b"x"}),
    "removed and added": ({"a": None, "n": b"n"}, {"c/d": b"d"}, {"n": b"n", "c/d": b"d"}),
    "lines of one file": (
        {"a": LINES.replace(b"line 3\n", b"3\n")}, {"a": LINES.replace(b"line 30\n", b"30\n")},
        {"a": LINES.replace(b"line 3\n", b"3\n").replace(b"line 30\n", b"30\n")},
    ),
    "one line": ({"a": LINES.replace(b"line 3\n", b"3\n")}, {"a": LINES.replace(b"line 3\n", b"33\n")}, ["a"]),
    "removed and changed": ({"a": None}, {"a": b"x"}, ["a"]),
    "a file and a folder": ({"f": b"file"}, {"f/g": b"folder"}, ["f"]),
    "a file in place of a folder": ({"a": None, "a/b": b"x"}, {"z": b"z"}, {"a/b": b"x", "z": b"z"}),
    "renamed and changed": (
        {"a": None, "moved": LINES}, {"a": LINES.replace(b"line 3\n", b"3\n")},
        {"moved": LINES.replace(b"line 3\n", b"3\n")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MERGES)
def test_merges(tmp_path: Path, name: str) -> None:
    ours, theirs, expected = MERGES[name]
    git = Git.create(tmp_path / "git")
    one, other = sides(git, {"a": LINES}, ours, theirs)
    tree = comparing.merged_tree(git, one, other)
    if isinstance(expected, list):
        assert tree is None and comparing.conflicts(git, one, other)[:1] == expected
        return
    assert tree is not None and comparing.conflicts(git, one, other) == []
    files = {entry.path: git.blob(entry.oid) for entry in git.below(tree) if not entry.folder}
    assert files == expected


def test_merge_bases_and_history_are_those_of_git(tmp_path: Path) -> None:
    """A graph drawn at random, with merges, all commits within a second: as libgit2 finds them."""
    draw, git = random.Random(7), Git.create(tmp_path / "git")
    commits: list[str] = []
    for number in range(60):
        tree = git.write_tree(None, [Change("n", git.write_blob(b"%d" % number))])
        parents = draw.sample(commits[-6:], min(len(commits), draw.choice([1, 1, 1, 2])))
        commits.append(git.write_commit(tree, parents, f"{number}", "me"))
    for _ in range(200):
        one, other = draw.choice(commits), draw.choice(commits)
        base, expected = git.merge_base(one, other), git.repo.merge_base(one, other)
        ancestors = [set(history.ids(git, commit)) for commit in (one, other)]
        common = ancestors[0] & ancestors[1]
        assert (base is None) == (expected is None)
        if base:
            newest = {oid for oid in common if not any(oid in set(history.ids(git, x)) - {x} for x in common - {oid})}
            assert base in newest
    order = list(history.ids(git, commits[-1]))
    assert len(order) == len(set(order)) and set(order) == {str(item.id) for item in git.repo.walk(commits[-1])}
    place = {oid: number for number, oid in enumerate(order)}
    assert all(place[oid] < place[parent] for oid in order for parent in git.links(oid).parents)


def test_a_merge_base_takes_time_in_proportion_to_the_commits() -> None:
    """Behind the base are 20,000 commits, and an old one of one side alone keeps the search going."""

    class Wide:
        def links(self, oid: str) -> Links:
            if oid == "base":
                return Links("", tuple(map(str, range(20_000))), 2_000_000)
            if oid in {"one", "other"}:
                return Links("", ("base", "old") if oid == "one" else ("base",), 3_000_000)
            return Links("", (), 1 if oid == "old" else 1_000_000 + int(oid))

    begun = time.process_time()
    assert history.merge_base(cast(Reader, Wide()), "one", "other") == "base"
    assert time.process_time() - begun < 3


def deep_repo(folder: Path, commits: int, files: int) -> tuple[Git, str]:
    git = Git.create(folder)
    changes = [Change(f"d{number % 7}/f{number}.txt", git.write_blob(b"%d" % number)) for number in range(files)]
    head = git.write_commit(git.write_tree(None, changes), [], "first", "me")
    for number in range(commits):
        change = [Change("d0/f0.txt", git.write_blob(b"again %d" % number))]
        head = git.write_commit(git.write_tree(head, change), [head], f"m{number}", "me")
    return git, head


@pytest.mark.fault("S12")
def test_last_changes_take_one_walk(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    git, head = deep_repo(tmp_path / "git", 300, 200)
    paths = [entry.path for entry in git.walk(head) or ()]
    begun = time.process_time()
    last = git.last_changes(head, paths)
    spent = time.process_time() - begun
    assert len(last) == len(paths) == 207 and spent < 2
    assert {commit.message for path, commit in last.items() if path not in {"d0", "d0/f0.txt"}} == {"first"}
    assert last["d0/f0.txt"].id == last["d0"].id == head
    asked = []
    assert len(git.last_changes(head, paths, lambda: asked.append(1) or len(asked) > 5)) == 2 and len(asked) == 6
    record_property("figure", f"last commits of 207 paths over 300 commits, CPU: {spent:.2f} s")


@pytest.mark.fault("S12")
def test_the_search_for_last_changes_ends_when_the_client_leaves(api: HfApi, hub: Running, raw: httpx.Client) -> None:
    """A long history, and a client that hangs up: the Hub stops looking. One that waits gets all of it."""
    api.create_repo("me/model")
    (folder,) = (hub.data / "git").iterdir()
    git = Git(folder)
    head = api.model_info("me/model").sha or ""
    files = [Change(f"f{number}.txt", git.write_blob(b"%d" % number)) for number in range(90)]
    head = git.write_commit(git.write_tree(head, files), [head], "old", "me")
    trees = [git.write_tree(head, [Change("new.txt", git.write_blob(b"%d" % number))]) for number in range(2)]
    for number in range(4000):
        head = git.write_commit(trees[number % 2], [head], f"m{number}", "me")
    git.repo.references["refs/heads/main"].set_target(head)
    server, path = psutil.Process(hub.pid), "/api/models/me/model/tree/main?expand=1"
    before = sum(server.cpu_times()[:2])
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", int(hub.url.rpartition(":")[2]))) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    left = until_idle(server)
    whole = raw.get(path, timeout=60).json()
    assert {item["lastCommit"]["title"] for item in whole if item["path"].startswith("f")} == {"old"}
    assert left - before < until_idle(server) - left, "three that left cost less than one that waited"


def until_idle(process: psutil.Process) -> float:
    """Processor time of the process once it has used none for a while; at most that of a minute."""
    last, deadline = -1.0, time.monotonic() + 60
    while (spent := sum(process.cpu_times()[:2])) - last > 0.03 and time.monotonic() < deadline:
        last = spent
        time.sleep(0.5)
    return spent


def test_a_commit_that_removes_and_adds(api: HfApi, raw: httpx.Client) -> None:
    api.create_repo("me/model")
    api.create_commit(
        "me/model", [CommitOperationAdd("a/b.txt", b"1"), CommitOperationAdd("c.txt", b"1")], commit_message="m"
    )
    sent = [CommitOperationDelete("a/b.txt"), CommitOperationAdd("a/new.txt", b"2"), CommitOperationAdd("c.txt", b"3")]
    commit = api.create_commit("me/model", sent, commit_message="n").oid
    page = raw.get(f"/me/model/commit/{commit}", headers={"Accept": "text/html"}).text
    for status, path in (("removed", "a/b.txt"), ("added", "a/new.txt"), ("changed", "c.txt")):
        assert f'"badge {status}"' in page and path in page
    assert json.loads(raw.get(f"/api/models/me/model/tree/{commit}?recursive=1").text)
