"""A token goes to the endpoint that it was issued for, and nowhere else: other Hubs, outputs, logs, files, children."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from access_samples import listening
from commands import HUBKIT, environment, hubkit, until
from releases import admin, faults

from hubkit.server import process
from hubkit.server.process import Running

TOKEN, SAVED = "hf_" + "Ab1" * 12, "hf_" + "Cd2" * 12
REPO = "hubkit/some-model"

COMMANDS = [
    ("revisions", "list", REPO),
    ("revisions", "create", REPO, "try", "-y"),
    ("revisions", "delete", REPO, "try", "-y"),
    ("revisions", "tag", REPO, "v1", "-y"),
    ("check", REPO),
    ("space", "status", REPO),
    ("space", "logs", REPO),
    ("release", "-y"),
    ("doctor",),
]


def logged_in(tmp_path: Path) -> dict[str, str]:
    """The variables of a user who is logged in in every way there is."""
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "token").write_text(SAVED)
    (folder / "stored_tokens").write_text(f"[mine]\nhf_token = {SAVED}\n")
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login me password {SAVED}\n")
    (tmp_path / ".netrc").chmod(0o600)
    return {"HF_TOKEN": TOKEN, "HUGGING_FACE_HUB_TOKEN": TOKEN, "HF_HOME": str(folder), "HOME": str(tmp_path)}


def recipe_for(home: Path, tmp_path: Path) -> None:
    hubkit("init", "hubkit/some-model", home=home, cwd=tmp_path)
    path = tmp_path / "hubkit.yaml"
    text = path.read_text(encoding="utf-8").replace("hub: embedded", "hub: huggingface")
    path.write_text("".join(line for line in text.splitlines(True) if "provide:" not in line), encoding="utf-8")


@pytest.mark.fault("S11", "F12")
def test_another_hub_never_gets_the_users_token(tmp_path: Path) -> None:
    home, user = tmp_path / "home", logged_in(tmp_path)
    recipe_for(home, tmp_path)
    said = ""
    with listening() as (url, heard):
        for command in COMMANDS:
            before = len(heard)
            done = hubkit(*command, "--hub", url, home=home, cwd=tmp_path, **user)
            said += done.stdout + done.stderr
            assert len(heard) > before or done.returncode, command
        assert len({headers[":path"] for headers in heard}) >= 4, "the commands did ask"
    for headers in heard:
        assert "authorization" not in headers and "cookie" not in headers, headers[":path"]
        assert not any(token in str(headers) for token in (TOKEN, SAVED)), headers[":path"]
    assert TOKEN not in said and SAVED not in said
    assert places_of(home, TOKEN, SAVED) == []


@pytest.mark.fault("S11")
def test_the_token_goes_where_it_was_paired(tmp_path: Path) -> None:
    """The other way round: HF_ENDPOINT and HF_TOKEN together name a Hub and its token, so it is sent there."""
    home, user = tmp_path / "home", logged_in(tmp_path)
    with listening() as (url, heard):
        hubkit("revisions", "list", REPO, home=home, cwd=tmp_path, HF_ENDPOINT=url, **user)
    asked = [headers for headers in heard if "/refs" in headers[":path"]]
    assert asked and all(headers.get("authorization") == f"Bearer {TOKEN}" for headers in asked)


def places_of(folder: Path, *tokens: str) -> list[str]:
    """Files below ``folder`` in which one of the tokens stands."""
    wanted = [token.encode() for token in tokens]
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and any(token in path.read_bytes() for token in wanted):
            found.append(str(path.relative_to(folder)))
    return sorted(found)


# --- errors, through the command line


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Running, Path]]:
    """The embedded Hub of a home folder, with scripted faults."""
    home = tmp_path / "home"
    running = process.start(home / "hub", port=0, faults=True)
    yield running, home
    process.stop(home / "hub")


ERRORS = [
    (401, {}, 3, "does not accept this token"),
    (
        402,
        {"X-Error-Message": "No room"},
        3,
        "requires a paid plan or more storage for hubkit/some-model. Its message: No room.",
    ),
    (403, {}, 3, "This token lacks permission for hubkit/some-model"),
    (403, {"X-Error-Code": "GatedRepo"}, 3, "is gated"),
    (403, {"X-Error-Message": "Access to this resource is disabled."}, 3, "has been disabled"),
    (404, {"X-Error-Code": "RepoNotFound"}, 2, "There is no hubkit/some-model"),
    (404, {}, 1, "answered 404"),
    (409, {}, 4, "reports a conflict"),
    (412, {}, 4, "was moved by someone else"),
    (418, {}, 1, "answered 418"),
    (429, {"Retry-After": "7200"}, 5, "asks clients to wait 7,200 s"),
    (500, {}, 5, "answered 500"),
    (503, {"Retry-After": "garbage"}, 5, "answered 503"),
    (507, {}, 5, "has no storage left"),
    (307, {"Location": "http://127.0.0.1:9/elsewhere"}, 3, "redirects this request to http://127.0.0.1:9"),
    (200, {}, 5, "is not an answer of the Hub API: it is not JSON"),
]


@pytest.mark.parametrize(("status", "headers", "code", "words"), ERRORS)
@pytest.mark.fault("S11")
def test_every_answer_is_a_sentence_and_an_exit_code(
    served: tuple[Running, Path], tmp_path: Path, status: int, headers: dict[str, str], code: int, words: str
) -> None:
    running, home = served
    loud = {"X-Error-Message": f"bad {running.token}"} if status == 401 else {}
    fault = {"route": "GET .*/refs", "action": "status", "status": status, "headers": headers | loud, "count": 0}
    faults(running, {**fault, "body": "<html>" if status == 200 else ""})
    done = hubkit("revisions", "list", REPO, home=home, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert words in " ".join(done.stderr.split()), done.stderr
    assert running.token not in done.stderr
    assert "Unexpected" not in done.stderr


# --- a whole publication


PUBLISHING = textwrap.dedent("""
    import sys
    from pathlib import Path
    from releases import Release
    from hubkit.server.process import Running
    hub = Running(sys.argv[1], 0, Path(sys.argv[2]), sys.stdin.readline().strip())
    release = Release.on(hub, Path(sys.argv[3])).train()
    release.publish()
    release.promote()
""")


@pytest.mark.fault("S11")
def test_a_publication_leaves_the_token_nowhere(hub: Running, tmp_path: Path) -> None:
    """Outputs, journals, run folders and the Hub's own store: the owner's token stands in its one file (mode 0600)."""
    command = [sys.executable, "-c", PUBLISHING, hub.url, str(hub.data), str(tmp_path / "work")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, input=hub.token, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert hub.token not in done.stdout + done.stderr
    assert places_of(tmp_path / "work", hub.token) == []
    (only,) = places_of(hub.data, hub.token)
    assert (hub.data / only).stat().st_mode & 0o777 == 0o600
    admin(hub, "GET", "accounts")  # the Hub still stands, and knows its owner


@pytest.mark.fault("S11")
def test_only_the_worker_has_the_token(served: tuple[Running, Path], tmp_path: Path) -> None:
    """Of the processes of a release, the worker alone has the token in its environment; no command line shows it."""
    running, home = served
    hubkit("init", "hubkit/mine", home=home, cwd=tmp_path)
    faults(running, {"route": "GET .*/(refs|revision)", "action": "hang", "seconds": 3, "count": 0})
    variables = environment(home) | {"HUBKIT_TIMEOUT": "20"}
    log = (tmp_path / "said").open("w")
    with log, subprocess.Popen([HUBKIT, "release"], env=variables, cwd=tmp_path, stdout=log, stderr=log) as command:
        try:
            worker = until(lambda: _worker(command.pid), 60)
            assert worker.environ()["HF_TOKEN"] == running.token
            for child in (psutil.Process(command.pid), psutil.Process(running.pid), worker):
                assert running.token not in " ".join(child.cmdline())
                if child.pid != worker.pid:
                    assert running.token not in str(child.environ())
        finally:
            command.terminate()
            command.wait(30)
    assert running.token not in (tmp_path / "said").read_text()
    assert places_of(home / "runs", running.token) == []


def _worker(pid: int) -> psutil.Process | None:
    for child in psutil.Process(pid).children():
        if "hubkit.pipeline.worker" in child.cmdline() and "HF_TOKEN" in child.environ():
            return child
    return None
