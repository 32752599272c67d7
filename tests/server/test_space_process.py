"""Spaces as processes: what they are given, who ends them, and who brings them back."""

from __future__ import annotations

import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import until
from huggingface_hub import HfApi
from huggingface_hub.errors import BadRequestError
from huggingface_hub.utils import httpx
from space_samples import SPACE, apps_of, ask, gone, push, server, wait

from hubkit.server import process
from hubkit.server.process import Running

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no ::1")


def test_the_environment_of_an_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_HOME", "PIP_INDEX_URL", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-user")
    hub = process.start(tmp_path / "hub", port=0)
    try:
        api = HfApi(endpoint=hub.url, token=hub.token)
        api.create_repo(
            SPACE, repo_type="space", space_sdk="gradio",
            space_secrets=[{"key": "KEY", "value": "hidden-1"}], space_variables=[{"key": "SIZE", "value": "3"}],
        )  # fmt: skip
        push(api, app_py=server())
        wait(api)
        found = ask(api)["environment"]
        assert "of-the-user" not in found.values() and hub.token not in found.values()
        assert found["HOME"] != os.environ["HOME"] and Path(found["HOME"]).is_relative_to(hub.data / "spaces")
        assert (found["KEY"], found["SIZE"], found["SPACE_ID"]) == ("hidden-1", "3", SPACE)
        assert (found["SPACE_AUTHOR_NAME"], found["SPACE_REPO_NAME"], found["SPACE_TITLE"]) == (
            "hubkit", "app", "A title",
        )  # fmt: skip
        assert found["HF_ENDPOINT"] == hub.url and found["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"
        assert not [path for path in ask(api)["path"] if (Path(path) / "spaces").is_dir()]
    finally:
        process.stop(hub.data)


def test_secrets_and_variables(api: HfApi, hub: Running) -> None:
    push(api, app_py="import os\nprint('I say', os.environ.get('KEY'), flush=True)\n" + server())
    wait(api)
    api.add_space_secret(SPACE, "KEY", "hidden-value-1", description="a key")
    assert api.get_space_runtime(SPACE).stage != "RUNNING", "a new secret runs the app anew"
    variables = api.add_space_variable(SPACE, "SIZE", "3", description="a size")
    assert variables["SIZE"].value == "3" and variables["SIZE"].updated_at
    assert wait(api).stage == "RUNNING"
    found = ask(api)["environment"]
    assert (found["KEY"], found["SIZE"]) == ("hidden-value-1", "3")
    [secret] = api.get_space_secrets(SPACE).values()
    assert (secret.key, secret.description) == ("KEY", "a key")
    api.add_space_secret(SPACE, "HF_TOKEN", "hidden-value-2")
    wait(api)
    assert "HF_HUB_DISABLE_IMPLICIT_TOKEN" not in ask(api)["environment"]
    [log] = (hub.data / "spaces").glob("*/run.log")
    assert "I say ***" in until(log.read_text, 10)
    paths = ("", "/runtime", "/secrets", "/variables", "/revision/main")
    token = {"Authorization": f"Bearer {hub.token}"}
    answers = "".join(httpx.get(f"{hub.url}/api/spaces/{SPACE}{path}", headers=token).text for path in paths)
    logs = "".join(path.read_text(errors="replace") for path in hub.data.rglob("*.log*"))
    assert "SIZE" in answers and "hidden-value" not in answers + logs
    api.delete_space_secret(SPACE, "KEY")
    assert api.delete_space_variable(SPACE, "SIZE") == {}
    wait(api)
    assert not {"KEY", "SIZE"} & set(ask(api)["environment"])


@pytest.mark.parametrize("key", ["A=B", "", "1A", "A B", "A\0"])
def test_keys_that_no_process_can_be_given(api: HfApi, key: str) -> None:
    push(api)
    with pytest.raises(BadRequestError):
        api.add_space_secret(SPACE, key, "v")
    with pytest.raises(BadRequestError):
        api.add_space_variable(SPACE, "A", "nul\0")


def test_pause_and_restart(api: HfApi, hub: Running) -> None:
    push(api, app_py=server(1))
    wait(api)
    first, host = ask(api)["pid"], api.space_info(SPACE).host
    assert api.pause_space(SPACE).stage == "PAUSED"
    until(lambda: gone(first), 10)
    push(api, app_py=server(2))
    assert wait(api).stage == "PAUSED", "a commit does not wake it"
    process.stop(hub.data)
    again = process.start(hub.data, port=0)
    api = HfApi(endpoint=again.url, token=again.token)
    assert wait(api).stage == "PAUSED" and not apps_of(again)
    api.restart_space(SPACE)
    assert wait(api).stage == "RUNNING" and ask(api)["version"] == 2 and api.space_info(SPACE).host == host
    second = ask(api)["pid"]
    api.restart_space(SPACE, factory_reboot=True)
    assert wait(api).stage == "RUNNING" and ask(api)["pid"] != second and gone(second)


def test_an_app_that_crashes_stays_down(api: HfApi, hub: Running) -> None:
    push(api, app_py=server())
    wait(api)
    ask(api, path="/crash")
    until(lambda: api.get_space_runtime(SPACE).stage == "RUNTIME_ERROR", 10)
    assert api.get_space_runtime(SPACE).raw["errorMessage"] == "The app ended with exit code 7: I was told to crash"
    [log] = (hub.data / "spaces").glob("*/run.log")
    assert log.read_text().count("serving version") == 1 and not apps_of(hub)
    api.restart_space(SPACE)
    assert wait(api).stage == "RUNNING"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_killed_hub_leaves_nothing_and_comes_back_with_its_spaces(api: HfApi, hub: Running, at_once: bool) -> None:
    push(api, app_py="import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\n" + server())
    push(api, "hubkit/other", app_py="raise SystemExit(4)")
    wait(api)
    wait(api, "hubkit/other")
    host, left = api.space_info(SPACE).host, apps_of(hub)
    assert len(left) == 3
    os.kill(hub.pid, signal.SIGKILL)
    if at_once:
        again = process.start(hub.data, port=0)
        until(lambda: all(gone(child.pid) for child in left), 10)
    else:
        until(lambda: all(gone(child.pid) for child in left), 10)
        again = process.start(hub.data, port=0)
    api = HfApi(endpoint=again.url, token=again.token)
    assert wait(api).stage == "RUNNING" and api.space_info(SPACE).host == host
    assert ask(api)["environment"]["HF_ENDPOINT"] == again.url
    assert wait(api, "hubkit/other").raw["errorMessage"].startswith("The app ended with exit code 4")
    running = apps_of(again)
    process.stop(again.data)
    assert len(running) == 3 and all(gone(child.pid) for child in running)


def test_what_a_killed_hub_and_a_killed_launcher_left_is_ended(api: HfApi, hub: Running) -> None:
    push(api, app_py=server())
    wait(api)
    launcher, app = apps_of(hub)
    for one in (hub.pid, launcher.pid):
        os.kill(one, signal.SIGSTOP)  # neither can look after the app
    for one in (hub.pid, launcher.pid):
        os.kill(one, signal.SIGKILL)
    until(lambda: gone(hub.pid) and gone(launcher.pid), 10)
    assert not gone(app.pid)
    again = process.start(hub.data, port=0)
    api = HfApi(endpoint=again.url, token=again.token)
    assert wait(api).stage == "RUNNING" and gone(app.pid) and ask(api)["pid"] != app.pid


@pytest.mark.parametrize("at", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_an_address_that_another_program_took_is_changed(api: HfApi, hub: Running, at: str) -> None:
    push(api, app_py=server())
    wait(api)
    host = str(api.space_info(SPACE).host)
    process.stop(hub.data)
    family = socket.AF_INET6 if ":" in at else socket.AF_INET
    with socket.create_server((at, int(host.rpartition(":")[2])), family=family):
        again = process.start(hub.data, port=0)
        api = HfApi(endpoint=again.url, token=again.token)
        assert wait(api).stage == "RUNNING" and api.space_info(SPACE).host != host


def test_orders_from_all_sides_end_with_one_app(api: HfApi, hub: Running) -> None:
    push(api, app_py=server())

    def order(number: int) -> None:
        if number % 4 == 0:
            api.restart_space(SPACE, factory_reboot=number % 8 == 0)
        elif number % 4 == 1:
            api.add_space_secret(SPACE, "NUMBER", str(number))
        elif number % 4 == 2:
            api.pause_space(SPACE)
        else:
            api.get_space_runtime(SPACE)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(order, range(60)))
    last = push(api, app_py=server(9))
    api.restart_space(SPACE)
    runtime = wait(api)
    assert (runtime.stage, runtime.raw["sha"], ask(api)["version"]) == ("RUNNING", last, 9)
    assert len(apps_of(hub)) == 2, "one launcher, one app"


def test_deleted_it_ends_and_leaves_no_files(api: HfApi, hub: Running) -> None:
    push(api, app_py=server())
    wait(api)
    api.delete_repo(SPACE, repo_type="space")
    until(lambda: not apps_of(hub) and not list((hub.data / "spaces").iterdir()), 10)


def test_who_follows_a_log_does_not_hold_the_hub_up(api: HfApi, hub: Running) -> None:
    push(api, app_py=server())
    wait(api)
    headers = {"Authorization": f"Bearer {hub.token}"}
    with httpx.stream("GET", f"{hub.url}/api/spaces/{SPACE}/logs/run", headers=headers, timeout=20) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines).removeprefix("data: "))["data"] == "serving version 1\n"
        os.kill(hub.pid, signal.SIGTERM)
        assert list(lines) == [""], "the stream ends as it should"
    until(lambda: gone(hub.pid), 4)
