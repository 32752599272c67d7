"""Spaces that try to get at what is not theirs: as an app, and while their requirements are installed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from commands import hubkit, hubkit_json
from huggingface_hub import HfApi
from huggingface_hub.utils import httpx
from space_samples import SPACE, apps_of, ask, push, server, wait
from spies import OWN, report, spy

from hubkit.core.errors import UsageError
from hubkit.core.processes import landlock
from hubkit.core.processes.confinement import VARIABLE
from hubkit.server import process
from hubkit.server.process import Running

pytestmark = pytest.mark.fault("A1")
confines = pytest.mark.skipif(not landlock.abi(), reason="NOT TESTED: this kernel has no Landlock")
BACKEND = """
import base64, hashlib, zipfile
NAME = "spying_package-1.0"
def build_wheel(folder, config_settings=None, metadata_directory=None):
    with open("spy.py") as file:
        exec(compile(file.read(), "spy.py", "exec"), {"__name__": "spy"})
    with zipfile.ZipFile(f"{folder}/{NAME}-py3-none-any.whl", "w") as archive:
        archive.writestr("spying_package.py", "")
        archive.writestr(f"{NAME}.dist-info/METADATA", "Metadata-Version: 2.1\\nName: spying_package\\nVersion: 1.0\\n")
        archive.writestr(f"{NAME}.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{NAME}.dist-info/RECORD", "")
    return f"{NAME}-py3-none-any.whl"
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.fixture(autouse=True)
def not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def logs(api: HfApi) -> list[str]:
    return [line for build in (True, False) for line in api.fetch_space_logs(SPACE, build=build)]


@confines
@pytest.mark.parametrize("when", ["as an app", "while it is installed"])
def test_a_space_gets_nothing_but_its_own(
    api: HfApi, hub: Running, tmp_path: Path, when: str, record_property: Callable[[str, object], None]
) -> None:
    push(api, "hubkit/other", app_py=server())
    api.add_space_secret("hubkit/other", "KEY", "of another Space")
    wait(api, "hubkit/other")
    other = ask(api, "hubkit/other")["pid"]
    [others] = (hub.data / "spaces").iterdir()
    (others / "home" / "secret").write_text("of another Space")
    (tmp_path / "token").write_text("of the user")
    api.create_repo("hubkit/model", private=True)
    token = hub.data / "owner.token"
    launcher = psutil.Process(hub.pid).children()[0].pid
    code = spy(
        files=[
            token, hub.data / "hub.sqlite", hub.data / "hub.sqlite-wal", hub.data / "server.json",
            hub.data / "log" / "hub.log", *(hub.data / "git").glob("*/HEAD"), others / "home" / "secret",
            others / "run.log", next(others.glob("*/app.py")), tmp_path / "token",
        ],
        closed=[Path("/etc/shadow"), Path(process.__file__), Path(__file__)],
        folders=[
            hub.data, hub.data / "git", hub.data / "lfs", hub.data / "tmp", hub.data / "spaces", others, tmp_path,
            Path.home(), Path.cwd(), Path.home() / ".cache", Path("/tmp"), Path("/var/tmp"), Path("/run"),
        ],
        processes=[hub.pid, launcher, other, os.getpid()], variables=["KEY"], signals=landlock.abi() >= 6,
    )  # fmt: skip
    before, sent = token.read_bytes(), (hub.data / "hub.sqlite").stat().st_ino
    files = {"spy/spy.py": code, "spy/backend.py": BACKEND, "spy/pyproject.toml": PROJECT}
    if when == "as an app":
        push(api, app_py=code + server())
    else:
        api.create_repo(SPACE, repo_type="space", space_sdk="gradio")
        for name, text in files.items():
            api.upload_file(path_or_fileobj=text.encode(), path_in_repo=name, repo_id=SPACE, repo_type="space")
        push(api, app_py="import spying_package\n" + server(), requirements_txt="./spy\n")
    runtime = wait(api)
    assert runtime.stage == "RUNNING", logs(api)
    [mine] = [path for path in (hub.data / "spaces").iterdir() if path != others]
    found = report((mine / "home" / "spy.txt").read_text().splitlines())
    assert found is not None
    assert found["got"] == {}
    assert found["own"] == dict.fromkeys(found["own"], True) and len(found["own"]) == OWN
    assert token.read_bytes() == before and (hub.data / "hub.sqlite").stat().st_ino == sent
    assert api.whoami()["name"] == "hubkit" and ask(api, "hubkit/other")["pid"] == other
    text = httpx.get(f"{hub.url}/spaces/{SPACE}").text + httpx.get(f"{hub.url}/spaces/{SPACE}", headers={}).text
    assert "not confined" not in text
    record_property("figure", f"{when}: {len(found['got'])} attempts succeeded")


@confines
def test_it_cannot_reach_programs_through_sockets_of_the_user(api: HfApi, hub: Running, tmp_path: Path) -> None:
    """A session's systemd, Docker or an ssh-agent would do for it what it may not do itself."""
    with socket.socket(socket.AF_UNIX) as agent, socket.socket(socket.AF_UNIX) as abstract:
        agent.bind(str(tmp_path / "agent"))
        abstract.bind(f"\0hubkit-test-{os.getpid()}")
        for sock in (agent, abstract):
            sock.listen()
        push(api, app_py=spy(sockets=[str(tmp_path / "agent"), f"@hubkit-test-{os.getpid()}"]) + server())
        assert wait(api).stage == "RUNNING"
    [log] = (hub.data / "spaces").glob("*/home/spy.txt")
    found = report(log.read_text().splitlines())
    assert found is not None and found["got"] == {}


@confines
def test_gradio_torch_and_processes_work_confined(api: HfApi, hub: Running) -> None:
    app = (
        "import multiprocessing, os, subprocess, tempfile, time\nimport gradio as gr\nimport psutil, torch\n"
        "def double(n): return 2 * n\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool: assert pool.map(double, [1, 2]) == [2, 4]\n"
        "    assert torch.ones(3).sum() == 3 and psutil.virtual_memory().total and psutil.Process().memory_info().rss\n"
        "    subprocess.run(['git', '--version'], check=True)\n"
        "    torch.save(torch.ones(2), tempfile.gettempdir() + '/a.pt')\n"
        "    gr.Interface(lambda text: text[::-1], 'text', 'text', api_name='turn').launch()\n"
    )
    push(api, app_py=app)
    assert wait(api).stage == "RUNNING", logs(api)
    from gradio_client import Client

    host = api.space_info(SPACE).host
    assert host is not None
    assert Client(host, verbose=False).predict("abc", api_name="/turn") == "cba"


def test_where_nothing_confines_it_is_said_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "none")
    try:
        done = hubkit("hub", "start", home=tmp_path, **{VARIABLE: "none"})
        assert done.returncode == 0 and "Nothing on this system confines Spaces" in done.stderr, done.stderr
        running = process.status(tmp_path / "hub")
        assert running is not None and running.confinement is None
        status = hubkit("hub", "status", home=tmp_path)
        assert "--spaces confined" in status.stderr
        assert hubkit_json("hub", "status", home=tmp_path)["spaces"] == {"run": "always", "confinement": None}
        api = HfApi(endpoint=running.url, token=running.token)
        push(api, app_py=spy(files=[tmp_path / "hub" / "owner.token"]) + server())
        assert wait(api).stage == "RUNNING"
        for build in (True, False):
            assert "not confined" in next(line for line in api.fetch_space_logs(SPACE, build=build) if "Warn" in line)
        [seen] = (tmp_path / "hub" / "spaces").glob("*/home/spy.txt")
        found = report(seen.read_text().splitlines())
        assert found is not None and found["got"], "the test's own app gets what it tries to get"
        assert "this app is not confined" in httpx.get(f"{running.url}/spaces/{SPACE}").text
    finally:
        process.stop(tmp_path / "hub")


def test_spaces_can_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "none")
    for mode, words in (("confined", "no means to confine"), ("never", "runs no Spaces")):
        running = process.start(tmp_path / mode, port=0, spaces=mode)
        try:
            assert running.spaces == mode and running.warning is None
            api = HfApi(endpoint=running.url, token=running.token)
            push(api, app_py=server())
            runtime = wait(api)
            assert words in runtime.raw["errorMessage"] and runtime.stage == "STOPPED" and not apps_of(running)
            assert not list((tmp_path / mode / "spaces").glob("*/*/app.py")), "nothing was laid out"
            with pytest.raises(UsageError, match=f"with --spaces {mode}"):
                process.start(tmp_path / mode, spaces="always")
            process.stop(running.data)
            assert process.start(tmp_path / mode, port=0).spaces == mode, "as the last time"
        finally:
            process.stop(tmp_path / mode)


@confines
def test_a_link_that_an_installation_left_is_not_written_through(api: HfApi, hub: Running, tmp_path: Path) -> None:
    """The mark that an environment is complete is made by the Hub, outside of what the installation can write."""
    link = f"import os, sys\nos.symlink({str(tmp_path / 'new')!r}, sys.prefix + '/done')\n"
    api.create_repo(SPACE, repo_type="space", space_sdk="gradio")
    for name, text in {"spy/spy.py": link, "spy/backend.py": BACKEND, "spy/pyproject.toml": PROJECT}.items():
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo=name, repo_id=SPACE, repo_type="space")
    push(api, app_py="import spying_package\n" + server(), requirements_txt="./spy\n")
    assert wait(api).stage == "RUNNING", logs(api)
    [place] = (hub.data / "spaces").glob("*/venv-*")
    assert (place / "done").is_symlink() and not (tmp_path / "new").exists()
