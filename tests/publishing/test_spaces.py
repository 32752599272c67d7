"""Building, trying and deploying Spaces. The apps here are small servers without Gradio; the real one is in e2e/."""

from __future__ import annotations

import json
import os
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from commands import hubkit, hubkit_json, until
from releases import RECIPE, Release, faults, target_of
from spies import report, spy

from hubkit.cards.space_and_dataset_cards import space_card
from hubkit.core.errors import ConflictError, HubkitError, RefusedError, RemoteError, UsageError
from hubkit.core.processes.confinement import Reach, best_way
from hubkit.hub.client import Hub, Runtime, connect
from hubkit.publishing.manifest import MANIFEST_PATH
from hubkit.publishing.spaces import building, deployment, readiness
from hubkit.recipe.models import Recipe, Space
from hubkit.server.process import Running
from hubkit_stages import space as stage

REPO = "hubkit/shown"
SERVER = """\
import http.server, json, os

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"says": SAYS, "environment": dict(os.environ), "pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["GRADIO_SERVER_PORT"])), Page).serve_forever()
"""
CARD = "---\ntitle: Shown\nsdk: gradio\nstartup_duration_timeout: 4s\n---\n# Shown\n"
DEAF = "import time\nprint('asleep', flush=True)\nwhile True:\n    time.sleep(1)\n"
FACTS = building.Facts(
    title='Tiny: a "quoted" title',
    repo="hubkit/tiny",
    licence="apache-2.0",
    base=("hubkit/base", "a" * 40),
    dtype="bfloat16",
    end_of_turn=(4, "<|im_end|>"),
    max_new_tokens=64,
    revisions=[
        building.Revision("main", "b" * 40, "repaired", 128, 128),
        building.Revision("v0", "c" * 40, "DPO", 0, 128),
    ],
    prompts=["Hello?"],
)


def folder_of(place: Path, app: str, **files: str) -> Path:
    """A Space's folder whose app is ``app``."""
    place.mkdir(parents=True, exist_ok=True)
    for name, text in {"README.md": CARD, "app.py": app, **files}.items():
        (place / name).write_text(text)
    return place


def answering(place: Path, says: str, **files: str) -> Path:
    return folder_of(place, SERVER.replace("SAYS", repr(says)), **files)


def told(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def here(hub: Running, tmp_path: Path) -> Hub:
    return connect(target_of(hub, tmp_path))


def deploy(hub: Hub, folder: Path, **more: Any) -> deployment.Deployed:
    bundle = building.bundle_of(folder, folder.with_name(f"{folder.name}.json"))
    return deployment.deploy(hub, REPO, bundle, "public", timeout=60, **more)


# --- building


def test_a_built_space_holds_the_app_and_what_it_needs(tmp_path: Path) -> None:
    bundle = building.build(FACTS, space_card(FACTS), tmp_path / "one")
    assert {"app.py", "README.md", "requirements.txt", "release.json", MANIFEST_PATH} <= bundle.files.keys()
    assert not [path for path in bundle.files if "__pycache__" in path]
    front = yaml.safe_load(bundle.files["README.md"].read_text().split("---\n")[1])
    assert front["sdk"] == "gradio" and front["models"] == ["hubkit/tiny"] and front["title"] == FACTS.title
    assert len(front["short_description"]) <= 60, "the Hub takes no more"
    needed = bundle.files["requirements.txt"].read_text().splitlines()
    assert all("==" in line and "+" not in line for line in needed) and any(
        line.startswith("torch==") for line in needed
    )
    release = json.loads(bundle.files["release.json"].read_text())
    assert [item["commit"] for item in release["revisions"]] == ["b" * 40, "c" * 40]
    assert building.build(FACTS, space_card(FACTS), tmp_path / "two").manifest.digest == bundle.manifest.digest


def test_a_revision_says_its_form_and_what_was_measured() -> None:
    weights = building.Revision("main", "b" * 40, "all weights", form="weights")
    assert weights.to_json() == {"name": "main", "commit": "b" * 40, "title": "all weights", "form": "weights"}
    assert FACTS.revisions[0].to_json() == {
        "name": "main", "commit": "b" * 40, "title": "repaired", "stop_rate": {"stopped": 128, "prompts": 128},
    }  # fmt: skip


def test_a_secret_is_not_published_and_not_printed(tmp_path: Path) -> None:
    token = "hf_" + "a" * 34
    folder = answering(tmp_path / "app", "x", **{"notes.txt": f"token = {token}"})
    with pytest.raises(RefusedError) as refused:
        building.bundle_of(folder, tmp_path / "manifest.json")
    assert "notes.txt" in refused.value.message and token not in str(refused.value)


def test_the_home_that_hubkit_makes_in_the_folder_of_a_space_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HUBKIT_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    for name, text in {"README.md": "x", "app.py": "x", ".hubkit/hub/owner.token": "hf_" + 34 * "a"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    bundle = building.bundle_of(tmp_path, tmp_path.with_name(f"{tmp_path.name}.json"))
    assert set(bundle.files) == {"README.md", "app.py", MANIFEST_PATH}


def test_a_space_that_a_release_builds_within_the_home_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBKIT_HOME", str(tmp_path))
    folder = answering(tmp_path / "runs" / "me-1" / "space", "x")
    bundle = building.bundle_of(folder, tmp_path / "manifest.json")
    assert {"README.md", "app.py", MANIFEST_PATH} <= set(bundle.files)


def test_the_app_imports_nothing_of_ours() -> None:
    for path in building.app_folder().glob("*.py"):
        assert "hubkit" not in path.read_text(), f"{path.name} goes to the Hub without hubkit"
    assert not list(building.app_folder().parent.rglob("__init__.py")), "a package called spaces shadows Gradio's"


# --- on this machine


def test_a_trial_answers_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "b" * 34)
    folder = answering(tmp_path / "app", "hello")
    with building.trial(folder, {"HF_ENDPOINT": "http://127.0.0.1:9"}, timeout=30) as app:
        said = told(app.url)
        seen = said["environment"]
        assert said["says"] == "hello" and seen["HF_ENDPOINT"] == "http://127.0.0.1:9"
        assert "HF_TOKEN" not in seen and seen["HOME"] != os.environ["HOME"]
        assert Path(seen["HOME"]).is_dir()
    assert not psutil.pid_exists(said["pid"])
    assert not Path(seen["HOME"]).exists()
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "app.py"]


@pytest.mark.fault("A1")
@pytest.mark.skipif(best_way(Reach()) is None, reason="NOT TESTED: this system has no means to confine an app")
def test_an_app_that_is_tried_reaches_the_cache_of_models_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("home/token", "home/hub/models--a--b/blob", "project/.env"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("secret")
    monkeypatch.chdir(tmp_path / "project")
    closed = [tmp_path / "home" / "token", tmp_path / "project" / ".env"]
    folder = answering(tmp_path / "app", "hello")
    code = spy(files=[*closed, folder / "README.md"], folders=[tmp_path, tmp_path / "home", tmp_path / "project"])
    code += f"(Path({str(tmp_path / 'home' / 'hub')!r}) / 'models--a--b' / 'new').write_text('downloaded')\n"
    (folder / "app.py").write_text(code + (folder / "app.py").read_text())
    with building.trial(folder, {"HF_HUB_CACHE": str(tmp_path / "home" / "hub")}, timeout=60) as app:
        home = Path(told(app.url)["environment"]["HOME"])
        found = report((home / "spy.txt").read_text().splitlines())
        assert app.confinement and found is not None and found["got"] == {}
    assert (tmp_path / "home" / "hub" / "models--a--b" / "new").read_text() == "downloaded"


@pytest.mark.parametrize(
    ("app", "words"),
    [("raise SystemError('no weights')", "ended with status 1"), (DEAF, "did not listen on its port within 2 s")],
)
@pytest.mark.fault("P1")
def test_an_app_that_does_not_come_up_here(tmp_path: Path, app: str, words: str) -> None:
    with pytest.raises(RefusedError) as refused, building.trial(folder_of(tmp_path / "app", app), {}, timeout=2):
        pytest.fail("it came up")
    assert words in refused.value.message
    assert ("no weights" if "raise" in app else "asleep") in refused.value.message


def test_another_program_on_the_port_is_not_taken_for_the_app(tmp_path: Path) -> None:
    with building.trial(answering(tmp_path / "one", "one"), {}, timeout=30) as app:
        taken = building.trial(answering(tmp_path / "two", "two"), {}, port=app.port)
        with pytest.raises(UsageError, match="is in use"), taken:
            pytest.fail("it came up")


def test_an_app_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = answering(tmp_path / "app", "x")
    (tmp_path / "other.py").write_text("print('outside')")
    (folder / "README.md").write_text("---\nsdk: gradio\napp_file: ../other.py\n---\n")
    with pytest.raises(RefusedError, match="app_file"):
        building.app_file(folder)


# --- on the Hub


@pytest.mark.fault("P3")
def test_deploying_twice_writes_once_and_keeps_what_others_added(here: Hub, tmp_path: Path) -> None:
    first = deploy(here, answering(tmp_path / "app", "one", **{"old.txt": "old"}))
    assert first.host and told(first.host)["says"] == "one" and first.written
    again = deploy(here, tmp_path / "app")
    assert (again.commit, again.written) == (first.commit, False)
    here.api.upload_file(
        path_or_fileobj=b"mine", path_in_repo="notes.md", repo_id=REPO, repo_type="space", commit_message="mine"
    )
    second = deploy(here, answering(tmp_path / "app", "two"))
    assert second.host and told(second.host)["says"] == "two"
    assert "notes.md" in second.ownership.kept and "notes.md" in here.tree(REPO, "main", "space")
    assert len(here.history(REPO, "main", "space")) == 4, "the first commit, two deploys, one of somebody else"


def test_what_is_gone_from_the_folder_is_removed(here: Hub, tmp_path: Path) -> None:
    deploy(here, answering(tmp_path / "one", "x", **{"old.txt": "old"}))
    done = deploy(here, answering(tmp_path / "two", "x"))
    assert "old.txt" not in here.tree(REPO, "main", "space") and not done.ownership.kept


@pytest.mark.fault("P1")
def test_an_app_that_cannot_answer_is_taken_back(here: Hub, tmp_path: Path) -> None:
    def ask(host: str) -> None:
        if told(host)["says"] != "sound":
            raise HubkitError(f"{host} could not answer.")

    sound = deploy(here, answering(tmp_path / "sound", "sound"), ask=ask)
    with pytest.raises(RemoteError, match=r"could not answer.\nRolled back to the previous version"):
        deploy(here, answering(tmp_path / "dull", "nothing"), ask=ask)
    assert here.tree(REPO, "main", "space") == here.tree(REPO, sound.commit, "space")


@pytest.mark.fault("P1", "F1")
def test_a_deploy_that_was_interrupted_after_its_commit_is_taken_back_by_the_next(here: Hub, tmp_path: Path) -> None:
    class Killed(BaseException):
        """Ends the deploy where a kill would."""

    before: dict[str, str] = {}

    def note(point: str, **facts: str) -> None:
        assert point == "space-committed"
        before[facts["commit"]] = facts["previous"]
        raise Killed

    sound = deploy(here, answering(tmp_path / "sound", "sound"))
    broken = folder_of(tmp_path / "broken", "raise SystemError('no weights')")
    with pytest.raises(Killed):
        deploy(here, broken, note=note)
    assert set(before.values()) == {sound.commit}
    with pytest.raises(RemoteError, match="Rolled back to the previous version"):
        deploy(here, broken, before=before)
    assert here.tree(REPO, "main", "space") == here.tree(REPO, sound.commit, "space")


@pytest.mark.parametrize(
    ("app", "more", "stage", "words"),
    [
        ("raise SystemError('no weights')", {}, "RUNTIME_ERROR", "no weights"),
        (DEAF, {}, "RUNTIME_ERROR", "asleep"),
        ("print('x')", {"requirements.txt": "no-such-package-for-hubkit==1.0"}, "BUILD_ERROR", "no-such-package"),
    ],
)
@pytest.mark.fault("P1")
def test_a_space_that_does_not_come_up_is_said_and_taken_back(
    here: Hub, tmp_path: Path, app: str, more: dict[str, str], stage: str, words: str
) -> None:
    sound = deploy(here, answering(tmp_path / "sound", "sound"))
    with pytest.raises(RemoteError) as failed:
        deploy(here, folder_of(tmp_path / "broken", app, **more))
    said = failed.value
    assert said.exit_code == 5 and stage in said.message and words in said.message
    assert "Rolled back to the previous version" in said.message and sound.commit[:12] in said.message
    assert here.tree(REPO, "main", "space") == here.tree(REPO, sound.commit, "space")
    until(lambda: here.runtime(REPO).stage == "RUNNING", 60)
    host = here.space_host(REPO)
    assert host and told(host)["says"] == "sound"


@pytest.mark.fault("P1")
def test_a_first_deploy_that_fails_is_left_for_its_owner_to_see(here: Hub, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="RUNTIME_ERROR"):
        deploy(here, folder_of(tmp_path / "broken", "raise SystemError('no weights')"))
    assert "app.py" in here.tree(REPO, "main", "space")


def test_a_space_that_was_ended_is_started_again(here: Hub, tmp_path: Path) -> None:
    first = deploy(here, answering(tmp_path / "app", "one"))
    assert first.host
    psutil.Process(told(first.host)["pid"]).kill()
    until(lambda: here.runtime(REPO).stage == "RUNTIME_ERROR", 30)
    again = deploy(here, tmp_path / "app")
    assert not again.written and again.host and told(again.host)["says"] == "one"


def runtime_said(hub: Running, count: int, **said: Any) -> None:
    """Let the next ``count`` answers about the runtime say this instead of the truth."""
    body = json.dumps({"hardware": {}, **said})
    faults(hub, {"route": "GET /api/spaces/.*/runtime", "action": "status", "status": 200, "body": body, "nth": 2,
                 "count": count, "headers": {"content-type": "application/json"}})  # fmt: skip


@pytest.mark.parametrize("stage", ["RUNNING", "BUILD_ERROR"])
@pytest.mark.fault("P1")
def test_a_state_that_names_no_commit_is_not_taken_for_the_new_one(
    hub: Running, here: Hub, tmp_path: Path, stage: str
) -> None:
    deploy(here, answering(tmp_path / "app", "one"))
    runtime_said(hub, 2, stage=stage)
    second = deploy(here, answering(tmp_path / "app", "two"))
    assert here.runtime(REPO).stage == "RUNNING" and second.host and told(second.host)["says"] == "two"


@pytest.mark.parametrize(
    ("stage", "about", "fresh", "settled"),
    [
        ("RUNNING", "new", "well", "well"), ("RUNNING", "old", "coming", "other"), ("RUNNING", None, "coming", "well"),
        ("SLEEPING", "old", "coming", "other"), ("PAUSED", "old", "well", "well"), ("PAUSED", None, "well", "well"),
        ("BUILDING", "new", "coming", "coming"), ("RUNNING_BUILDING", "old", "coming", "coming"),
        ("BUILD_ERROR", "new", "failed", "failed"), ("BUILD_ERROR", "old", "coming", "failed"),
        ("RUNTIME_ERROR", None, "coming", "failed"),
    ],
)  # fmt: skip
def test_what_a_state_means(stage: str, about: str | None, fresh: str, settled: str) -> None:
    runtime = Runtime(stage, about)
    assert deployment.verdict(runtime, "new", settled=False) == fresh
    assert deployment.verdict(runtime, "new", settled=True) == settled


def test_a_paused_space_gets_its_files_and_is_not_waited_for(here: Hub, tmp_path: Path) -> None:
    deploy(here, answering(tmp_path / "app", "one"))
    here.api.pause_space(REPO)
    done = deploy(here, answering(tmp_path / "app", "two"))
    assert done.written and done.host is None and here.head(REPO, "main", "space") == done.commit


def test_what_somebody_else_put_there_meanwhile_is_not_taken_back(here: Hub, tmp_path: Path) -> None:
    deploy(here, answering(tmp_path / "sound", "sound"))

    def note(point: str, **facts: str) -> None:
        text = facts["commit"].encode()
        here.api.upload_file(path_or_fileobj=text, path_in_repo="notes.md", repo_id=REPO, repo_type="space")

    with pytest.raises(ConflictError, match="moved"):
        deploy(here, answering(tmp_path / "two", "two"), note=note)
    broken = folder_of(tmp_path / "broken", "raise SystemError('no weights')")
    with pytest.raises(RemoteError, match="failed: The branch 'main' of hubkit/shown moved"):
        deploy(here, broken, note=note)
    assert "notes.md" in here.tree(REPO, "main", "space")


def test_a_space_that_is_given_a_secret_is_still_taken_back(here: Hub, tmp_path: Path) -> None:
    secrets = {"HF_TOKEN": here.reading_token("space")}
    sound = deploy(here, answering(tmp_path / "sound", "sound"), secrets=secrets)
    assert sound.host and told(sound.host)["environment"]["HF_TOKEN"] == secrets["HF_TOKEN"]
    with pytest.raises(RemoteError, match="Rolled back to the previous version"):
        deploy(here, folder_of(tmp_path / "broken", "raise SystemError('no weights')"), secrets=secrets)
    assert here.tree(REPO, "main", "space") == here.tree(REPO, sound.commit, "space")


def test_reading_tokens_live_until_they_are_ended(hub: Running, here: Hub, tmp_path: Path) -> None:
    here.ensure_repo(REPO, "private")
    first = here.reading_token("a")
    earlier = here.tokens("a")
    second, other = here.reading_token("a"), here.reading_token("b")
    assert len(earlier) == 1 and len(here.tokens("a")) == 2
    reads = lambda token: connect(target_of(hub, tmp_path, token)).repo_exists(REPO)  # noqa: E731
    assert reads(first)
    here.revoke_tokens(earlier)
    assert reads(second) and reads(other)
    with pytest.raises(HubkitError):
        reads(first)


def with_space() -> Recipe:
    return RECIPE.model_copy(update={"space": Space(repo=REPO)})


def test_the_artifact_holds_while_the_space_shows_what_was_deployed(hub: Running, here: Hub, tmp_path: Path) -> None:
    release = Release.on(hub, tmp_path)
    release.recipe = with_space()
    done = deploy(here, answering(tmp_path / "app", "one"))
    files: dict[str, Any] = {f"app/{path.name}": path.read_bytes() for path in (tmp_path / "app").iterdir()}
    release.make("space", {"space.json": {"repo": REPO, "commit": done.commit}, **files})
    assert release.outdated("space") is None
    add = {"repo_id": REPO, "repo_type": "space"}
    here.api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.md", **add)
    assert release.outdated("space") is None, "files of other people do not change what was deployed"
    here.api.upload_file(path_or_fileobj=b"exit()", path_in_repo="app.py", **add)
    assert "was changed" in str(release.outdated("space"))


# --- as a user types it


def test_the_command_deploys_tells_and_shows_the_log(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", answering(tmp_path / "app", "typed")
    (folder / "README.md").write_text(CARD.replace("sdk: gradio", "sdk: gradio\nsdk_version: 3.50.2"))
    try:
        args = (str(folder), REPO, "--visibility", "public")
        said = hubkit_json("space", "deploy", *args, home=home)
        assert said["written"] and told(said["app"])["says"] == "typed"
        status = hubkit_json("space", "status", REPO, home=home)
        assert (status["stage"], status["commit"]) == ("RUNNING", said["commit"])
        assert hubkit("space", "logs", REPO, home=home).stdout.strip() == "listening"
        built = hubkit("space", "logs", REPO, "--build", "--follow", "--json", home=home).stdout.splitlines()
        assert json.loads(built[-1]) == {"line": "Built."}
        opened = hubkit_json("hub", "open", f"spaces/{REPO}", home=home, BROWSER="true", DISPLAY="")
        assert opened["url"] == said["page"]

        again = hubkit("space", "deploy", *args, home=home)
        assert said["app"] in again.stdout and "nothing was written" in again.stderr
        assert f"tried under Gradio {version('gradio')}" in again.stderr
        assert "not under the sdk_version 3.50.2 that the Hub installs" in again.stderr

        (folder / "app.py").write_text("raise SystemExit('no \\x1b[31mweights')")
        tried = hubkit("space", "deploy", *args, home=home)
        assert tried.returncode == 3 and "Fix the app" in tried.stderr and "\x1b" not in tried.stderr
        forced = hubkit("space", "deploy", *args, "--no-try", home=home)
        assert forced.returncode == 5 and "RUNTIME_ERROR" in forced.stderr and "weights" in forced.stderr
        assert "hubkit space logs" in forced.stderr
    finally:
        hubkit("hub", "stop", home=home)


@pytest.mark.parametrize("card", [None, "# No front matter\n", "---\nsdk: docker\n---\n", "---\n: [\n---\n"])
def test_what_is_no_gradio_space_is_refused_before_anything_starts(tmp_path: Path, card: str | None) -> None:
    folder = answering(tmp_path / "app", "x")
    (folder / "README.md").write_text(card) if card else (folder / "README.md").unlink()
    done = hubkit("space", "deploy", str(folder), REPO, "--visibility", "public", home=tmp_path / "home")
    assert done.returncode == 3 and "sdk: gradio" in done.stderr and "Warning" not in done.stderr
    assert not (tmp_path / "home" / "hub").exists(), "no Hub was started"


def test_metadata_that_the_hub_refuses_is_refused_before_the_trial(tmp_path: Path) -> None:
    folder = answering(tmp_path / "app", "x", **{"requirements.txt": "numpy\ngradio == = 4\n"})
    (folder / "README.md").write_text(CARD.replace("sdk: gradio", "sdk: gradio\ncolorFrom: orange\nsdk_version: 3.27"))
    done = hubkit("space", "deploy", str(folder), REPO, "--visibility", "public", home=tmp_path / "home")
    assert done.returncode == 3 and "3 problems" in done.stderr
    assert "colorFrom is 'orange'; it must be one of red, yellow, green" in done.stderr
    assert "3.27, a number in YAML" in done.stderr and "sdk_version: 3.27.0" in done.stderr
    assert "requirements.txt:2: pip refuses" in done.stderr
    assert not (tmp_path / "home" / "hub").exists(), "no Hub was started"


@pytest.mark.parametrize(
    ("front", "requirements", "says"),
    [
        ("python_version: 3.10", "", "python_version is 3.1, a number in YAML"),
        ("python_version: '3.10'\nsdk_version: 6.31.0", "gradio\n", None),
        (
            "sdk_version: 6.31.0",
            "torch==2.0 ; python_version < '3'\ngradio<5\n",
            "requirements.txt:2: it asks for gradio<5",
        ),
        ("pinned: perhaps", "# gradio<5\n-e .\nhttps://x/y.whl\n./z.whl\n", "neither true nor false"),
    ],
)
def test_what_may_go_wrong_on_the_hub_is_a_warning(
    tmp_path: Path, front: str, requirements: str, says: str | None
) -> None:
    folder = answering(tmp_path / "app", "x", **{"requirements.txt": requirements})
    (folder / "README.md").write_text(CARD.replace("sdk: gradio", f"sdk: gradio\n{front}"))
    warnings = readiness.require_ready(folder)
    assert [says in warning for warning in warnings if says] == ([True] if says else [])


def test_a_name_that_is_no_repo_is_said(tmp_path: Path) -> None:
    for args in (("status", "greeter"), ("run", "greeter"), ("logs", "spaces/me/greeter")):
        done = hubkit("space", *args, home=tmp_path / "home")
        assert done.returncode == 2 and "namespace/name" in done.stderr, args
    hubkit("hub", "stop", home=tmp_path / "home")


def test_a_release_does_not_take_the_space_of_another_model(hub: Running, here: Hub, tmp_path: Path) -> None:
    deploy(here, answering(tmp_path / "app", "one", **{"release.json": '{"repo": "hubkit/another"}'}))
    release = Release.on(hub, tmp_path)
    release.recipe = with_space()
    (found,) = stage.check(release.context("space"))
    assert found.level == "error" and "hubkit/another" in found.message


def test_a_strangers_space_does_not_run_without_trust(tmp_path: Path) -> None:
    done = hubkit("space", "run", "someone/theirs", home=tmp_path / "home")
    hubkit("hub", "stop", home=tmp_path / "home")
    assert done.returncode == 3 and "--trust" in done.stderr
