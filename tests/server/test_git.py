"""The real git clones from the Hub, fetches, pulls and pushes."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import os
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from access_samples import listening
from commands import until
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from real_git import Git, address, git, needs_git, pack_of, push_body, push_raw

from hubkit.server.fsck import fsck
from hubkit.server.process import Running
from hubkit.server.repos.git import Git as GitRepo
from hubkit.server.smart import incoming
from hubkit.server.smart.packets import ProtocolError, read_push, report

pytestmark = needs_git
__all__ = ["git"]
MakeToken = Callable[..., str]


def clone(git: Git, url: str, into: Path, *options: str) -> Path:
    """A clone whose large files are git-lfs's."""
    git("lfs", "install", "--skip-repo", at=into.parent)
    git("clone", "-q", *options, url, str(into), at=into.parent)
    return into


def commit(git: Git, work: Path, files: dict[str, bytes], message: str = "by git") -> str:
    """Commit files; the id of the commit."""
    for name, content in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(content)
    git("add", "-A", at=work)
    git("commit", "-qm", message, at=work)
    return git("rev-parse", "HEAD", at=work).stdout.strip()


def stored(hub: Running) -> set[str]:
    """Every file of the repos, and whatever is on its way."""
    folders = (hub.data / "git", hub.data / "tmp", hub.data / "lfs")
    return {str(path) for folder in folders for path in folder.rglob("*") if path.is_file()}


def refs(api: HfApi) -> dict[str, str]:
    """Every ref of the model and its commit."""
    found = api.list_repo_refs("me/model", include_pull_requests=True)
    return {ref.ref: ref.target_commit for ref in [*found.branches, *found.tags, *(found.pull_requests or [])]}


def test_clone_commit_push_pull(api: HfApi, hub: Running, git: Git, tmp_path: Path) -> None:
    api.create_repo("me/model", private=True)
    large = [CommitOperationAdd("a.txt", b"one"), CommitOperationAdd("w.bin", b"\0" * 5000)]
    api.create_commit("me/model", large, commit_message="two files")
    url = address(hub.url, hub.token, "me/model")
    work = clone(git, url, tmp_path / "work")
    assert (work / "a.txt").read_bytes() == b"one" and (work / "w.bin").read_bytes() == b"\0" * 5000
    weights = os.urandom(2000)
    head = commit(git, work, {"b.txt": b"two", "x.safetensors": weights, "run.sh": b"#!/bin/sh\n"})
    git("push", "-q", "origin", "main", at=work)
    assert api.model_info("me/model").sha == head == api.list_repo_commits("me/model")[0].commit_id
    item = api.get_paths_info("me/model", ["x.safetensors"])[0]
    assert item.lfs is not None and item.lfs.sha256 == hashlib.sha256(weights).hexdigest()  # type: ignore[union-attr]
    assert Path(api.hf_hub_download("me/model", "x.safetensors")).read_bytes() == weights
    api.create_commit("me/model", [CommitOperationAdd("c.txt", b"three")], commit_message="over the API")
    git("pull", "-q", at=work)
    assert (work / "c.txt").read_bytes() == b"three"
    for version in ("0", "1", "2"):
        listed = git("-c", f"protocol.version={version}", "ls-remote", f"{url}.git", at=work).stdout
        assert f"{api.model_info('me/model').sha}\trefs/heads/main" in listed
    git("lfs", "lock", "x.safetensors", at=work)
    assert "x.safetensors" in git("lfs", "locks", at=work).stdout
    commit(git, work, {"x.safetensors": weights[::-1]})
    git("push", "-q", "origin", "main", at=work)
    git("lfs", "unlock", "x.safetensors", at=work)
    assert fsck(hub.data) == []


def test_every_kind_of_repo_and_clone(api: HfApi, hub: Running, git: Git, tmp_path: Path) -> None:
    for kind in ("dataset", "space"):
        api.create_repo("me/data", repo_type=kind, space_sdk="static" if kind == "space" else None)
        work = clone(git, address(hub.url, hub.token, f"{kind}s/me/data.git"), tmp_path / kind)
        head = commit(git, work, {"a.txt": b"a"})
        git("push", "-q", at=work)
        assert api.repo_info("me/data", repo_type=kind).sha == head
    for number in range(3):
        api.upload_file(path_or_fileobj=b"%d" % number, path_in_repo="n", repo_id="me/data", repo_type="dataset")
    url = f"{hub.url}/datasets/me/data"
    shallow = clone(git, address(hub.url, hub.token, "datasets/me/data"), tmp_path / "shallow", "--depth=1")
    assert git("rev-list", "--count", "HEAD", at=shallow).stdout == "1\n"
    head = commit(git, shallow, {"s": b"s"})
    git("push", "-q", at=shallow)
    assert api.dataset_info("me/data").sha == head
    git("fetch", "-q", "--unshallow", at=shallow)
    assert git("rev-list", "--count", "HEAD", at=shallow).stdout == "6\n"
    for version in ("0", "2"):
        partial = tmp_path / f"partial{version}"
        git(
            "-c",
            f"protocol.version={version}",
            "clone",
            "-q",
            "--no-checkout",
            "--filter=blob:none",
            url,
            str(partial),
            at=tmp_path,
        )
        assert "?" in git("rev-list", "--objects", "--missing=print", "HEAD", at=partial).stdout
        git("checkout", "-q", "main", at=partial)
        assert (partial / "n").read_bytes() == b"2"


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link": (lambda work: (work / "link").symlink_to("/etc/passwd"), "link: it is a symbolic link"),
    "a device of Windows": (lambda work: (work / "con.txt").write_text("x"), "device name on Windows"),
    "a backslash": (lambda work: (work / "a\\b").write_text("x"), "backslash"),
    "no UTF-8": (lambda work: Path(os.fsdecode(bytes(work) + b"/\xff")).write_text("x"), "not UTF-8"),
    "a large file": (lambda work: (work / "big.txt").write_bytes(b"x" * 10_500_000), "remote:   big.txt: 10.5 MB"),
    "a bad card": (lambda work: (work / "README.md").write_text("---\nlicense: [\n---\n"), "metadata of README.md"),
    "a pointer to nothing": (
        lambda work: (work / "p").write_bytes(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 5\n" % (b"0" * 64)
        ),
        "was not uploaded, such as p",
    ),
}  # fmt: skip


def test_a_refused_push_says_why_and_leaves_nothing(
    api: HfApi, hub: Running, git: Git, tmp_path: Path, make_token: MakeToken
) -> None:
    api.create_repo("me/model")
    work = clone(git, address(hub.url, hub.token, "me/model"), tmp_path / "work")
    before, heads = stored(hub), refs(api)
    for name, (write, reason) in REFUSED.items():
        write(work)
        commit(git, work, {"and.txt": name.encode()})
        refused = git("push", "origin", "main", "HEAD:refs/heads/other", at=work, check=False)
        assert refused.returncode == 1 and reason in refused.stderr, (name, refused.stderr)
        assert (refs(api), stored(hub)) == (heads, before), name
        git("reset", "-q", "--hard", "origin/main", at=work)
    git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module", at=work)
    git("commit", "-qm", "a module", at=work)
    assert "module: it is a submodule" in git("push", at=work, check=False).stderr
    git("reset", "-q", "--hard", "origin/main", at=work)
    for target, reason in {
        "HEAD:refs/notes/x": "branches, tags and pull requests", "HEAD:refs/pr/7": "open the pull request",
        ":main": "main cannot be deleted", "HEAD:refs/heads/refs/x": "does not start with 'refs/'",
        "HEAD^{tree}:refs/tags/tree": "would lead to a tree",
    }.items():  # fmt: skip
        refused = git("push", "origin", target, at=work, check=False)
        assert refused.returncode == 1, target
        assert reason.replace("leads? ", "lead ") in refused.stderr or "would lead to a tree" in refused.stderr, (
            refused.stderr
        )
    assert (refs(api), stored(hub)) == (heads, before)
    reader = address(hub.url, make_token("me2", "read"), "me/model")
    refused = git("push", reader, "HEAD:main", at=work, check=False)
    assert refused.returncode == 128 and "read-only" in refused.stderr
    api.update_repo_settings("me/model", private=True)
    for url, words in {reader: "not found", f"{hub.url}/me/model": "could not read Username"}.items():
        hidden = git("ls-remote", url, at=work, check=False)
        assert hidden.returncode == 128 and words in hidden.stderr, hidden.stderr
        assert git("ls-remote", url.replace("/model", "/absent"), at=work, check=False).returncode == 128


def test_refs_move_together_or_not_at_all(api: HfApi, hub: Running, git: Git, tmp_path: Path) -> None:
    api.create_repo("me/model")
    work = clone(git, address(hub.url, hub.token, "me/model"), tmp_path / "work")
    one = commit(git, work, {"a": b"1"})
    git("tag", "light", at=work)
    git("tag", "-am", "told", "v1", at=work)
    git("push", "-q", "origin", "main", "HEAD:refs/heads/topic", "light", "v1", at=work)
    expected = {"refs/heads/main": one, "refs/heads/topic": one, "refs/tags/light": one, "refs/tags/v1": one}
    assert refs(api) == expected
    two = commit(git, work, {"a": b"2"})
    refused = git("push", "origin", "main", "HEAD:refs/heads/topic/below", at=work, check=False)
    assert "git cannot hold it beside refs/heads/topic" in refused.stderr and refs(api) == expected
    git(
        "push", "-q", "origin", ":topic", "HEAD:refs/heads/topic/below", at=work
    )  # the folder takes the place of the ref
    git("push", "-q", "origin", ":v1", at=work)
    assert refs(api) == {"refs/heads/main": one, "refs/heads/topic/below": two, "refs/tags/light": one}
    git("commit", "-q", "--amend", "-m", "again", at=work)
    git("push", "-q", "origin", "HEAD:main", at=work)
    git("reset", "-q", "--hard", one, at=work)
    assert git("push", "origin", "main", at=work, check=False).returncode == 1, "git itself asks for --force"
    git("push", "-q", "--force", "origin", "main", at=work)
    assert api.model_info("me/model").sha == one
    pack = pack_of(tmp_path / "home", work, two)
    stale = push_raw(hub, "me/model", push_body((two, two[::-1], "refs/heads/main")))
    assert "unpack ok" in stale and "ng refs/heads/main" in stale
    moved = push_raw(
        hub, "me/model", push_body((two, one, "refs/heads/main"), (None, two, "refs/heads/new"), pack=pack)
    )
    assert "ng refs/heads/main fetch first" in moved and "ng refs/heads/new" in moved
    twice = push_raw(hub, "me/model", push_body(*[(None, two, "refs/heads/new")] * 2, pack=pack))
    assert "names a ref twice" in twice
    assert refs(api) == {"refs/heads/main": one, "refs/heads/topic/below": two, "refs/tags/light": one}
    for ref in (
        "refs/heads//main",
        "refs//heads/main",
        "refs/heads/./main",
        "refs/heads/main/",
        "refs/heads/../heads/main",
    ):
        words = push_raw(hub, "me/model", push_body((one, None, ref)))
        assert f"ng {ref} " in words and refs(api)["refs/heads/main"] == one, words
    stray = commit(git, work, {"con": b"x"})
    sent = pack_of(tmp_path / "home", work, stray, two, f"^{one}")
    words = push_raw(hub, "me/model", push_body((None, two, "refs/heads/new"), pack=sent))
    assert f"the commit {stray}, to which no ref" in words
    with pytest.raises(Exception, match="404"):
        api.create_branch("me/model", branch="late", revision=stray)
    assert fsck(hub.data) == []


def test_what_would_cost_its_readers_much_is_refused(api: HfApi, hub: Running, git: Git, tmp_path: Path) -> None:
    api.create_repo("me/model")
    work, home = clone(git, address(hub.url, hub.token, "me/model"), tmp_path / "work"), tmp_path / "home"
    before, main = stored(hub), refs(api)["refs/heads/main"]

    def tree_of(*lines: str) -> str:
        words = ["git", "mktree", "--missing"]
        given = "".join(f"{line}\n" for line in lines)
        return subprocess.run(words, cwd=work, input=given, text=True, capture_output=True, check=True).stdout.strip()

    def commit_of(tree: str, *parents: str) -> str:
        words = [word for parent in parents for word in ("-p", parent)]
        return git("commit-tree", tree, *words, "-m", "x", at=work).stdout.strip()

    def pushed(new: str, *more: str, ref: str = "refs/heads/x") -> str:
        pack = pack_of(home, work, new, *more, "^origin/main")
        return push_raw(hub, "me/model", push_body((None, new, ref), pack=pack))

    (work / "zeros").write_bytes(bytes(11_000_000))
    zeros, tree = git("hash-object", "-w", "zeros", at=work).stdout.strip(), f"{main}^{{tree}}"
    assert f"The file {zeros} is too large: 11.0 MB" in pushed(commit_of(tree, main), zeros), "no commit leads to it"
    for ref in ("refs/heads/x", "refs/tags/x"):
        assert "too large" in pushed(zeros, ref=ref)
    parents = [commit_of(tree, main)]
    for _ in range(100):
        parents.append(commit_of(tree, parents[-1]))
    assert "more than 100 parents" in pushed(commit_of(tree, *parents))
    empty = git("hash-object", "-w", "/dev/null", at=work).stdout.strip()
    long = tree_of(f"100644 blob {empty}\t{'n' * 5000}")
    assert "longer than 4,096 bytes" in pushed(commit_of(tree_of(f"040000 tree {long}\ta"), main))
    tree = tree_of(*(f"100644 blob {empty}\t{number:03}" for number in range(100)))
    for _ in range(3):
        tree = tree_of(*(f"040000 tree {tree}\t{number:03}" for number in range(100)))
    assert "too many files" in pushed(commit_of(tree, main))
    assert (refs(api)["refs/heads/main"], stored(hub)) == (main, before)


def test_to_tell_what_a_large_object_is_it_is_not_read(git: Git, tmp_path: Path) -> None:
    git("init", "-q", "--bare", str(tmp_path / "bare"), at=tmp_path)
    (tmp_path / "zeros").write_bytes(bytes(20_000_000))
    oid = git("hash-object", "-w", str(tmp_path / "zeros"), at=tmp_path / "bare").stdout.strip()
    repo = GitRepo(tmp_path / "bare")
    for _ in ("loose", "packed"):
        tracemalloc.start()
        assert repo.resolve(oid) is None and repo.objects.head(oid) == ("blob", 20_000_000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()
        words = ["git", "pack-objects", "-q", "objects/pack/pack"]
        subprocess.run(words, cwd=repo.path, input=f"{oid}\n".encode(), check=True, capture_output=True)
        git("prune-packed", "-q", at=tmp_path / "bare")


def test_the_files_of_all_pushes_together_are_bounded(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each push adds fewer files than one may, to those that are there."""
    work, bare = tmp_path / "work", tmp_path / "bare"
    git("init", "-q", "--bare", str(bare), at=tmp_path)
    git("init", "-q", str(work), at=tmp_path)
    one = commit(git, work, {f"{number}": b"" for number in range(30)})
    git("push", "-q", str(bare), "HEAD:refs/heads/main", at=work)
    two = commit(git, work, {f"more/{number}": b"" for number in range(30)})
    monkeypatch.setattr(incoming, "MOST_FILES", 50)

    def read(name: str, *tips: str) -> list[str]:
        (tmp_path / name).mkdir()
        reading, file = incoming.Incoming(bare, tmp_path / name), tmp_path / f"{name}.pack"
        file.write_bytes(pack_of(tmp_path / "home", work, *tips, f"^{one}"))
        with file.open("rb") as pack:
            reading.read_pack(pack, 2**20)
        return reading.check(list(tips), 2**20).commits

    with pytest.raises(incoming.RefusedError, match=f"{two} has more than 50 files"):
        read("a", two)
    three = commit(git, work, {f"{number}": b"more" for number in range(25)})
    monkeypatch.setattr(incoming, "MOST_FILES", 60)
    assert read("c", three) == [three, two]
    monkeypatch.setattr(incoming, "_MOST_OF_ALL", 100)
    with pytest.raises(incoming.RefusedError, match="too many files together"):
        read("d", two, three)


def test_pull_requests_are_pushed_to_by_their_authors(
    api: HfApi, hub: Running, git: Git, tmp_path: Path, make_token: MakeToken
) -> None:
    api.create_repo("me/model")
    theirs = HfApi(endpoint=hub.url, token=make_token("zoe"))
    number = theirs.create_pull_request("me/model", title="mine").num
    url = address(hub.url, str(theirs.token), "me/model")
    work = clone(git, url, tmp_path / "work")
    git("fetch", "-q", "origin", f"refs/pr/{number}", at=work)
    git("checkout", "-q", "FETCH_HEAD", at=work)
    commit(git, work, {"a": b"a"}, "first")
    head = commit(git, work, {"w.bin": os.urandom(900)}, "second")
    refused = git("push", "origin", "HEAD:main", at=work, check=False)
    assert "you may push to your own pull requests only" in refused.stderr
    with listening() as (listener, heard):
        api.create_webhook(url=f"{listener}/hook", watched=[{"type": "model", "name": "me/model"}], domains=["repo"])
        git("push", "-q", "origin", f"HEAD:refs/pr/{number}", at=work)
        until(lambda: bool(heard), 20)
    events = api.get_discussion_details("me/model", number).events
    told = [getattr(event, "summary", "") for event in events if event.type == "commit"]
    assert refs(api)[f"refs/pr/{number}"] == head and told[-2:] == ["first", "second"]
    assert any(head in told[":body"] and f"refs/pr/{number}" in told[":body"] for told in heard)
    other = address(hub.url, make_token("max"), "me/model")
    assert "somebody else" in git("push", other, f"+HEAD^:refs/pr/{number}", at=work, check=False).stderr
    api.merge_pull_request("me/model", number)
    assert api.file_exists("me/model", "w.bin") and fsck(hub.data) == []


def test_a_large_push_is_kept_as_one_pack(api: HfApi, hub: Running, git: Git, tmp_path: Path) -> None:
    api.create_repo("me/model")
    work = clone(git, address(hub.url, hub.token, "me/model"), tmp_path / "work")
    files = {f"d{number % 7}/f{number}.txt": b"%d" % number for number in range(200)}
    head = commit(git, work, files)
    git("tag", "-am", "packed", "v1", at=work)
    git("push", "-q", "origin", "main", "v1", at=work)
    packs = list((hub.data / "git").glob("*/objects/pack/*.pack"))
    assert len(packs) == 1 and fsck(hub.data) == []
    names = {item.path for item in api.list_repo_tree("me/model", recursive=True)}
    assert files.keys() < names and api.list_repo_refs("me/model").tags[0].target_commit == head
    api.upload_file(path_or_fileobj=b"new", path_in_repo="d1/new.txt", repo_id="me/model")
    git("pull", "-q", at=work)
    commit(git, work, {"d1/f1.txt": b"changed"})
    git("push", "-q", at=work)
    again = clone(git, address(hub.url, hub.token, "me/model"), tmp_path / "again")
    assert (again / "d1/new.txt").exists() and (again / "d1/f1.txt").read_bytes() == b"changed"
    assert fsck(hub.data) == []
    content = bytearray(packs[0].read_bytes())
    content[len(content) // 2] ^= 1
    packs[0].chmod(0o600)
    packs[0].write_bytes(content)
    assert any(packs[0].name in problem for problem in fsck(hub.data))
    refused = git("push", "origin", "HEAD^:refs/heads/late", at=work, check=False)
    assert refused.returncode != 0


def test_bodies_are_bounded_and_the_environment_is_not_the_clients(hub: Running, api: HfApi, raw: httpx.Client) -> None:
    api.create_repo("me/model")
    ask = b"0014command=ls-refs\n0016object-format=sha10001" + b"0000"
    headers = {"Content-Type": "application/x-git-upload-pack-request", "Git-Protocol": "version=2"}
    path = "/me/model.git/git-upload-pack"

    def post(content: bytes, **more: str) -> httpx.Response:
        return raw.post(path, content=content, headers=headers | more)

    plain, packed = post(ask), post(gzip.compress(ask), **{"Content-Encoding": "gzip"})
    assert plain.status_code == 200 and plain.content == packed.content and b"refs/heads/main" in plain.content
    assert post(gzip.compress(b"0" * 2**25), **{"Content-Encoding": "gzip"}).status_code == 413
    assert post(gzip.compress(ask)[:-9], **{"Content-Encoding": "gzip"}).status_code == 400
    assert post(ask, **{"Content-Encoding": "br"}).status_code == 415
    assert post(ask, **{"Content-Type": "text/plain"}).status_code == 415
    assert post(b"no packet at all").status_code == 400
    hostile = {"Git-Protocol": "version=2:$(touch /tmp/x)\x01"}
    assert raw.get(
        "/me/model/info/refs?service=git-upload-pack", headers={**hostile, "Git-Protocol": "version=2;x"}
    ).content.startswith(b"001e# service")
    assert raw.get("/me/model/info/refs?service=git-upload-archive").status_code == 400
    assert raw.get("/me/model/info/refs").headers["content-type"].startswith("text/plain")
    push = {"Content-Type": "application/x-git-receive-pack-request"}
    for wrong in (b"zzzz", b"0003", b"00ff short", push_body(("0" * 40, "1" * 40, "heads/x"))):
        assert raw.post("/me/model/git-receive-pack", content=wrong, headers=push).status_code == 400
    assert raw.post("/me/model/git-receive-pack", content=b"0000", headers=push).content == b""
    for pack in (b"", b"PACK", b"PACK\0\0\0\2\xff\xff\xff\xff", b"PACK\0\0\0\2\0\0\0\1" + b"x" * 50):
        said = push_raw(hub, "me/model", push_body((None, "1" * 40, "refs/heads/x"), pack=pack))
        assert "ng refs/heads/x refused" in said and str(hub.data) not in said
    basic = base64.b64encode(f"anybody:{hub.token}".encode()).decode()
    assert (
        raw.get("/me/model/info/refs?service=git-receive-pack", headers={"Authorization": f"Basic {basic}"}).status_code
        == 200
    )
    assert fsck(hub.data) == []


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_push_or_an_error(content: bytes) -> None:
    for body in (content, b"%04x" % (len(content) + 4) + content + b"0000"):
        with contextlib.suppress(ProtocolError):
            asked = read_push(io.BytesIO(body))
            assert report(asked, "ok", {}, ["\N{SNOWMAN}"]).endswith(b"0000")
    with pytest.raises(ProtocolError, match="too many packets"):
        read_push(io.BytesIO(b"000cshallow " * 30_000))


def test_what_is_not_a_fetch_is_the_clients_mistake(api: HfApi, raw: httpx.Client) -> None:
    """And not a damaged repo: 520 sends its owner to look for what is not broken."""
    api.create_repo("me/model")
    kind = {"Content-Type": "application/x-git-upload-pack-request"}
    bodies = [b"", b"null", b"0000", b"000bhello x", b"0032want", b"0014command=nonsense\n0000", b"0001", b"0002"]
    for body in bodies:
        for headers in (kind, kind | {"Git-Protocol": "version=2"}):
            answer = raw.post("/me/model.git/git-upload-pack", content=body, headers=headers)
            assert answer.status_code == 400 and "not a fetch" in answer.text, (body, headers, answer.text)
