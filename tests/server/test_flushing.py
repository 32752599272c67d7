"""What is on disk before a commit is acknowledged, and how trees and packs are written for it."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pygit2
import pytest
from pygit2.enums import FileMode, ObjectType

from hubkit.server.accounts.accounts import Actor
from hubkit.server.backup import backup, restore
from hubkit.server.fsck import fsck
from hubkit.server.hub import Hub
from hubkit.server.repos import references
from hubkit.server.repos.git import MAIN, Change, Git
from hubkit.server.repos.lfs import Pointer
from hubkit.server.repos.objects import DamagedError
from hubkit.server.repos.store import Repo
from hubkit.server.storage.flushing import flush_files

NAMES = ["a", "a.b", "a-b", "b", "c", "é"]


def new_repo(hub: Hub, owner: Actor, name: str = "r") -> Repo:
    """A repo of the owner."""
    return hub.store.create("model", "hubkit", name, actor=owner, private=False)


def test_a_folder_with_the_mode_of_old_programs_stays_in_its_place(tmp_path: Path) -> None:
    git = Git.create(tmp_path / "git")
    blob = git.write_blob(b"x")
    inner = git.write_tree(None, [Change("a", blob)])
    old = b"100644 foo.txt\0" + blob.raw + b"040000 foo\0" + inner.raw
    base = git.write_commit(git.repo.write(ObjectType.TREE, old), [], "first", "me")
    expected = git.write_tree(None, [Change(name, blob) for name in ("foo.txt", "foo/a", "z")])
    assert git.write_tree(base, [Change("z", blob)]) == expected


def by_libgit2(git: Git, base: str, changes: list[Change]) -> str:
    """The tree that libgit2's index makes of the same changes."""
    index = pygit2.Index()
    index.read_tree(git.repo[git.commit(base).tree])
    for change in changes:
        path = change.path.rstrip("/")
        if change.blob is not None:
            parts = path.split("/")
            for end in range(1, len(parts)):
                if (above := "/".join(parts[:end])) in index:
                    index.remove(above)
            if path not in index:
                index.remove_directory(path)
            index.add(pygit2.IndexEntry(path, change.blob, FileMode.BLOB))
        elif not change.folder and path in index:
            index.remove(path)
        else:
            before = len(index)
            index.remove_directory(path)
            if len(index) == before:
                raise FileNotFoundError(path)
    return str(index.write_tree(git.repo))


@pytest.mark.parametrize("seed", range(3))
def test_trees_and_commits_are_those_of_libgit2(tmp_path: Path, seed: int) -> None:
    draw, git = random.Random(seed), Git.create(tmp_path / "git")
    blobs = [git.write_blob(b"%d" % number) for number in range(4)]
    base = git.write_commit(git.write_tree(None, [Change("first", blobs[0])]), [], "first", "me")

    def change() -> Change:
        path = "/".join(draw.choice(NAMES) for _ in range(draw.randrange(1, 4)))
        if draw.random() < 0.6:
            return Change(path, draw.choice(blobs))
        return Change(path + "/" * draw.randrange(2), None, draw.random() < 0.4)

    for _ in range(60):
        changes, outcomes = [change() for _ in range(draw.randrange(1, 10))], []
        for way in (by_libgit2, lambda git, base, changes: str(git.write_tree(base, changes))):
            try:
                outcomes.append(way(git, base, changes))
            except FileNotFoundError as error:
                outcomes.append(f"missing: {error}")
        assert outcomes[0] == outcomes[1], changes
        if not outcomes[0].startswith("missing"):
            base = git.write_commit(pygit2.Oid(hex=outcomes[0]), [base], "ö\n\nmore", "me")
    commit = git.repo[base]
    signature = commit.author
    tree, parents = commit.tree_id, commit.parent_ids
    assert str(git.repo.create_commit(None, signature, signature, "ö\n\nmore", tree, parents)) == base


@pytest.mark.parametrize("count", [3, 300])
def test_all_that_a_commit_brings_is_flushed_before_its_ref_moves(
    own_hub: Hub, owner: Actor, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, flushed, sync = new_repo(own_hub, owner), dict[int, bool](), os.fsync

    def note(handle: int) -> None:
        sync(handle)
        flushed.setdefault(os.fstat(handle).st_ino, references.read(own_hub.store.path(repo), MAIN) == head)

    objects = own_hub.store.path(repo) / "objects"
    before = {path for path in objects.rglob("*") if path.is_file()}
    with own_hub.store.writing(repo) as git:
        head = git.head()
        monkeypatch.setattr(os, "fsync", note)
        changes = [Change(f"d{n % 20}/{n}.txt", git.write_blob(b"%d" % n)) for n in range(count)]
        commit = git.write_commit(git.write_tree(head, changes), [head], "files", "me")
        git.move(MAIN, commit, head)
    new = [path for path in objects.rglob("*") if path.is_file() and path not in before]
    folders = {path.parent for path in new} | {objects}
    assert all(flushed.get(path.stat().st_ino) for path in (*new, *folders))
    assert any(path.suffix == ".pack" for path in new) == (count > 100)
    subprocess.run(["git", "fsck", "--strict"], cwd=own_hub.store.path(repo), check=True, capture_output=True)
    files = [entry for entry in own_hub.store.git(repo).walk(commit) or () if not entry.folder]
    assert len(files) == count + 1
    assert list(own_hub.folder.spool.iterdir()) == []


def kept(hub: Hub, repo: Repo, content: bytes) -> str:
    """The sha256 of an LFS object that was just uploaded."""
    spooled, oid = hub.folder.spool / "body", hashlib.sha256(content).hexdigest()
    spooled.write_bytes(content)
    hub.lfs.keep(spooled, repo.uid, oid, len(content))
    return oid


def test_small_objects_are_flushed_together_by_the_commit_that_names_them(
    own_hub: Hub, owner: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, flushed, sync = new_repo(own_hub, owner), set[int](), os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (flushed.add(os.fstat(handle).st_ino), sync(handle))[1])
    oids = [kept(own_hub, repo, b"%d" % number) for number in range(10)]
    paths = [own_hub.lfs.path(oid) for oid in oids]
    assert not flushed & {path.stat().st_ino for path in paths}
    assert own_hub.lfs.flush(oids) == []
    assert flushed >= {inode.stat().st_ino for path in paths for inode in (path, path.parent, path.parent.parent)}
    flushed.clear()
    assert own_hub.lfs.flush(oids) == []  # once
    assert not flushed


def test_what_takes_the_place_of_an_object_is_on_disk_first(
    own_hub: Hub, owner: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has committed it: its name must never lead to bytes that are not on disk yet."""
    repo, other = new_repo(own_hub, owner), new_repo(own_hub, owner, "other")
    oid = kept(own_hub, repo, b"of two")
    assert own_hub.lfs.flush([oid]) == []
    flushed, sync = set[int](), os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (flushed.add(os.fstat(handle).st_ino), sync(handle))[1])
    assert kept(own_hub, other, b"of two") == oid
    assert own_hub.lfs.path(oid).stat().st_ino in flushed


def test_an_object_that_a_power_cut_took_is_not_committed(own_hub: Hub, owner: Actor, tmp_path: Path) -> None:
    repo = new_repo(own_hub, owner)
    lost, sound = kept(own_hub, repo, b"lost"), kept(own_hub, repo, b"sound")
    own_hub.close()
    after = Hub(tmp_path / "hub")
    try:
        after.lfs.path(lost).write_bytes(b"\0\0\0\0")  # its name was on disk, its content was not
        assert after.lfs.flush([lost, sound]) == [lost]
        assert kept(after, repo, b"lost") == lost
        assert after.lfs.flush([lost, sound]) == []
    finally:
        after.close()


def test_many_packed_refs_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git, read, packed = Git.create(tmp_path / "git"), [], references.packed
    commit = git.write_commit(git.write_tree(None, []), [], "first", "me")
    lines = "".join(f"{commit} refs/heads/b{number:03}\n" for number in range(200))
    (tmp_path / "git/packed-refs").write_text(lines)
    monkeypatch.setattr(references, "packed", lambda root: (read.append(root), packed(root))[1])
    assert [name for name, oid in git.refs() if oid == commit] == [f"refs/heads/b{n:03}" for n in range(200)]
    assert len(read) <= 3


def test_refs_that_are_packed_while_they_are_read_are_not_those_of_before(tmp_path: Path) -> None:
    root = tmp_path / "git"
    git = Git.create(root)
    first, second = (git.write_commit(git.write_tree(None, []), [], text, "me") for text in ("first", "second"))
    (root / "packed-refs").write_text(f"{first} {MAIN}\n")
    git.move(MAIN, second, first)
    before = references.packed(root)
    subprocess.run(["git", "pack-refs", "--all"], cwd=root, check=True)
    assert references.read(root, MAIN, known=before) == second


def test_the_folders_of_a_ref_that_comes_or_goes_are_flushed(
    own_hub: Hub, owner: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, flushed, sync = new_repo(own_hub, owner), set[int](), os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (flushed.add(os.fstat(handle).st_ino), sync(handle))[1])
    heads, ref = own_hub.store.path(repo) / "refs/heads", "refs/heads/a/b/c"
    with own_hub.store.writing(repo) as git:
        git.move(ref, git.head(), None)
        assert flushed >= {folder.stat().st_ino for folder in (heads, heads / "a", heads / "a/b")}
        flushed.clear()
        git.delete_ref(ref)
        assert list(heads.iterdir()) == [heads / "main"] and heads.stat().st_ino in flushed


def test_a_ref_whose_move_the_disk_refuses_is_where_it_was(
    own_hub: Hub, owner: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, sync = new_repo(own_hub, owner), os.fsync
    heads = own_hub.store.path(repo) / "refs/heads"

    def refuse(handle: int) -> None:
        if os.fstat(handle).st_ino == heads.stat().st_ino:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(handle)

    with own_hub.store.writing(repo) as git:
        head = git.head()
        with monkeypatch.context() as patched, pytest.raises(OSError):
            patched.setattr(os, "fsync", refuse)
            git.move(MAIN, numbered(git, head, range(3)), head)
        assert git.head() == head and files_of(own_hub, repo) == 0
        git.move(MAIN, numbered(git, head, range(3)), head)
    assert files_of(own_hub, repo) == 3


def test_a_packed_ref_moves_back_in_a_repo_that_was_damaged_meanwhile(own_hub: Hub, owner: Actor) -> None:
    repo = new_repo(own_hub, owner)
    path = own_hub.store.path(repo)
    subprocess.run(["git", "-C", path, "gc", "-q", "--prune=now"], check=True)
    assert not (path / MAIN).exists()

    def refuse() -> None:
        next(path.glob("objects/pack/*.idx")).unlink()
        raise RuntimeError("the database refuses")

    with own_hub.store.writing(repo) as git:
        head = git.head()
        with pytest.raises(RuntimeError, match="refuses"):
            git.move(MAIN, numbered(git, head, range(3)), head, then=refuse)
        assert git.value(MAIN) == head


def test_a_pack_whose_index_a_killed_server_did_not_move_goes(own_hub: Hub, owner: Actor) -> None:
    repo = new_repo(own_hub, owner)
    with own_hub.store.writing(repo) as git:
        head = git.head()
        git.move(MAIN, numbered(git, head, range(150)), head)
    packs = own_hub.store.path(repo) / "objects/pack"
    [index] = packs.glob("*.idx")
    (packs / f"pack-{'a' * 40}.pack").write_bytes(index.with_suffix(".pack").read_bytes())
    (packs / f"pack-{'b' * 40}.pack").write_bytes(b"its index was lost in another way")
    waiting = own_hub.folder.spool / "killed/pack"
    waiting.mkdir(parents=True)
    for name in (f"pack-{'a' * 40}", index.stem):
        (waiting / f"{name}.idx").write_bytes(index.read_bytes())
    own_hub.folder.sweep(own_hub.store.uids())
    left = {path.name for path in packs.iterdir()}
    assert left == {index.name, f"{index.stem}.pack", f"pack-{'b' * 40}.pack"}
    assert list(own_hub.folder.spool.iterdir()) == []


def test_a_ref_moves_as_git_moves_it(tmp_path: Path) -> None:
    root = tmp_path / "git"
    git = Git.create(root)
    first, second = (git.write_commit(git.write_tree(None, []), [], text, "me") for text in ("first", "second"))
    (root / "packed-refs").write_text(f"{first} refs/heads/a/b\n")
    (root / "refs/heads/main").write_text(f"{first}\n")
    (root / "refs/heads/link").write_text("ref: refs/heads/main\n")
    assert references.move(root, "refs/heads/a/b", second, first)  # from packed-refs to a file
    assert references.move(root, MAIN, second, first)
    assert [git.value(ref) for ref in ("refs/heads/a/b", MAIN)] == [second, second]
    for ref, old in ((MAIN, first), ("refs/heads/gone", first), ("refs/heads/link", second)):
        assert not references.move(root, ref, first, old)
    (root / "refs/heads/main.lock").touch()  # another program moves it
    with pytest.raises(DamagedError, match="locked"):
        references.move(root, MAIN, first, second)
    assert git.value(MAIN) == second
    assert [path.name for path in root.rglob("*.lock")] == ["main.lock"]


def test_others_read_and_write_while_a_ref_waits_for_the_disk(
    own_hub: Hub, owner: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libgit2 would hold Python's lock meanwhile, and with it every other thread."""
    repo, other, sync = new_repo(own_hub, owner), new_repo(own_hub, owner, "other"), os.fsync
    lock = own_hub.store.path(repo) / f"{MAIN}.lock"
    waits, written = threading.Event(), threading.Event()

    def slow(handle: int) -> None:
        if lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
            waits.set()
            assert written.wait(20)
        sync(handle)

    def commit(to: Repo) -> str:
        with own_hub.store.writing(to) as git:
            head = git.head()
            new = git.write_commit(git.write_tree(head, [Change("a", git.write_blob(b"a"))]), [head], "a", "me")
            git.move(MAIN, new, head)
        return new

    before = own_hub.store.git(repo).head()
    monkeypatch.setattr(os, "fsync", slow)
    with ThreadPoolExecutor(1) as pool:
        moved = pool.submit(commit, repo)
        try:
            assert waits.wait(20)
            assert own_hub.store.git(repo).head() == before
            assert commit(other) == own_hub.store.git(other).head() and not moved.done()
        finally:
            written.set()
        assert moved.result(20) == own_hub.store.git(repo).head() != before


def numbered(git: Git, head: str, names: range) -> str:
    """A commit after ``head`` with a file for each number."""
    changes = [Change(f"f{number}", git.write_blob(b"%d" % number)) for number in names]
    return git.write_commit(git.write_tree(head, changes), [head], "files", "me")


def files_of(hub: Hub, repo: Repo) -> int:
    """How many files ``main`` of a sound repo has beside the first one."""
    git = hub.store.git(repo)
    subprocess.run(["git", "fsck", "--strict"], cwd=git.path, check=True, capture_output=True)
    return len([entry for entry in git.walk(git.head()) or () if not entry.folder]) - 1


def test_a_repo_is_copied_and_refs_are_moved_one_after_the_other(own_hub: Hub, owner: Actor) -> None:
    """What was moved into the repo is no longer on its way, also when there is too much for files of their own."""
    repo = new_repo(own_hub, owner)
    with own_hub.store.writing(repo) as git:
        for start, end in ((0, 60), (60, 120), (120, 270)):
            head = git.head()
            git.move(MAIN, numbered(git, head, range(start, end)), head)
    assert files_of(own_hub, repo) == 270

    def fill(git: Git, head: str) -> list[str]:
        return own_hub.copy_files(repo, git, head, "me")

    copy = own_hub.store.create("model", "hubkit", "copy", actor=owner, private=False, fill=fill)
    assert files_of(own_hub, copy) == 270


@pytest.mark.parametrize("count", [3, 150])
def test_a_move_that_failed_can_be_tried_again(
    own_hub: Hub, owner: Actor, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = new_repo(own_hub, owner)

    def fail(*_: object) -> None:
        raise OSError

    with own_hub.store.writing(repo) as git:
        head = git.head()
        with pytest.raises(OSError):
            git.move(MAIN, numbered(git, head, range(count)), head, then=fail)
        with monkeypatch.context() as patched, pytest.raises(OSError):
            patched.setattr(os, "fsync", fail)
            git.move(MAIN, numbered(git, head, range(count)), head)
        git.move(MAIN, numbered(git, head, range(count)), head)
    assert files_of(own_hub, repo) == count


def test_an_upload_that_a_power_cut_took_is_damage_only_where_a_file_points_to_it(
    own_hub: Hub, owner: Actor, tmp_path: Path
) -> None:
    repo = new_repo(own_hub, owner)
    emptied, gone, sound = (kept(own_hub, repo, content) for content in (b"emptied", b"gone", b"sound"))
    own_hub.lfs.path(emptied).write_bytes(b"")
    own_hub.lfs.path(gone).unlink()
    assert fsck(tmp_path / "hub") == []
    backup(tmp_path / "hub", tmp_path / "copy")
    assert restore(tmp_path / "copy", tmp_path / "restored") == []
    with own_hub.store.writing(repo) as git:
        head = git.head()
        changes = [Change(oid, git.write_blob(Pointer(oid, 5).text())) for oid in (emptied, gone, sound)]
        git.move(MAIN, git.write_commit(git.write_tree(head, changes), [head], "files", "me"), head)
    problems = fsck(tmp_path / "hub")
    assert len(problems) == 2 and all("which is missing" in text for text in problems)
    assert {emptied, gone} == {oid for oid in (emptied, gone, sound) if oid in "\n".join(problems)}


def test_of_an_object_that_goes_nothing_stays(own_hub: Hub, owner: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, lfs = new_repo(own_hub, owner), own_hub.lfs

    def unflushed() -> list[str]:
        return [row["oid"] for row in own_hub.database.rows("SELECT oid FROM lfs_unflushed")]

    def discard(oid: str) -> None:
        lfs.withdraw(repo.uid, [oid])
        lfs.collect([oid])

    oid = kept(own_hub, repo, b"once")
    assert unflushed() == [oid]
    discard(oid)
    assert unflushed() == []
    own_hub.database.run("INSERT INTO lfs_unflushed VALUES (?)", oid)  # as an earlier version left it
    lfs.sweep()
    assert unflushed() == []

    def goes_and_comes(paths: Iterable[Path]) -> None:
        assert list(paths) == [lfs.path(oid)]
        discard(oid)
        kept(own_hub, repo, b"once")

    assert kept(own_hub, repo, b"once") == oid
    with monkeypatch.context() as patched:
        patched.setattr("hubkit.server.repos.lfs.flush_files", goes_and_comes)
        assert lfs.flush([oid]) == []
    assert unflushed() == [oid]  # the file of this name is another one now
    assert lfs.flush([oid]) == []
    assert unflushed() == []


def test_who_flushes_little_does_not_wait_for_all_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many, few = ([tmp_path / f"{name}{number}" for number in range(count)] for name, count in (("m", 500), ("f", 2)))
    for path in (*many, *few):
        path.touch()
    flushed, begun, sync, of_few = 0, threading.Event(), os.fsync, {path.stat().st_ino for path in few}

    def note(handle: int) -> None:
        nonlocal flushed
        if os.fstat(handle).st_ino not in of_few:
            may_go_on.acquire()
            flushed += 1
            if flushed == 40:
                begun.set()
        sync(handle)

    may_go_on = threading.Semaphore(40)
    monkeypatch.setattr(os, "fsync", note)
    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(flush_files, many)
        assert begun.wait(60)
        own = threads.submit(lambda: (flush_files(few), flushed)[1])
        may_go_on.release(60)
        try:
            assert own.result(30) <= 100
        finally:
            may_go_on.release(500)
        other.result()
    assert flushed == 500
