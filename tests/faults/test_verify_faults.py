"""Faults while a release is signed and verified: a damaged store, a Hub that stumbles, a kill after the signature."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from releases import REPO, Release, faults, hub_of, requests, weights
from signatures import key_pair

from hubkit.checks.source import RepoSource
from hubkit.core.errors import ConflictError, RemoteError
from hubkit.publishing import signing
from hubkit.publishing.manifest import SIGNATURE_PATH
from hubkit.publishing.verifying import verify
from hubkit.server.process import Running
from hubkit.server.storage.folder import Folder


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> Release:
    return Release.on(hub, tmp_path).train().publish("main")


def source(release: Release) -> RepoSource:
    return RepoSource(hub_of(release), REPO, "staging/main")


def lfs_file(hub: Running, content: bytes) -> Path:
    digest = hashlib.sha256(content).hexdigest()
    (found,) = [path for path in Folder(hub.data).lfs.rglob("*") if path.name == digest]
    found.chmod(0o600)
    return found


@pytest.mark.parametrize("damage", ["other", "short", "long", "gone"])
@pytest.mark.fault("F9")
def test_a_file_that_is_damaged_in_the_store(hub: Running, release: Release, damage: str) -> None:
    """The Hub lists what it was told; only its bytes show that it does not hold them any more."""
    body = weights(10)
    stored = lfs_file(hub, body)
    if damage == "gone":
        stored.unlink()
    else:
        stored.write_bytes({"other": body[:-1] + b"\xff", "short": body[:-7], "long": body + b"more"}[damage])
    assert not verify(source(release)).differences, "the listing is as it was"
    (found,) = verify(source(release), all_bytes=True).differences
    assert (found.path, found.kind) == ("model.safetensors", "changed")


@pytest.mark.fault("F3")
def test_a_hub_that_stumbles_is_no_difference(hub: Running, release: Release) -> None:
    faults(
        hub,
        {"route": "GET .*/resolve/.*/config.json", "action": "drop-before", "count": 2},
        {"route": "GET .*/resolve/.*manifest.json", "action": "status", "status": 503, "count": 2},
        {"route": "GET .*/resolve/.*model.safetensors", "action": "truncate", "after": 100, "count": 1},
    )
    assert not verify(source(release), all_bytes=True).differences


@pytest.mark.fault("F5")
def test_a_connection_that_breaks_every_time_is_no_difference_either(hub: Running, release: Release) -> None:
    """Nobody may say that bytes are wrong which never arrived: exit code 5, run it again."""
    faults(hub, {"route": "GET .*/resolve/.*/model.safetensors", "action": "truncate", "after": 100, "count": 0})
    with pytest.raises(RemoteError) as told:
        verify(source(release), all_bytes=True)
    assert told.value.exit_code == 5
    faults(hub, {"route": "GET .*/resolve/", "action": "status", "status": 500, "count": 0})
    with pytest.raises(RemoteError):
        verify(source(release))


@pytest.mark.fault("F7")
def test_a_hub_that_falls_silent(hub: Running, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    held = source(release)
    monkeypatch.setenv("HUBKIT_TIMEOUT", "0.3")
    faults(hub, {"route": "GET .*/resolve/", "action": "hang", "seconds": 30})
    with pytest.raises(RemoteError, match="did not answer in time"):
        verify(held)


@pytest.mark.fault("F12", "S11")
def test_the_token_stays_with_its_hub(hub: Running, release: Release) -> None:
    """A redirect to another host is followed without the token."""
    arrived: list[str | None] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            arrived.append(self.headers.get("authorization"))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        to = {"location": f"http://127.0.0.1:{server.server_port}/x"}
        faults(hub, {"route": "GET .*/resolve/", "action": "status", "status": 302, "headers": to, "count": 0})
        with pytest.raises(ConflictError, match="differs from what the Hub lists"):
            verify(source(release))
    finally:
        server.shutdown()
        server.server_close()
    assert arrived == [None]


KILLED = textwrap.dedent("""
    import sys
    from pathlib import Path
    from releases import Release
    from signatures import publish_signed
    from hubkit.server.process import Running
    hub = Running(sys.argv[1], 0, Path(sys.argv[2]), sys.argv[3])
    release = Release.on(hub, Path(sys.argv[4])).train()
    publish_signed(release, Path(sys.argv[5])).promote()
""")
POINTS = (
    "signed:publish[main]",
    "staging-committed:publish[main]",
    "staging-verified:publish[main]",
    "branch-begun[main]",
)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.fault("F1")
def test_killed_after_the_signature(hub: Running, tmp_path: Path, point: str) -> None:
    """The signature is random; the same again still ends with exactly one new commit a branch, and it holds."""
    private, public = key_pair(tmp_path)

    def go(**environment: str) -> int:
        command = [sys.executable, "-c", KILLED, hub.url, str(hub.data), hub.token, str(tmp_path), str(private)]
        search = os.pathsep.join(sys.path)
        return subprocess.run(
            command, env={**os.environ, "PYTHONPATH": search, **environment}, timeout=120, check=False
        ).returncode

    assert go(HUBKIT_TEST_KILL_AT=point) == -signal.SIGKILL
    folder = Release.on(hub, tmp_path).run.path
    (before,) = {path.read_bytes() for path in folder.rglob("model.sig") if "publish[main]" in path.parts}
    faults(hub)
    assert go() == 0
    release = Release.on(hub, tmp_path)
    check = signing.verifier(public)
    for name in ("main", "dpo-v0"):
        assert len(hub_of(release).history(REPO, name)) == 2
        assert verify(RepoSource(hub_of(release), REPO, name), verifier=check).signature == "valid"
    assert hub_of(release).read_file(REPO, SIGNATURE_PATH, "main") == before
    if point != POINTS[0]:
        sent = [line for line in requests(hub) if line.startswith("PUT ")]
        assert len(sent) <= 2, "only the other variant's two large files may follow"
