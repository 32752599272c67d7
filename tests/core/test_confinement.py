"""A confined child, by each means that this machine has: what it cannot reach, and that it still works."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import until
from spies import OWN, report, spy

from hubkit.core.errors import HubkitError
from hubkit.core.processes import confinement, landlock
from hubkit.core.processes.app import App, environment
from hubkit.core.processes.confinement import WAYS, Reach, Way, best_way
from hubkit.core.processes.logs import log_tail

pytestmark = [
    pytest.mark.fault("A1"),
    pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: only Linux has means to confine a child"),
]
needs = {
    "landlock": pytest.mark.skipif(not landlock.abi(), reason="NOT TESTED: this kernel has no Landlock"),
    "bubblewrap": pytest.mark.skipif(
        best_way(Reach(), ["bubblewrap"]) is None,
        reason="NOT TESTED: bubblewrap is not installed, or forbidden here",
    ),
}

WRITES = ("change", "cut", "remove", "write", "create")


@pytest.fixture(autouse=True)
def by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(confinement.VARIABLE, raising=False)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., App]]:
    apps = []

    def start(code: str, folder: Path | None = None, **more: object) -> App:
        folder = folder or tmp_path / "spaces" / "mine" / "app"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "app.py").write_text(code, encoding="utf-8")
        variables = environment(folder.parent / "home", 1, {})
        log = folder.parent / "run.log"
        apps.append(App.start(folder, "app.py", port=1, environment=variables, log=log, **more))  # type: ignore[arg-type]
        return apps[-1]

    yield start
    for app in apps:
        app.stop(0.1)


@pytest.fixture
def secrets(tmp_path: Path) -> list[Path]:
    """Files of the Hub, of another Space, and of the user."""
    files = [tmp_path / name for name in ("owner.token", "git/a/HEAD", "spaces/other/home/secret", "home/.ssh/id")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("secret", encoding="utf-8")
    return files


@pytest.mark.parametrize("way", [pytest.param(way, marks=needs[way]) for way in ("landlock", "bubblewrap")])
def test_it_gets_nothing_of_others_and_all_of_its_own(
    run: Callable[..., App], secrets: list[Path], tmp_path: Path, way: Way, monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", "of the user")
    folders = [
        tmp_path,
        tmp_path / "spaces",
        tmp_path / "spaces" / "mine",
        secrets[2].parent,
        Path("/etc"),
        Path.home(),
    ]
    if way == "landlock":
        folders.append(Path("/tmp"))  # bubblewrap gives it an empty one
    with (
        socket.socket(socket.AF_UNIX) as agent,
        socket.socket(socket.AF_UNIX) as abstract,
        subprocess.Popen(["sleep", "600"]) as other,
    ):
        agent.bind(str(tmp_path / "agent"))
        abstract.bind(f"\0hubkit-{os.getpid()}")
        for sock in (agent, abstract):
            sock.listen()
        code = spy(
            files=[*secrets, tmp_path / "agent"], closed=[Path("/etc/shadow"), Path("/proc/kcore")],
            folders=folders, processes=[os.getpid(), other.pid],
            sockets=[str(tmp_path / "agent"), f"@hubkit-{os.getpid()}"],
            variables=["HF_TOKEN", "HUBKIT_HOME"], signals=way != "landlock" or landlock.abi() >= 6,
            lists=way == "landlock",  # bubblewrap shows it the names on the way to its own
        )  # fmt: skip
        app = run(code, reach=Reach(hidden=(tmp_path,)), ways=[way])
        until(lambda: app.code() is not None, 60)
        other.kill()
    log = log_tail(tmp_path / "spaces" / "mine" / "run.log")
    found = report(log)
    assert found is not None, log
    if way == "bubblewrap":  # its /tmp is its own, whatever it writes there
        found["got"] = {what: value for what, value in found["got"].items() if what.split()[0] not in WRITES}
    assert app.confinement == way and found["got"] == {} and found["variables"] == []
    assert found["own"] == dict.fromkeys(found["own"], True) and len(found["own"]) == OWN
    assert all(file.read_text() == "secret" for file in secrets)
    assert not [name for folder in folders for name in ("spy", "spied") if (folder / name).exists()]
    record_property("figure", f"{way}: {len(found['got'])} of {code.count('attempt(')} kinds of attempts succeeded")


def test_without_confinement_the_same_app_gets_it_all(run: Callable[..., App], secrets: list[Path]) -> None:
    app = run(spy(files=secrets[:1], processes=[os.getpid()]), ways=[])
    until(lambda: app.code() is not None, 60)
    found = report(log_tail(secrets[0].parent / "spaces" / "mine" / "run.log"))
    assert app.confinement is None and found is not None
    assert {f"read {secrets[0]}", f"environ of {os.getpid()}"} <= found["got"].keys()


@needs["landlock"]
def test_the_best_way_is_taken_unless_a_test_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert best_way(Reach()) == "landlock" == best_way(Reach(), WAYS)
    monkeypatch.setenv(confinement.VARIABLE, "none")
    assert best_way(Reach()) is None
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    monkeypatch.setenv(confinement.VARIABLE, "landlock")
    assert best_way(Reach()) is None


def test_who_must_be_confined_is_not_started_without(run: Callable[..., App], tmp_path: Path) -> None:
    with pytest.raises(HubkitError, match="no means to confine"):
        run("print('up')", reach=Reach(required=True), ways=[])
    assert not (tmp_path / "spaces" / "mine" / "run.log").exists()


@needs["landlock"]
@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_older_kernels_confine_by_what_they_know(
    run: Callable[..., App], secrets: list[Path], version: int, tmp_path: Path
) -> None:
    """The rights of an older version of Landlock are a subset: it is asked for what such a kernel would take."""
    code = (
        "import subprocess, sys\nfrom pathlib import Path\nfrom hubkit.core.processes import landlock\n"
        f"landlock.abi = lambda: {version}\n"
        "paths = [Path(p) for p in ('/usr', '/lib', '/lib64', '/bin')]\n"
        f"rules = landlock.Rules(read=paths, write=[Path({str(tmp_path / 'own')!r})], devices=[])\n"
        f"sys.exit(subprocess.run(['/bin/cat', {str(secrets[0])!r}], preexec_fn=rules.apply).returncode or 9)\n"
    )
    (tmp_path / "own").mkdir()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Permission denied" in done.stderr and done.returncode == 1, done.stderr
    assert "secret" not in done.stdout


def test_a_folder_around_the_hubs_is_opened_entry_by_entry(tmp_path: Path) -> None:
    """A virtual environment and the Hub's folder may lie in one project folder, even in one below /opt."""
    for name in ("bin", "lib", "project/.hubkit/hub"):
        (tmp_path / name).mkdir(parents=True)
    hidden = [tmp_path / "project" / ".hubkit" / "hub"]
    assert sorted(confinement._without(tmp_path, hidden)) == [tmp_path / "bin", tmp_path / "lib"]
    assert confinement._without(tmp_path / "lib", hidden) == [tmp_path / "lib"]
    assert confinement._without(hidden[0], hidden) == [] == confinement._without(tmp_path / "nowhere", hidden)
    order = Reach(hidden=(Path(sys.prefix),)).order("landlock")
    assert sys.prefix not in order["read"] and str(Path(sys.prefix).parent) not in order["read"]
    assert not any(Path.home().is_relative_to(path) for path in order["read"])
    assert order["opened"] == [sys.prefix], "the way through other folders is not changed for another user"
    best_way(Reach(write=(tmp_path / "nowhere" / "spaces",)), ["user"])


SOCKETS = """
import socket, subprocess, sys
from pathlib import Path
from hubkit.core.processes import landlock
if len(sys.argv) > 1:
    landlock._NVIDIA = Path(sys.argv[1])
    rules = landlock.Rules(read=[Path("/")], write=[], devices=[])
    subprocess.run([sys.executable, __file__], preexec_fn=rules.apply, check=True)
    sys.exit()
for family in (socket.AF_UNIX, socket.AF_INET):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC):
        try:
            socket.socket(family, kind)
            print(family.name, kind & 15)
        except OSError as error:
            pass
"""


@needs["landlock"]
@pytest.mark.parametrize(("device", "more"), [("/dev/null", ["AF_UNIX 5"]), ("/nowhere", [])])
def test_sockets_that_services_listen_on_are_refused(tmp_path: Path, device: str, more: list[str]) -> None:
    """Those of one type stay where there is an NVIDIA driver, which opens one."""
    (tmp_path / "sockets.py").write_text(SOCKETS, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "sockets.py"), device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*more, "AF_INET 1", "AF_INET 2"]


@needs["landlock"]
def test_a_link_in_place_of_its_temporary_folder_opens_nothing(run: Callable[..., App], secrets: list[Path]) -> None:
    home = secrets[0].parent / "spaces" / "mine" / "home"
    home.mkdir(parents=True)
    (home / "tmp").symlink_to(secrets[3].parent)
    app = run(spy(files=[secrets[3]], folders=[secrets[3].parent]))
    until(lambda: app.code() is not None, 60)
    found = report(log_tail(home.parent / "run.log"))
    assert found is not None and found["got"] == {}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="NOT TESTED: another uid takes root")
def test_another_user_gets_its_own_folders_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(tempfile.mkdtemp(prefix="hubkit-user-"))  # pytest's own folders are closed to other users
    try:
        root.chmod(0o755)
        hub, mine = root / "hub", root / "hub" / "spaces" / "mine"
        for folder in (mine / "app", mine / "home" / "old", hub / "spaces" / "other", hub / "git"):
            folder.mkdir(parents=True)
        for folder in (hub, hub / "spaces", mine, hub / "spaces" / "other", hub / "git"):
            folder.chmod(0o700)
        for file in (hub / "owner.token", hub / "spaces" / "other" / "secret", hub / "git" / "HEAD"):
            file.write_text("secret", encoding="utf-8")
            file.chmod(0o600)
        (mine / "home" / "outside").symlink_to(hub / "owner.token")
        os.link(hub / "owner.token", mine / "home" / "second-name")
        reach = Reach(write=(mine / "app", mine / "home"), hidden=(hub,))
        order = reach.order("user")
        confined = confinement.Confined(order, ["/usr/bin/env", "sh", "-c", SHELL], mine / "app")
        variables = {"PATH": os.environ["PATH"], "HUB": str(hub), "PID": str(os.getpid())}
        done = subprocess.run(
            confined.command, cwd=mine / "app", env=variables, start_new_session=True,
            capture_output=True, text=True, check=False, **confined.arguments,
        )  # fmt: skip
        uid, *rest = done.stdout.split()
        assert int(uid) >= 0x70000000 and rest == ["own", "kept"], done.stdout + done.stderr
        assert (mine / "home" / "old").stat().st_uid == int(uid)
        assert (hub / "owner.token").stat().st_uid == 0 and (hub / "owner.token").read_text() == "secret"
        assert stat.S_IMODE(hub.stat().st_mode) == 0o701 == stat.S_IMODE((hub / "spaces").stat().st_mode)
        monkeypatch.setattr(sys, "executable", "/usr/bin/env")
        monkeypatch.setattr(confinement.sysconfig, "get_path", lambda name: "/usr/lib")  # type: ignore[attr-defined]
        assert best_way(reach, ["user"]) == "user"
        root.chmod(0o700)
        assert best_way(reach, ["user"]) is None, "another user could not get to it"
    finally:
        shutil.rmtree(root)


SHELL = """
id -u
for file in owner.token spaces/other/secret git/HEAD; do cat "$HUB/$file" && echo "$file"; done
ls "$HUB" "$HUB/spaces" && echo listed
cat "/proc/$PID/environ" && echo environ
kill -CONT "$PID" && echo signal
echo x > "$HUB/new" && echo new
cat ../home/second-name ../home/outside && echo named
echo x > ../home/old/file && echo own
test -d ../home/old && echo kept
true
"""
