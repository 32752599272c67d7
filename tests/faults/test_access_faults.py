"""What a Hub, or the way to it, can do to a release while it publishes: rows F3-F7, F11, F12, P2 and S11.

After each fault the branch is old or new and whole, and a plain re-run ends with one new commit and no stored byte
sent again.
"""

import hashlib
import os
import re
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from access_samples import deaf, listening
from commands import hubkit
from releases import REPO, Release, admin, faults, heads, hub_of, manifest, requests, target_of, weights

from hubkit.core.errors import HubkitError, RefusedError, RemoteError
from hubkit.core.files import digests
from hubkit.core.target import Target
from hubkit.core.trees import compare, tree_of
from hubkit.hub.client import connect
from hubkit.hub.commits import addition
from hubkit.hub.reach import reach
from hubkit.hub.retry import requested_wait
from hubkit.hub.uploads import upload
from hubkit.server.process import Running
from hubkit.server.storage.folder import Folder

Record = Callable[[str, object], None]

LARGE = 24_000_000
"""Bytes that do not fit into the buffers between client and server, so that a stall is felt."""


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> Release:
    return Release.on(hub, tmp_path).train()


def stored(hub: Running) -> list[Path]:
    return sorted(path for path in Folder(hub.data).lfs.rglob("*") if path.is_file())


def history(hub: Running, release: Release, branch: str) -> list[str]:
    """The commits of a branch, none when it is not there. The script of faults ends here."""
    faults(hub)
    connected = hub_of(release)
    if not connected.repo_exists(REPO) or connected.head(REPO, branch) is None:
        return []
    return [commit.id for commit in connected.history(REPO, branch)]


def assert_invariant(hub: Running, release: Release) -> None:
    """The branch is old or new; the same again gives one commit, and what is stored is not sent again."""
    assert len(history(hub, release, "staging/main")) <= 2
    there = {path.name for path in stored(hub)}
    release.publish("main")
    sent = {line.partition("?")[0].rsplit("/", 1)[1] for line in requests(hub) if line.startswith("PUT ")}
    assert not sent & there, "what is stored is not sent again"
    commit = release.made["publish[main]"].json("published.json")["commit"]
    assert len(hub_of(release).history(REPO, commit)) == 2
    assert heads(release)["staging/main"] == commit
    for path in stored(hub):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


# --- F4: a busy Hub


def date(seconds: float, skew: float) -> str:
    return format_datetime(datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds + skew), usegmt=True)


BUSY = [
    ({"Retry-After": "2"}, 2.0),
    ({"RateLimit": '"api";r=0;t=2', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, 2.0),
    ({"Retry-After": "soon", "RateLimit": "none left"}, 0.4),
    ({"Retry-After": "-5"}, 0.4),
    ({}, 0.4),
]


ASKED = [
    *(("POST .*/commit/staging", *answer) for answer in BUSY),
    *((route, *BUSY[0]) for route in ("POST .*/preupload/", "POST .*/objects/batch", "GET .*/refs")),
]


@pytest.mark.parametrize(("route", "headers", "least"), ASKED)
@pytest.mark.fault("F4")
def test_a_busy_hub_is_left_alone(
    hub: Running, release: Release, route: str, headers: dict[str, str], least: float, record_property: Record
) -> None:
    faults(hub, {"route": route, "action": "status", "status": 429, "headers": headers})
    release.publish("main")
    said = admin(hub, "GET", "faults")
    struck = next(index for index, line in enumerate(said["requests"]) if re.search(route, line))
    waited = said["times"][struck + 1] - said["times"][struck]
    assert waited >= least, "not even a question in the window"
    record_property("figure", f"waited, {'told' if least >= 2 else 'not told'} how long: {waited:.1f} s")
    assert_invariant(hub, release)


@pytest.mark.fault("F4", "F12")
def test_the_hubs_own_clock_counts() -> None:
    for skew in (-86_400, 0, 7_200):
        headers = {"retry-after": date(5, skew), "date": date(0, skew)}
        assert requested_wait(headers) == pytest.approx(5, abs=1.1)
    assert requested_wait({"retry-after": date(-60, 0)}) == 0
    assert requested_wait({"retry-after": "Wed, 99 Foo"}) is None and requested_wait({}) is None
    assert requested_wait({"retry-after": "٣"}) is None, "digits of other scripts are no number here"


@pytest.mark.fault("F4")
def test_a_hub_that_wants_to_be_left_alone_for_an_hour(hub: Running, release: Release) -> None:
    hour = {"Retry-After": "3600"}
    faults(hub, {"route": "/preupload/", "action": "status", "status": 429, "headers": hour, "count": 0})
    begun = time.monotonic()
    with pytest.raises(RemoteError, match="asks clients to wait 3,600 s") as told:
        release.publish("main")
    assert time.monotonic() - begun < 60 and told.value.exit_code == 5
    assert len([line for line in requests(hub) if "preupload" in line]) == 1
    assert_invariant(hub, release)


# --- F3, F5, F6: stumbles, broken connections, lost answers


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize(
    "route", ["POST .*/commit/", "POST .*/preupload/", "POST .*/objects/batch", "^PUT ", "GET .*/refs"]
)
@pytest.mark.fault("F3")
@pytest.mark.usefixtures("impatient")
def test_the_hub_stumbles(hub: Running, release: Release, route: str, times: int) -> None:
    faults(hub, {"route": route, "action": "status", "status": 500, "count": times})
    release.publish("main")
    assert len(hub_of(release).history(REPO, "staging/main")) == 2
    assert_invariant(hub, release)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.fault("F5")
def test_a_connection_that_breaks_during_an_upload(hub: Running, release: Release, share: float) -> None:
    size = len(weights(10))
    faults(hub, {"route": "^PUT ", "action": "drop-upload", "after": int(size * share)})
    release.publish("main")
    assert len(stored(hub)) == 2 and {path.read_bytes() for path in stored(hub)} >= {weights(10)}
    assert_invariant(hub, release)


@pytest.mark.parametrize("route", ["POST .*/commit/", "^PUT ", "POST .*/branch/", "POST /api/repos/create"])
@pytest.mark.fault("F6")
def test_done_but_the_answer_was_lost(hub: Running, release: Release, route: str) -> None:
    faults(hub, {"route": route, "action": "drop-after"})
    try:
        release.publish("main")
    except RemoteError as error:  # making a repo is not tried twice: it is looked at by the next run
        assert "create" in route and error.exit_code == 5
    assert_invariant(hub, release)


# --- F7: silence


@pytest.mark.parametrize(
    "route", ["GET .*/refs", "POST .*/preupload/", "POST .*/objects/batch", "POST /api/repos/create"]
)
@pytest.mark.fault("F7")
def test_a_hub_that_falls_silent(
    hub: Running, release: Release, route: str, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    monkeypatch.setenv("HUBKIT_TIMEOUT", "1")
    faults(hub, {"route": route, "action": "hang", "count": 0, "seconds": 60})
    begun = time.monotonic()
    with pytest.raises(RemoteError, match="did not answer in time") as told:
        release.publish("main")
    took = time.monotonic() - begun
    assert took < 1 + 1 + 1, "the limit, a second, and what went before"
    record_property("figure", f"given up, with a limit of 1 s, after: {took:.1f} s")
    assert told.value.exit_code == 5
    monkeypatch.delenv("HUBKIT_TIMEOUT")
    assert_invariant(hub, release)


@pytest.mark.fault("F7")
def test_an_upload_that_stalls_is_tried_again(hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connected, added = large(hub, tmp_path)
    monkeypatch.setenv("HUBKIT_TIMEOUT", "1")
    faults(hub, {"route": "^PUT ", "action": "stall-upload", "after": 1_000_000, "seconds": 8})
    begun = time.monotonic()
    upload(connected, REPO, "main", added)
    took = time.monotonic() - begun
    assert 1 <= took < 10, "one limit without a byte, one pause, one upload"
    assert len([line for line in requests(hub) if line.startswith("PUT ")]) == 2 and len(stored(hub)) == 1
    os.kill(hub.pid, signal.SIGKILL)  # or it waits for the upload that stalls


@pytest.mark.fault("F7")
def test_an_upload_that_stalls_for_ever_is_given_up(
    hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected, added = large(hub, tmp_path)
    monkeypatch.setenv("HUBKIT_TIMEOUT", "0.5")
    faults(hub, {"route": "^PUT ", "action": "stall-upload", "after": 1_000_000, "seconds": 8, "count": 0})
    begun = time.monotonic()
    with pytest.raises(RemoteError, match=r"accepted no byte of an upload for 0\.5 s") as told:
        upload(connected, REPO, "main", added)
    assert time.monotonic() - begun < 15 and told.value.exit_code == 5
    assert len([line for line in requests(hub) if line.startswith("PUT ")]) == 3 and stored(hub) == []
    os.kill(hub.pid, signal.SIGKILL)  # or it waits for the uploads that stall


@pytest.mark.fault("F7")
def test_a_slow_upload_that_moves_goes_on(hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connected, added = large(hub, tmp_path)
    monkeypatch.setenv("HUBKIT_TIMEOUT", "1")
    faults(hub, {"route": "^PUT ", "action": "slow-upload", "seconds": 0.04})
    begun = time.monotonic()
    upload(connected, REPO, "main", added)
    assert time.monotonic() - begun > 3, "much longer than the limit"
    assert len([line for line in requests(hub) if line.startswith("PUT ")]) == 1 and len(stored(hub)) == 1


@pytest.mark.fault("F7")
def test_xet_is_watched_too(hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files travel by Xet, the store behind the Hub may fall silent, and Xet itself would wait for minutes."""
    _, added = large(hub, tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HUBKIT_TIMEOUT", "0.5")
    target = Target(hub.url, tmp_path / "hf", hub.token)
    until = str(int(time.time()) + 3600)
    with deaf() as store:
        said = {"X-Xet-Cas-Url": store, "X-Xet-Access-Token": "t", "X-Xet-Token-Expiration": until}
        body = f'{{"casUrl": "{store}", "exp": {until}, "accessToken": "t"}}'
        route = {"route": "xet-write-token", "count": 0}
        faults(hub, {**route, "action": "status", "status": 200, "headers": said, "body": body})
        begun = time.monotonic()
        with pytest.raises(RemoteError, match="accepted no byte of an upload for 2 s"):
            upload(connect(target), REPO, "main", added)
        assert time.monotonic() - begun < 20, "three times two seconds, and the pauses between"


def large(hub: Running, tmp_path: Path) -> tuple[Any, list[Any]]:
    """A connection, and one large file to be added."""
    connected = connect(target_of(hub, tmp_path))
    connected.ensure_repo(REPO, "public")
    path = tmp_path / "w.safetensors"
    path.write_bytes(os.urandom(1000) * (LARGE // 1000))
    return connected, [addition("w.safetensors", path, digests(path))]


# --- F11: a token that ends


@pytest.mark.fault("F11", "S11")
def test_a_token_that_ends_after_any_request(
    hub: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: Record
) -> None:
    """From the n-th request on the token is refused: n = 1, 2, ... until the release comes through."""
    ended = {"action": "status", "status": 401, "count": 0, "headers": {"X-Error-Message": "The token is expired"}}
    refused = 0
    for nth in range(1, 60):
        release = Release.on(hub, tmp_path / str(nth)).train(nth)
        faults(hub, {"route": "^[A-Z]+ /api/|info/lfs", "nth": nth, **ended})
        try:
            release.publish("main")
        except RefusedError as error:
            refused += 1
            assert "does not accept this token" in error.message and "Log in again" in str(error.hint)
            assert error.exit_code == 3 and hub.token not in str(error)
            commits = len(history(hub, release, "staging/main"))
            release.publish("main")
            assert len(history(hub, release, "staging/main")) - commits in {0, 1, 2}, (
                "the repo's first commit and one more"
            )
            commit = release.made["publish[main]"].json("published.json")["commit"]
            assert not compare(tree_of(manifest(release, "main")), hub_of(release).tree(REPO, commit))
        else:
            break
    assert 8 <= refused < 59, "every request of a publication was struck, and the loop came to its end"
    record_property("figure", f"refused at each of {refused} requests, each time told and resumed")
    said = capsys.readouterr()
    assert hub.token not in said.out + said.err


# --- F12: sent elsewhere


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize(
    "route", ["GET .*/refs", "POST /api/repos/create", "POST .*/preupload/", "POST .*/objects/batch", "POST .*/commit/"]
)
@pytest.mark.fault("F12")
def test_a_redirect_to_another_host_is_refused(hub: Running, release: Release, route: str, status: int) -> None:
    with listening() as (url, heard):
        there = {"Location": f"{url}/api/x"}
        faults(hub, {"route": route, "action": "status", "status": status, "headers": there, "count": 0})
        with pytest.raises(RefusedError, match=f"redirects this request to {url}") as told:
            release.publish("main")
    assert heard == [] and told.value.exit_code == 3 and "\n" not in told.value.message
    assert_invariant(hub, release)


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.fault("F12", "S11")
def test_a_file_may_come_from_another_host_without_the_token(hub: Running, release: Release, status: int) -> None:
    release.publish("main")
    with listening() as (url, heard):
        there = {"Location": f"{url}/cdn/file", "X-Repo-Commit": "c" * 40, "ETag": '"e"'}
        faults(hub, {"route": "GET .*/resolve/", "action": "status", "status": status, "headers": there})
        with pytest.raises(HubkitError):
            hub_of(release).read_file(REPO, "config.json", "staging/main")
    assert [headers[":path"] for headers in heard] == ["GET /cdn/file"]
    assert not any("authorization" in headers or hub.token in str(headers) for headers in heard)


@pytest.mark.fault("F12")
def test_a_redirect_on_the_same_hub_is_followed(hub: Running, release: Release) -> None:
    release.publish("main")
    connected = hub_of(release)
    connected.api.move_repo(REPO, "hubkit/renamed")
    assert connected.tree(REPO, "staging/main") == connected.tree("hubkit/renamed", "staging/main")


# --- P2: no way to the Hub


@pytest.mark.fault("P2")
def test_no_way_to_the_hub_is_told_within_two_seconds(hub: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    reach(hub.url)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    begun = time.monotonic()
    with pytest.raises(RemoteError, match="cannot be reached"):
        reach("http://127.0.0.1:9")
    with deaf() as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(RemoteError, match=r"through the proxy 127\.0\.0\.1:\d+\) cannot be reached") as told:
            reach("http://hub.example")
        assert told.value.exit_code == 5
        reach(hub.url)  # what is on this machine is not asked through a proxy
        assert connect(Target(hub.url, hub.data, hub.token)).whoami() is not None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RemoteError, match="HF_HUB_OFFLINE is set"):
        reach(hub.url)
    assert time.monotonic() - begun < 10, (
        "all of them together: a guard against waiting, the figure is in docs/faults.md"
    )


@pytest.mark.parametrize("way", ["offline", "nobody", "proxy"])
@pytest.mark.fault("P2")
def test_a_release_without_a_way_to_the_hub_begins_nothing(tmp_path: Path, way: str, record_property: Record) -> None:
    home = tmp_path / "home"
    hubkit("init", "me/x", home=home, cwd=tmp_path)
    path = tmp_path / "hubkit.yaml"
    text = path.read_text(encoding="utf-8").replace("hub: embedded", "hub: huggingface")
    path.write_text("".join(line for line in text.splitlines(True) if "provide:" not in line), encoding="utf-8")
    more = {"HF_HUB_OFFLINE": "1"} if way == "offline" else {}
    with deaf() as proxy:
        if way == "proxy":
            more = {"http_proxy": proxy, "HTTP_PROXY": proxy}
        address = "http://127.0.0.1:9" if way == "nobody" else "http://hub.example"
        begun = time.monotonic()
        done = hubkit("release", "--hub", address, home=home, cwd=tmp_path, **more)
        took = time.monotonic() - begun
    assert done.returncode == 5, done.stderr
    assert address in done.stderr
    assert not list(home.glob("runs/*/artifacts/*")) and not list(home.glob("runs/*/logs/*"))
    assert took < 6, "most of it is the start of the program"
    record_property("figure", f"the whole command: {took:.1f} s")
