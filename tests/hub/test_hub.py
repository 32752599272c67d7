"""Hub access against the embedded Hub: what is there, who may, how failures are told, how long a silence is borne."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from releases import admin, faults, requests, target_of, writes

from hubkit.core.errors import ConflictError, HubkitError, RefusedError, RemoteError, UsageError
from hubkit.core.target import Target
from hubkit.hub import retry
from hubkit.hub.client import Hub, connect
from hubkit.server.process import Running

REPO = "hubkit/some-model"
WRONG = "hf_" + "Zz9" * 12


@pytest.fixture
def mine(hub: Running, tmp_path: Path) -> Hub:
    """A connection as the owner, to a Hub with one public model."""
    connected = connect(target_of(hub, tmp_path))
    assert connected.ensure_repo(REPO, "public") is True
    return connected


@pytest.fixture
def deaf() -> Iterator[str]:
    """A listening socket that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(20)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_what_is_there(mine: Hub) -> None:
    account = mine.whoami()
    assert account is not None and account.role == "write"
    assert mine.repo_exists(REPO) and not mine.repo_exists("hubkit/nothing")
    assert mine.ensure_repo(REPO, "public") is False
    assert mine.visibility(REPO) == "public"
    head = mine.head(REPO, "main")
    assert head == mine.resolve(REPO, "main") == mine.refs(REPO).branches["main"]
    assert mine.head(REPO, "dpo-v0") is None
    tree = mine.tree(REPO, "main")
    assert ".gitattributes" in tree
    raw = mine.read_file(REPO, ".gitattributes", "main")
    assert raw is not None and len(raw) == tree[".gitattributes"].size
    assert mine.read_file(REPO, "nothing.txt", "main") is None
    assert mine.tree_if_there(REPO, "main") == tree and mine.tree_if_there(REPO, "f" * 40) is None
    assert [commit.id for commit in mine.history(REPO, "main")] == [head]


def test_branches_and_tags(mine: Hub) -> None:
    first = mine.head(REPO, "main")
    assert first is not None
    assert mine.create_branch(REPO, "dpo-v0", first) == first
    mine.api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=REPO)
    second = mine.head(REPO, "main")
    assert second is not None and second != first
    assert mine.create_branch(REPO, "dpo-v0", second) == first, "a branch that is there is not moved"
    mine.create_tag(REPO, "v1", "main")
    mine.create_tag(REPO, "v1", "main")
    assert mine.refs(REPO).tags == {"v1": second}
    with pytest.raises(UsageError, match="already has a tag 'v1'"):
        mine.create_tag(REPO, "v1", "dpo-v0")
    assert mine.delete_branch(REPO, "dpo-v0") is True
    assert mine.delete_branch(REPO, "dpo-v0") is False


def test_large_files_show_their_sha256_and_small_ones_their_git_id(mine: Hub) -> None:
    from huggingface_hub import CommitOperationAdd

    added = [CommitOperationAdd("w.safetensors", b"\0" * 2000), CommitOperationAdd("a.txt", b"a")]
    mine.api.create_commit(REPO, added, commit_message="add")
    tree = mine.tree(REPO, "main")
    assert tree["w.safetensors"].size == 2000 and tree["w.safetensors"].sha256 and not tree["w.safetensors"].git
    assert tree["a.txt"].git == "2e65efe2a145dda7ee51d1741299f848e5bf752e" and not tree["a.txt"].sha256


def test_the_visibility_is_read_back(hub: Running, mine: Hub) -> None:
    assert mine.ensure_repo("hubkit/secret", "private") is True
    assert mine.visibility("hubkit/secret") == "private"
    with pytest.raises(RefusedError, match=r"is private .* the recipe says public"):
        mine.ensure_repo("hubkit/secret", "public")
    with pytest.raises(RefusedError, match=r"is public .* the recipe says private"):
        mine.ensure_repo(REPO, "private")


@pytest.mark.parametrize(
    ("ask", "kind", "words"),
    [
        (lambda hub: hub.refs("hubkit/nothing"), UsageError, "There is no hubkit/nothing on http"),
        (lambda hub: hub.resolve(REPO, "nowhere"), UsageError, f"{REPO} has no revision 'nowhere'"),
        (lambda hub: hub.tree(REPO, "nowhere"), UsageError, "no revision 'nowhere'"),
        (lambda hub: hub.visibility("not a name"), UsageError, "not a name"),
    ],
)
def test_failures_are_one_sentence(mine: Hub, ask, kind: type[HubkitError], words: str) -> None:
    with pytest.raises(kind) as told:
        ask(mine)
    assert words in told.value.message and "\n" not in told.value.message
    assert not told.value.message.startswith(("Client error", "40"))


def test_rights(hub: Running, mine: Hub, tmp_path: Path) -> None:
    admin(hub, "POST", "users", {"name": "guest"})
    read = admin(hub, "POST", "tokens", {"user": mine.whoami().name, "role": "read"})["token"]  # type: ignore[union-attr]
    guest = admin(hub, "POST", "tokens", {"user": "guest", "role": "write"})["token"]
    assert mine.writing_problem(REPO) is None
    assert mine.writing_problem("hubkit/another") is None
    assert "there is no token" in str(connect(target_of(hub, tmp_path, None)).writing_problem(REPO))
    assert "is read-only" in str(connect(target_of(hub, tmp_path, read)).writing_problem(REPO))
    stranger = connect(target_of(hub, tmp_path, guest))
    assert "no right to write" in str(stranger.writing_problem(REPO))
    assert stranger.writing_problem("guest/another") is None
    with pytest.raises(RefusedError, match="lacks permission for hubkit/another") as told:
        stranger.ensure_repo("hubkit/another", "public")
    assert told.value.exit_code == 3
    # On the embedded Hub the owner may write in any namespace, so only other Hubs are asked about members.
    elsewhere = connect(replace(target_of(hub, tmp_path, guest), embedded=False))
    assert "not a member of hubkit" in str(elsewhere.writing_problem("hubkit/another"))
    with pytest.raises(RefusedError, match="does not accept this token"):
        connect(target_of(hub, tmp_path, WRONG)).writing_problem(REPO)


def test_a_private_repo_is_not_there_for_strangers(hub: Running, mine: Hub, tmp_path: Path) -> None:
    mine.ensure_repo("hubkit/secret", "private")
    stranger = connect(target_of(hub, tmp_path, None))
    assert not stranger.repo_exists("hubkit/secret")
    with pytest.raises(UsageError, match="There is no hubkit/secret"):
        stranger.tree("hubkit/secret", "main")


def test_reads_are_made_again(hub: Running, mine: Hub) -> None:
    faults(hub, {"route": "GET /api/models/.*/refs", "action": "status", "status": 500, "count": 2})
    assert mine.head(REPO, "main")
    assert len([line for line in requests(hub) if "refs" in line]) == 3
    faults(hub, {"route": "GET .*/refs", "action": "drop-before"}, {"route": "GET .*/tree", "action": "drop-after"})
    assert mine.head(REPO, "main") and mine.tree(REPO, "main")


def test_retry_after_is_honoured(hub: Running, mine: Hub) -> None:
    faults(hub, {"route": "GET .*/refs", "action": "status", "status": 429, "headers": {"Retry-After": "2"}})
    begun = time.monotonic()
    assert mine.head(REPO, "main")
    assert time.monotonic() - begun >= 2
    assert len([line for line in requests(hub) if "refs" in line]) == 2


def test_a_busy_hub_is_given_up(hub: Running, mine: Hub) -> None:
    far = {"Retry-After": "3600"}
    faults(hub, {"route": "GET .*/refs", "action": "status", "status": 503, "count": 0, "headers": far})
    with pytest.raises(RemoteError, match="answered 503"):
        mine.head(REPO, "main")
    assert len(requests(hub)) == 1, "nobody waits an hour"
    faults(hub, {"route": "GET .*/refs", "action": "status", "status": 503, "count": 0})
    with pytest.raises(RemoteError) as told:
        mine.head(REPO, "main")
    assert len(requests(hub)) == 4 and "Run the same command again" in str(told.value.hint)


def test_writes_are_made_once(hub: Running, mine: Hub) -> None:
    head = str(mine.head(REPO, "main"))
    for status, kind in ((500, RemoteError), (403, RefusedError), (402, RefusedError), (409, ConflictError)):
        faults(hub, {"route": "POST .*/tag", "action": "status", "status": status, "count": 0})
        with pytest.raises(kind):
            mine.create_tag(REPO, "v1", head)
        assert len(writes(hub)) == 1


@pytest.fixture
def asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where the client waits to ask again."""
    monkeypatch.setattr("hubkit.hub.retry._pause", lambda state: pytest.fail("it waits to ask again"))


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    pause = retry._pause
    monkeypatch.setattr("hubkit.hub.retry._pause", lambda state: waits.append(pause(state)) or waits[-1])
    with pytest.raises(RemoteError, match="cannot be reached") as told:
        connect(Target("http://127.0.0.1:9", tmp_path, WRONG)).whoami()
    assert told.value.exit_code == 5 and sum(waits) < 2


@pytest.mark.usefixtures("asks_once")
@pytest.mark.parametrize("name", ["whoami", "head", "tree", "repo_exists", "ensure_repo", "create_branch", "commit"])
def test_a_hub_that_never_answers(deaf: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBKIT_TIMEOUT", "0.5")
    hub = connect(Target(deaf, tmp_path, WRONG))
    calls = {
        "whoami": hub.whoami,
        "head": lambda: hub.head(REPO, "main"),
        "tree": lambda: hub.tree(REPO, "main"),
        "repo_exists": lambda: hub.repo_exists(REPO),
        "ensure_repo": lambda: hub.ensure_repo(REPO, "public"),
        "create_branch": lambda: hub.create_branch(REPO, "b", "a" * 40),
        "commit": lambda: hub.send(lambda: hub.api.create_commit(REPO, _one_file(), commit_message="m")),
    }
    with pytest.raises(RemoteError, match="did not answer in time") as told:
        calls[name]()
    assert WRONG not in str(told.value)


def _one_file() -> list[object]:
    from huggingface_hub import CommitOperationAdd

    return [CommitOperationAdd("x.txt", b"x")]


def test_a_timeout_that_is_no_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HUBKIT_TIMEOUT", "soon")
    with pytest.raises(UsageError, match="HUBKIT_TIMEOUT is 'soon'"):
        connect(Target("http://127.0.0.1:9", tmp_path, WRONG)).whoami()


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """Another Hub's address, and the Authorization headers that arrived there."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers.get("authorization", ""))
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", heard
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_token_goes_to_its_own_endpoint_only(
    hub: Running, mine: Hub, listener: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, heard = listener
    with pytest.raises(HubkitError):
        connect(Target(url, tmp_path, None)).head(REPO, "main")
    other = connect(Target(url, tmp_path, WRONG))
    with pytest.raises(HubkitError):
        other.head(REPO, "main")
    assert heard == ["", f"Bearer {WRONG}"]
    # Even when somebody hands the client the wrong one.
    heard.clear()
    with pytest.raises(HubkitError):
        other.query(lambda: other.api.model_info(REPO, token=str(mine.target.token)))
    assert heard == [""]


def test_the_users_own_login_is_not_used(hub: Running, listener: tuple[str, list[str]], tmp_path: Path) -> None:
    url, heard = listener
    code = (
        "import sys; from pathlib import Path; from hubkit.hub.client import connect\n"
        "from hubkit.core.target import Target\n"
        "hub = connect(Target(sys.argv[1], Path(sys.argv[2]), None))\n"
        "for ask in (lambda: hub.head('a/b', 'main'), lambda: hub.api.model_info('a/b', token=None),\n"
        "            lambda: hub.api.model_info('a/b', token=True), lambda: hub.read_file('a/b', 'x', 'main')):\n"
        "    try: ask()\n"
        "    except Exception: pass\n"
    )
    environment = {**os.environ, "HF_TOKEN": WRONG, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, url, str(tmp_path)], env=environment, check=True, timeout=60)
    assert len(heard) == 4 and not any(heard)


def test_no_message_holds_the_token(hub: Running, mine: Hub, tmp_path: Path) -> None:
    loud = {"X-Error-Message": f"the token {mine.target.token} and {WRONG} is bad"}
    faults(hub, {"route": "GET .*/refs", "action": "status", "status": 403, "headers": loud, "body": ""})
    with pytest.raises(RefusedError) as told:
        mine.head(REPO, "main")
    assert "is bad" in str(told.value)
    assert str(mine.target.token) not in str(told.value) and WRONG not in str(told.value)


def test_offline(hub: Running, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hubkit.hub.client import connect\n"
        "from hubkit.core.target import Target\n"
        "try: connect(Target(sys.argv[1], Path(sys.argv[2]), None)).head('a/b', 'main')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, hub.url, str(tmp_path)]
    said = subprocess.run(command, env=environment, check=True, timeout=60, capture_output=True, text=True).stdout
    assert said.startswith("RemoteError") and "HF_HUB_OFFLINE" in said
