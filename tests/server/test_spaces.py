"""Spaces on the embedded Hub, as the real clients see them: builds, states, logs, rights."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import until
from huggingface_hub import HfApi
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from space_samples import SPACE, apps_of, ask, gone, push, server, wait

from hubkit.server.process import Running


def test_a_commit_makes_it_run(api: HfApi) -> None:
    api.create_repo(SPACE, repo_type="space", space_sdk="gradio")
    assert wait(api).stage == "NO_APP_FILE"
    commit = push(api, app_py=server())
    assert api.get_space_runtime(SPACE).stage in ("BUILDING", "APP_STARTING")
    runtime = wait(api)
    assert (runtime.stage, runtime.hardware, runtime.raw["sha"]) == ("RUNNING", "cpu-basic", commit)
    info = api.space_info(SPACE)
    assert info.runtime and info.runtime.stage == "RUNNING" and info.subdomain == "hubkit-app"
    assert info.host and info.host.startswith("http://localhost:")
    assert ask(api)["version"] == 1


def test_a_new_version_takes_the_place_of_the_old_one_at_its_address(api: HfApi) -> None:
    push(api, app_py=server(1))
    wait(api)
    host, old = api.space_info(SPACE).host, ask(api)["pid"]
    push(api, app_py=server(2))
    assert api.get_space_runtime(SPACE).stage in ("RUNNING_BUILDING", "BUILDING", "APP_STARTING")
    assert wait(api).stage == "RUNNING"
    assert ask(api)["version"] == 2 and api.space_info(SPACE).host == host and gone(old)


def test_a_burst_of_commits_ends_with_the_last(api: HfApi, hub: Running) -> None:
    commits = [push(api, app_py=server(n)) for n in range(5)]
    assert wait(api).raw["sha"] == commits[-1]
    assert ask(api)["version"] == 4
    assert len(apps_of(hub)) == 2, "one launcher, one app"
    [space] = (hub.data / "spaces").iterdir()
    assert [path.name for path in space.iterdir() if len(path.name) == 40] == [commits[-1]]


def test_other_branches_leave_it_alone_and_a_merge_does_not(api: HfApi) -> None:
    first = push(api, app_py=server(1))
    wait(api)
    pid = ask(api)["pid"]
    two = {"path_or_fileobj": server(2).encode(), "path_in_repo": "app.py", "repo_id": SPACE, "repo_type": "space"}
    pull = api.upload_file(**two, create_pr=True)
    api.create_branch(SPACE, branch="dev", repo_type="space")
    api.upload_file(**two, revision="dev")
    assert api.get_space_runtime(SPACE).raw["sha"] == first and ask(api)["pid"] == pid
    assert pull.pr_num
    api.change_discussion_status(SPACE, pull.pr_num, "open", repo_type="space")
    api.merge_pull_request(SPACE, pull.pr_num, repo_type="space")
    assert wait(api).stage == "RUNNING" and ask(api)["version"] == 2
    api.super_squash_history(SPACE, repo_type="space")
    assert wait(api).raw["sha"] == api.space_info(SPACE).sha


@pytest.mark.fault("P1")
def test_an_app_that_raises(api: HfApi, hub: Running) -> None:
    push(api, app_py="print('loading')\nraise ValueError('no weights here')")
    runtime = wait(api)
    assert runtime.stage == "RUNTIME_ERROR"
    assert runtime.raw["errorMessage"] == "The app ended with exit code 1: ValueError: no weights here"
    log = list(api.fetch_space_logs(SPACE))
    assert log[0] == "loading\n" and log[-1] == "ValueError: no weights here\n"
    assert api.space_info(SPACE).host is None and not apps_of(hub)
    push(api, app_py=server())
    assert wait(api).stage == "RUNNING", "the next commit gets its chance"


@pytest.mark.fault("P1")
def test_an_app_that_never_listens(api: HfApi, hub: Running) -> None:
    push(api, head="startup_duration_timeout: 2s", app_py="import time\nprint('busy', flush=True)\ntime.sleep(600)")
    runtime = wait(api)
    assert runtime.stage == "RUNTIME_ERROR"
    assert "app.py did not listen on port" in runtime.raw["errorMessage"]
    assert runtime.raw["errorMessage"].endswith("within 2 s.")
    assert list(api.fetch_space_logs(SPACE)) == ["busy\n"] and not apps_of(hub)


@pytest.mark.fault("P1")
def test_requirements_that_cannot_be_installed(api: HfApi, hub: Running) -> None:
    push(api, app_py=server(), requirements_txt="--no-index\nno-such-package-for-hubkit==1.0\n")
    runtime = wait(api)
    assert runtime.stage == "BUILD_ERROR"
    assert "No matching distribution found for no-such-package-for-hubkit==1.0" in runtime.raw["errorMessage"]
    assert any(line.startswith("ERROR: ") for line in api.fetch_space_logs(SPACE, build=True))
    assert not apps_of(hub)


def wheel(version: str) -> bytes:
    """A package with one module."""
    name, buffer = f"hubkit_space_sample-{version}", io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hubkit_space_sample.py", f"VERSION = {version!r}\n")
        archive.writestr(
            f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: hubkit_space_sample\nVersion: {version}\n"
        )
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")
    return buffer.getvalue()


def test_requirements_are_installed_for_the_space_alone(api: HfApi, hub: Running) -> None:
    app = "import gradio, hubkit_space_sample as sample\nprint('sample', sample.VERSION)\n" + server()
    for version in ("1.0", "2.0"):
        file = f"hubkit_space_sample-{version}-py3-none-any.whl"
        api.create_repo(SPACE, repo_type="space", space_sdk="gradio", exist_ok=True)
        api.upload_file(path_or_fileobj=wheel(version), path_in_repo=file, repo_id=SPACE, repo_type="space")
        push(api, app_py=app, requirements_txt=f"gradio>=4  # is here\n--no-index\n./{file}\n")
        assert wait(api).stage == "RUNNING", list(api.fetch_space_logs(SPACE, build=True))
        said = until(lambda: (hub.data / "spaces").glob("*/run.log").__next__().read_text(), 10)
        assert f"sample {version}" in said
    assert len(list((hub.data / "spaces").glob("*/venv-*"))) == 1, "the older environment is gone"


def test_what_is_installed_is_not_installed_again(api: HfApi, hub: Running) -> None:
    push(api, head="sdk_version: 3.0.0\npython_version: '3.9'", app_py=server(), requirements_txt="gradio>=4\nnumpy\n")
    assert wait(api).stage == "RUNNING"
    log = "".join(api.fetch_space_logs(SPACE, build=True))
    assert "2 requirements, all installed." in log
    assert "Warning: sdk_version is 3.0.0" in log and "Warning: python_version is 3.9" in log
    assert not list((hub.data / "spaces").glob("*/venv-*"))


@pytest.mark.parametrize(
    ("readme", "stage", "said"),
    [
        ("---\ntitle: x\n---\n", "CONFIG_ERROR", "has no supported sdk"),
        (None, "CONFIG_ERROR", "no README.md"),
        ("---\nsdk: gradio\napp_file: ../app.py\n---\n", "CONFIG_ERROR", "app_file"),
        ("---\nsdk: gradio\nstartup_duration_timeout: soon\n---\n", "CONFIG_ERROR", "startup_duration_timeout"),
        ("---\nsdk: gradio\napp_file: main.py\n---\n", "NO_APP_FILE", "main.py"),
        ("---\nsdk: docker\n---\n", "STOPPED", "sdk: docker"),
        ("---\nsdk: static\n---\n", "STOPPED", "sdk: static"),
    ],
)
def test_metadata_that_cannot_run(api: HfApi, hub: Running, readme: str | None, stage: str, said: str) -> None:
    push(api, app_py=server())
    wait(api)
    if readme is None:
        api.delete_file("README.md", SPACE, repo_type="space")
    else:
        api.upload_file(path_or_fileobj=readme.encode(), path_in_repo="README.md", repo_id=SPACE, repo_type="space")
    runtime = wait(api)
    assert runtime.stage == stage and said in runtime.raw["errorMessage"]
    assert not apps_of(hub), "the old version does not go on behind an error"


def test_what_is_not_run_is_not_restarted(api: HfApi) -> None:
    api.create_repo(SPACE, repo_type="space", space_sdk="static")
    assert wait(api).stage == "STOPPED"
    for call in (api.restart_space, api.pause_space):
        with pytest.raises(BadRequestError, match="does not run sdk: static"):
            call(SPACE)


def test_large_files_are_laid_out_and_the_store_is_safe_from_the_app(api: HfApi, hub: Running) -> None:
    content = b"\0weights" * 1000
    app = "open('sub/w.bin', 'ab').write(b'more'); print(len(open('sub/w.bin', 'rb').read()), flush=True)\n" + server()
    api.create_repo(SPACE, repo_type="space", space_sdk="gradio")
    api.upload_file(path_or_fileobj=content, path_in_repo="sub/w.bin", repo_id=SPACE, repo_type="space")
    push(api, app_py=app)
    assert wait(api).stage == "RUNNING"
    [log] = (hub.data / "spaces").glob("*/run.log")
    assert until(log.read_text, 10) and f'"{len(content) + 4}\\n"' in log.read_text()
    found = api.hf_hub_download(SPACE, "sub/w.bin", repo_type="space")
    assert Path(found).read_bytes() == content


def test_renamed_it_runs_on_and_duplicated_it_runs_twice(api: HfApi) -> None:
    push(api, app_py=server())
    api.add_space_variable(SPACE, "SIZE", "3")
    api.add_space_secret(SPACE, "KEY", "hidden-value")
    wait(api)
    pid = ask(api)["pid"]
    api.move_repo(SPACE, "hubkit/moved", repo_type="space")
    assert ask(api, "hubkit/moved")["pid"] == pid
    api.restart_space("hubkit/moved")
    wait(api, "hubkit/moved")
    assert ask(api, "hubkit/moved")["environment"]["SPACE_ID"] == "hubkit/moved"
    api.duplicate_repo("hubkit/moved", "hubkit/copy", repo_type="space", space_variables=[{"key": "N", "value": "1"}])
    assert wait(api, "hubkit/copy").stage == "RUNNING"
    found = ask(api, "hubkit/copy")["environment"]
    assert (found["SIZE"], found["N"], found.get("KEY")) == ("3", "1", None)


def test_strangers(api: HfApi, hub: Running, make_token: Callable[..., str]) -> None:
    push(api, app_py=server())
    wait(api)
    stranger = HfApi(endpoint=hub.url, token=make_token("stranger"))
    assert stranger.space_info(SPACE).host == api.space_info(SPACE).host
    for forbidden in (
        lambda: stranger.get_space_secrets(SPACE),
        lambda: stranger.add_space_secret(SPACE, "A", "1"),
        lambda: stranger.add_space_variable(SPACE, "A", "1"),
        lambda: stranger.pause_space(SPACE),
        lambda: stranger.restart_space(SPACE),
        lambda: list(stranger.fetch_space_logs(SPACE)),
    ):
        with pytest.raises(HfHubHTTPError, match="403"):
            forbidden()
    api.update_repo_settings(SPACE, repo_type="space", private=True)
    for one in (stranger, HfApi(endpoint=hub.url, token=False)):
        with pytest.raises(HfHubHTTPError, match=r"40[14]"):
            one.get_space_runtime(SPACE)
        with pytest.raises(HfHubHTTPError, match=r"40[14]"):
            one.space_info(SPACE)
        assert not list(one.list_spaces(author="hubkit"))
    assert api.get_space_runtime(SPACE).stage == "RUNNING"


def test_logs_are_followed_to_their_end(api: HfApi) -> None:
    push(api, app_py="import time\nfor n in range(5):\n    print('line', n, flush=True)\n    time.sleep(0.2)\nexit(2)")
    assert list(api.fetch_space_logs(SPACE, follow=True)) == [f"line {n}\n" for n in range(5)]
    assert "Built.\n" in list(api.fetch_space_logs(SPACE, build=True, follow=True))
    assert wait(api).stage == "RUNTIME_ERROR"


def test_what_this_hub_cannot_do_is_said(api: HfApi) -> None:
    push(api)
    with pytest.raises(HfHubHTTPError, match="own machine"):
        api.request_space_hardware(SPACE, "t4-small")  # type: ignore[arg-type]
    with pytest.raises(HfHubHTTPError, match="dev mode"):
        api.enable_space_dev_mode(SPACE)
    with pytest.raises(HfHubHTTPError, match="no volumes"):
        api.delete_space_volumes(SPACE)
    with pytest.warns(UserWarning, match="cpu-basic"):
        assert api.set_space_sleep_time(SPACE, 60).sleep_time == 60
    assert [item.name for item in api.list_spaces_hardware()] == ["cpu-basic"]
    assert api.list_space_templates() == [] and api.get_zero_gpu_quota().remaining == 0
