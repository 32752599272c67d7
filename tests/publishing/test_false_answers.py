"""One route of the Hub answers with something false, for ever: the branch stays as it was, or is right; words are true.

The Hub is real and its answers are scripted. The enumeration of all answers and all lies is in ``tests/faults``.
"""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd
from releases import faults, requests, target_of, weights, writes

from hubkit.core.errors import ConflictError, HubkitError, RemoteError, UsageError
from hubkit.core.files import Manifest, digests
from hubkit.core.trees import Tree, content_entry
from hubkit.hub.client import Hub, connect
from hubkit.hub.commits import LargeFile, addition
from hubkit.hub.errors import NotAnAnswer, explain
from hubkit.hub.uploads import upload
from hubkit.publishing.bundle import Bundle
from hubkit.publishing.revisions import create, delete, plan_promotion, plan_rollback, tag
from hubkit.publishing.staging import stage
from hubkit.server import process
from hubkit.server.process import Running

REPO = "hubkit/some-model"
SMALL = {"a.txt": b"three", "b/c.json": b'{"b": 1}'}
Act = Callable[[Hub], object]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = process.start(tmp_path_factory.mktemp("hub"), port=0, faults=True)
    yield running
    process.stop(running.data)


@pytest.fixture
def mine(hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """``main`` has a.txt, old.txt and weights in their second version, ``new`` other files."""
    monkeypatch.setattr("hubkit.hub.retry._pause", lambda state: 0.0)
    faults(hub)
    made = connect(target_of(hub, tmp_path))
    if made.repo_exists(REPO):
        made.api.delete_repo(REPO)
    made.ensure_repo(REPO, "public")
    put(made, "main", {"a.txt": b"one", "old.txt": b"old", "w.safetensors": weights(1)})
    put(made, "main", {"a.txt": b"two"})
    made.api.create_branch(REPO, branch="new")
    made.api.delete_file("old.txt", REPO, revision="new")
    put(made, "new", {**SMALL, "w.safetensors": weights(3)})
    return connect(target_of(hub, tmp_path))


def put(hub: Hub, branch: str, files: dict[str, bytes]) -> None:
    added = [CommitOperationAdd(path, content) for path, content in files.items()]
    hub.api.create_commit(REPO, added, commit_message="put", revision=branch)


def lie(
    route: str, body: object, *, count: int = 0, status: int = 200, kind: str = "application/json"
) -> dict[str, object]:
    text = body if isinstance(body, str) else json.dumps(body)
    headers = {"content-type": kind}
    return {"route": route, "action": "status", "status": status, "body": text, "headers": headers, "count": count}


def fresh(mine: Hub) -> Hub:
    """Another command: it remembers nothing."""
    return connect(mine.target)


def promote(mine: Hub) -> str:
    return plan_promotion(mine, REPO, "new", "main").apply(mine)


def roll_back(mine: Hub) -> str:
    return plan_rollback(mine, REPO, "main").apply(mine)


BOTH = pytest.mark.parametrize("act", [promote, roll_back])


def held(mine: Hub) -> Tree:
    """The files of main, as a client that nobody lies to sees them."""
    seen = fresh(mine)
    return seen.tree(REPO, str(seen.head(REPO, "main")))


@pytest.mark.parametrize("body", ["thref", "thr", "", "<html>Log in</html>", "null"])
@pytest.mark.fault("L1")
def test_a_file_that_comes_otherwise_than_it_is_listed_is_not_copied(hub: Running, mine: Hub, body: str) -> None:
    before, goal = held(mine), mine.tree(REPO, str(mine.head(REPO, "new")))
    faults(hub, lie("GET .*/resolve/.*/a.txt", body, kind="text/plain"))
    with pytest.raises(RemoteError, match=r"a\.txt of .* has other bytes than the Hub lists"):
        promote(mine)
    assert writes(hub) == []
    faults(hub)
    assert held(mine) == before
    faults(hub, lie("GET .*/resolve/.*/a.txt", body, kind="text/plain", count=2))
    promote(mine)
    faults(hub)
    assert held(mine) == goal, "twice wrong and then right is right"


LISTS = {
    "tree": "GET .*/tree/",
    "revision": "GET .*/revision/",
    "refs": "GET .*/refs",
    "commits": "GET .*/commits/",
}


@BOTH
@pytest.mark.parametrize("body", ["[]", "{}", "null", "7", '""', "<html></html>"])
@pytest.mark.parametrize("route", ["tree", "revision", "refs"])
@pytest.mark.fault("L1")
def test_a_list_that_is_none_moves_nothing(hub: Running, mine: Hub, act: Act, route: str, body: str) -> None:
    before = held(mine)
    faults(hub, lie(LISTS[route], body))
    with pytest.raises((RemoteError, UsageError)) as told:
        act(mine)
    assert writes(hub) == [] and "bug" not in str(told.value)
    faults(hub)
    assert held(mine) == before
    act(fresh(mine))
    assert held(mine) != before


@pytest.mark.fault("L1")
def test_a_list_without_its_end_is_no_list(hub: Running, mine: Hub) -> None:
    """The branch would keep the old version of what the list leaves out."""
    commit = str(mine.head(REPO, "main"))
    listed = mine.api.list_repo_tree(REPO, revision=commit, recursive=True)
    items = [
        {"type": "file", "path": item.path, "size": item.size, "oid": item.blob_id}
        for item in listed
        if item.path == "a.txt"
    ]
    faults(hub, lie(f"GET .*/tree/{commit}", items))
    with pytest.raises(NotAnAnswer, match=r"lists the files of .* in two ways"):
        promote(mine)
    assert writes(hub) == []


@BOTH
@pytest.mark.fault("L1")
def test_a_commit_that_was_never_made_is_no_success(hub: Running, mine: Hub, act: Act) -> None:
    before = held(mine)
    faults(hub, lie("POST .*/commit/main", {"commitOid": "5" * 40, "commitUrl": "x", "success": True}))
    with pytest.raises(RemoteError, match=r"answered that a commit was made to 'main' of .*, but it is still at"):
        act(mine)
    faults(hub)
    assert held(mine) == before


@pytest.mark.parametrize("count", [1, 0])
@BOTH
@pytest.mark.fault("L1")
def test_a_commit_that_is_made_with_other_content_is_taken_back(hub: Running, mine: Hub, act: Act, count: int) -> None:
    before, first = held(mine), mine.history(REPO, "main")[1].id
    old, new = (base64.b64encode(text).decode() for text in (b"three", b"thref"))
    if act is roll_back:
        old, new = (base64.b64encode(text).decode() for text in (b"one", b"onf"))
    faults(hub, {"route": "POST .*/commit/main", "action": "rewrite", "find": old, "body": new, "count": count})
    with pytest.raises(ConflictError) as told:
        act(mine)
    assert "with other files than were sent" in told.value.message and "were put back" in told.value.message
    faults(hub)
    assert held(mine) == before
    act(fresh(mine))
    assert held(mine) == (mine.tree(REPO, "new") if act is promote else mine.tree(REPO, first))


@pytest.mark.fault("L1")
def test_what_cannot_be_put_back_is_said(hub: Running, mine: Hub) -> None:
    head = str(mine.head(REPO, "main"))
    old, new = (base64.b64encode(text).decode() for text in (b"three", b"thref"))
    faults(
        hub,
        {"route": "POST .*/commit/main", "action": "rewrite", "find": old, "body": new},
        {"route": "POST .*/commit/main", "action": "status", "status": 403, "nth": 2, "count": 0},
    )
    with pytest.raises(ConflictError) as told:
        promote(mine)
    assert f"--to {head}" in str(told.value.hint) and "failed" in told.value.message
    faults(hub)
    mended = plan_rollback(fresh(mine), REPO, "main", to=head)
    mended.apply(mine)
    assert held(mine) == mine.tree(REPO, head)


@pytest.mark.parametrize(
    "said", [{"uploadMode": "regular", "shouldIgnore": True}, {"uploadMode": "lfs", "shouldIgnore": False}]
)
@pytest.mark.fault("L2")
def test_the_hub_cannot_talk_a_file_out_of_a_commit(
    hub: Running, mine: Hub, tmp_path: Path, said: dict[str, object]
) -> None:
    """Not by calling it ignored, nor the same as before, nor one for LFS or not."""
    content = {"README.md": b"# Card\n", "w.safetensors": weights(9), ".gitattributes": b"*.safetensors filter=lfs\n"}
    for path, raw in content.items():
        (tmp_path / path).write_bytes(raw)
    bundle = Bundle(
        {path: tmp_path / path for path in content}, Manifest({path: digests(tmp_path / path) for path in content})
    )
    same = {path: bundle.manifest.files[path].git for path in content}
    answer = {"files": [{"path": path, "oid": same[path], **said} for path in content]}
    faults(hub, lie("POST .*/preupload/", answer))
    commit = stage(mine, REPO, "staging/main", bundle, title="Stage")
    faults(hub)
    tree = fresh(mine).tree(REPO, commit)
    assert tree.keys() == content.keys()
    assert all(tree[path].same(content_entry(raw)) for path, raw in content.items())
    assert {path for path, entry in tree.items() if entry.sha256} == {"w.safetensors"}


@pytest.mark.fault("L2")
def test_a_large_file_that_is_said_to_be_there_is_missed_by_the_commit(hub: Running, mine: Hub, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights(8))
    there = {"objects": [{"oid": digests(path).sha256, "size": path.stat().st_size}], "transfer": "basic"}
    faults(hub, lie("objects/batch", there))
    written = upload(mine, REPO, "main", [addition("w.safetensors", path, digests(path), in_lfs=True)])
    assert written == [LargeFile("w.safetensors", digests(path).sha256, path.stat().st_size)]
    head = str(mine.head(REPO, "main"))
    with pytest.raises(HubkitError, match="was not uploaded"):
        mine.create_commit(REPO, "main", written, parent=head, title="m")
    assert fresh(mine).head(REPO, "main") == head


CALLS: dict[str, Act] = {
    "head": lambda hub: hub.head(REPO, "main"),
    "resolve": lambda hub: hub.resolve(REPO, "main"),
    "tree": lambda hub: hub.tree(REPO, "main"),
    "history": lambda hub: hub.history(REPO, "main"),
    "whoami": lambda hub: hub.whoami(),
    "pull requests": lambda hub: hub.pull_requests(REPO, "hubkit"),
    "pull request": lambda hub: hub.pull_request(REPO, 1),
    "pull request heads": lambda hub: hub.pull_request_heads(REPO),
    "runtime": lambda hub: hub.runtime(REPO),
    "visibility": lambda hub: hub.visibility(REPO),
    "create branch": lambda hub: create(hub, REPO, "other"),
    "tag": lambda hub: tag(hub, REPO, "v1"),
    "delete branch": lambda hub: delete(hub, REPO, "new", force=True),
    "ensure repo": lambda hub: hub.ensure_repo("hubkit/another", "public"),
    "commit": lambda hub: hub.create_commit(REPO, "main", [], parent="0" * 40, title="m"),
    "pull request opened": lambda hub: hub.open_pull_request(REPO, [], parent="0" * 40, title="m", text=""),
    "tokens": lambda hub: hub.tokens("label"),
    "reading token": lambda hub: hub.reading_token("label"),
    "page session": lambda hub: hub.page_session("/"),
    "Spaces": lambda hub: hub.spaces_using(REPO, 3),
    "files": lambda hub: hub.download(REPO, "main"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.fault("L5")
def test_no_answer_of_the_hub_is_a_bug_of_hubkit(
    hub: Running, mine: Hub, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    around = {"route": "/api/", "action": "status", "status": 307, "headers": {"location": "/api/round"}, "count": 0}
    for answer in (*(lie("/api/", body) for body in ("{}", "[]", "null", '"x"', "[1]", '{"a"', "<p>")), around):
        faults(hub, answer)
        try:
            CALLS[name](fresh(mine))
        except HubkitError:
            pass
        except Exception as error:
            raise AssertionError(f"{answer.get('body', 'round')}: {explain(error, hub.url)}") from error
    faults(hub)


# --- a branch below a branch


@pytest.mark.parametrize(("there", "name"), [("b/c", "b"), ("b", "b/c"), ("b/c", "b/c/d")])
def test_a_branch_in_the_way_is_named(hub: Running, mine: Hub, there: str, name: str) -> None:
    create(mine, REPO, there)
    faults(hub)
    for act in (
        lambda: create(mine, REPO, name),
        lambda: create(mine, REPO, name, dry_run=True),
        lambda: plan_promotion(mine, REPO, "new", name).apply(mine),
    ):
        with pytest.raises(UsageError, match=f"Git cannot hold a branch '{name}' beside the branch '{there}'") as told:
            act()
        assert f"hubkit revisions delete {REPO} {there}" in str(told.value.hint)
    assert writes(hub) == []
    create(mine, REPO, "bc")


def test_a_tag_in_the_way_is_named(mine: Hub) -> None:
    tag(mine, REPO, "v1/a")
    with pytest.raises(UsageError, match="Git cannot hold a tag 'v1' beside the tag 'v1/a'"):
        tag(mine, REPO, "v1")


# --- what it costs


def test_a_promotion_needs_few_requests(
    hub: Running, mine: Hub, record_property: Callable[[str, object], None]
) -> None:
    faults(hub)
    promote(fresh(mine))
    asked = requests(hub)
    record_property("figure", f"requests of a promotion of 2 small files: {len(asked)}")
    assert len(asked) <= 17, "two of them ask for GGUF files of the weights that were there"
    assert not any("preupload" in line or "paths-info" in line for line in asked)
