"""Starting, finding, stopping and killing the server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import httpx

from hubkit.core.errors import ConflictError, HubkitError, RemoteError, UsageError
from hubkit.server import process
from hubkit.server.fsck import fsck
from hubkit.server.process import Running
from hubkit.server.storage.folder import Folder, held


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came"
        time.sleep(0.005)


def adds(contents: list[bytes]) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(f"d{number}/f.txt", content) for number, content in enumerate(contents)]


def client(running: Running) -> HfApi:
    return HfApi(endpoint=running.url, token=running.token)


def test_it_can_be_found_stopped_and_started_again_with_everything_in_it(hub: Running) -> None:
    client(hub).create_repo("me/kept")
    found = process.status(hub.data)
    assert found == hub and hub.token not in repr(hub)
    assert process.start(hub.data) == hub
    assert process.stop(hub.data) and process.status(hub.data) is None and not process.stop(hub.data)
    again = process.start(hub.data)
    assert (again.url, again.token) == (hub.url, hub.token) and again.pid != hub.pid
    assert client(again).list_repo_files("me/kept") == [".gitattributes"]


def test_secrets_are_closed_to_others(hub: Running) -> None:
    for name in ("owner.token", "hub.sqlite"):
        assert (hub.data / name).stat().st_mode & 0o077 == 0
    assert hub.data.stat().st_mode & 0o077 == 0
    assert hub.token not in "".join(path.read_text() for path in (hub.data / "log").iterdir())
    assert hub.token.encode() not in (hub.data / "hub.sqlite").read_bytes()


def test_two_starters_get_one_server(tmp_path: Path) -> None:
    data = tmp_path / "hub"
    code = f"from hubkit.server import process; print(process.start({str(data)!r}, port=0).pid)"
    starters = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        said = {starter.communicate(timeout=60)[0].strip() for starter in starters}
        assert len(said) == 1 and said.pop().isdigit()
    finally:
        process.stop(data)


def test_a_port_that_another_program_holds_is_refused_with_advice(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError) as refused:
            process.start(tmp_path / "hub", port=port)
        assert refused.value.message == f"Port {port} is in use by another program."
        assert refused.value.hint is not None and "--port" in refused.value.hint
    assert not held(Folder(tmp_path / "hub").serving_lock)


def test_a_server_of_another_folder_on_the_recorded_port_is_not_taken_for_ours(hub: Running, tmp_path: Path) -> None:
    other = Folder(tmp_path / "other")
    running = process.start(other.root, port=0)
    process.stop(other.root)
    other.state.write_text((hub.data / "server.json").read_text())
    assert process.status(other.root) is None
    assert not process.stop(other.root)
    assert process.status(hub.data) == hub and running.url != hub.url


def test_sigterm_ends_it_cleanly(hub: Running) -> None:
    os.kill(hub.pid, signal.SIGTERM)
    until(lambda: not held(Folder(hub.data).serving_lock))
    assert "stopped" in (hub.data / "log" / "hub.log").read_text().splitlines()[-1]


def test_once_stopped_the_process_is_gone_and_not_only_its_lock(tmp_path: Path) -> None:
    for _ in range(3):
        pid = process.start(tmp_path, port=0).pid
        assert process.stop(tmp_path)
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_server_that_does_not_answer_is_said_and_can_be_stopped(hub: Running) -> None:
    os.kill(hub.pid, signal.SIGSTOP)
    with pytest.raises(ConflictError) as refused:
        process.start(hub.data, timeout=0.1)
    assert "does not answer" in refused.value.message and "hubkit hub stop" in (refused.value.hint or "")
    assert process.stop(hub.data, timeout=0.5)
    assert process.start(hub.data, port=0).pid != hub.pid


@pytest.mark.parametrize("objects", [1, 40, 79, 120])
@pytest.mark.fault("F1")
def test_killed_during_a_commit_it_serves_the_old_or_the_new_state(hub: Running, objects: int) -> None:
    api = client(hub)
    api.create_repo("me/model")
    git = next((hub.data / "git").iterdir())
    start = api.model_info("me/model").sha
    contents = [os.urandom(20) for _ in range(60)]
    done: list[str] = []

    def push() -> None:
        try:
            done.append(api.create_commit("me/model", adds(contents), commit_message="x").oid)
        except Exception as error:
            done.append(type(error).__name__)

    def written() -> int:
        return sum(1 for _ in (git / "objects").glob("??/*"))

    before = written()
    pusher = threading.Thread(target=push)
    pusher.start()
    until(lambda: written() >= before + objects or bool(done))
    os.kill(hub.pid, signal.SIGKILL)
    pusher.join(60)
    (git / "refs/heads/main.lock").touch()  # what a kill in the middle of moving the ref leaves behind
    (hub.data / "tmp" / "half").write_bytes(b"half a body")
    again = process.start(hub.data, port=0)
    api = client(again)
    now = api.model_info("me/model").sha
    files = api.list_repo_files("me/model")
    assert (now == start and files == [".gitattributes"]) or len(files) == 61
    if done and len(done[0]) == 40:
        assert now == done[0]
    assert api.create_commit("me/model", adds(contents), commit_message="again").oid == api.model_info("me/model").sha
    assert len(api.list_repo_files("me/model")) == 61
    fsck = subprocess.run(["git", "-C", git, "fsck", "--strict", "--connectivity-only"], capture_output=True, text=True)
    assert fsck.returncode == 0, fsck.stderr
    assert list((hub.data / "tmp").iterdir()) == []


def test_what_belongs_to_nobody_is_gone_after_a_start(hub: Running) -> None:
    api = client(hub)
    api.create_repo("me/model")
    api.create_commit("me/model", [CommitOperationAdd("w.bin", b"\0" * 100)], commit_message="m")
    process.stop(hub.data)
    orphan = hub.data / "lfs" / "aa" / "aa" / ("a" * 64)
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"x")
    for name in (f"git/{'f' * 32}.new", "git/" + "0" * 32 + ".git"):
        (hub.data / name).mkdir()
    process.start(hub.data, port=0)
    assert not orphan.exists() and len(list((hub.data / "git").iterdir())) == 1 and fsck(hub.data) == []


def test_folders_that_cannot_be_a_hubs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(HubkitError, match="Cannot open"):
        process.start(tmp_path / "file")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "hub.sqlite").write_text("not a database " * 100)
    with pytest.raises(RemoteError, match="not a database"):
        process.start(tmp_path / "broken")
    with pytest.raises(UsageError, match="loopback"):
        process.start(tmp_path / "open", host="0.0.0.0")
    assert process.status(tmp_path / "nowhere") is None and not process.stop(tmp_path / "nowhere")


@pytest.mark.fault("F5")
def test_killed_during_a_transfer_it_keeps_nothing_of_it(hub: Running) -> None:
    api = client(hub)
    api.create_repo("me/model")
    spool = hub.data / "tmp"
    body = {"operation": "upload", "objects": [{"oid": "a" * 64, "size": 4_000_000}]}
    url = f"{hub.url}/me/model.git/info/lfs/objects/batch"
    batch = httpx.post(url, json=body, headers={"Authorization": f"Bearer {hub.token}"}).json()
    href = httpx.URL(batch["objects"][0]["actions"]["upload"]["href"])
    with socket.create_connection((href.host, href.port or 80)) as line:
        head = (
            f"PUT {href.raw_path.decode()} HTTP/1.1\r\nHost: {href.netloc.decode()}\r\nContent-Length: 4000000\r\n\r\n"
        )
        line.sendall(head.encode() + b"x" * 2_000_000)
        until(lambda: any(spool.iterdir()))
        os.kill(hub.pid, signal.SIGKILL)
    until(lambda: not held(Folder(hub.data).serving_lock))
    process.start(hub.data, port=0)
    assert list(spool.iterdir()) == [] and list((hub.data / "lfs").rglob("*")) == []


def test_two_hubs_that_start_together_take_two_ports() -> None:
    from hubkit.server.__main__ import bind

    first = bind("127.0.0.1", [0])
    assert first is not None
    with first:
        port = first.getsockname()[1]
        assert bind("127.0.0.1", [port]) is None
        second = bind("127.0.0.1", [port, 0])
        assert second is not None
        with second:
            assert second.getsockname()[1] != port
