"""Deploying Spaces, and what is done when one does not come up. The real app is in e2e/."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import hubkit, until
from releases import RECIPE, Release, faults, target_of
from served_apps import DEAF, REPO, SERVER, answering, folder_of, told

from hubkit.core.errors import ConflictError, HubkitError, RefusedError, RemoteError
from hubkit.hub.client import Hub, Runtime, connect
from hubkit.publishing.spaces import building, deployment
from hubkit.publishing.spaces.deployed import compare_answers
from hubkit.recipe.models import Recipe, Space
from hubkit.server.process import Running
from hubkit_stages import space as stage


@pytest.fixture
def here(hub: Running, tmp_path: Path) -> Hub:
    return connect(target_of(hub, tmp_path))


def deploy(hub: Hub, folder: Path, **more: Any) -> deployment.Deployed:
    bundle = building.bundle_of(folder, folder.with_name(f"{folder.name}.json"))
    return deployment.deploy(hub, REPO, bundle, "public", timeout=60, **more)


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
def answers_like(says: str) -> Callable[[str], None]:
    """What a release does with a deployed app: compare its answer with ``says``, the one of the trial."""
    tried = building.Answer("Hi?", "main", says, "eos", 3, 0.1)

    def ask(host: str) -> None:
        compare_answers(tried, dataclasses.replace(tried, text=told(host)["says"]), REPO, same_machine=True)

    return ask


def test_a_deployed_app_that_gives_another_answer_is_taken_back(here: Hub, tmp_path: Path) -> None:
    first = answering(tmp_path / "first", "Hello you")
    with pytest.raises(RefusedError, match="no previous version, so it was paused") as caught:
        deploy(here, first, ask=answers_like("Hello there"))
    assert caught.value.exit_code == 3
    assert "'Hello you' (stopped) on the Hub, 'Hello there' (stopped) when it was tried here" in caught.value.message
    assert here.runtime(REPO).stage == "PAUSED"
    here.restart_space(REPO)
    sound = deploy(here, first, ask=answers_like("Hello you"))
    with pytest.raises(RefusedError, match="Rolled back to the previous version"):
        deploy(here, answering(tmp_path / "other", "Hello her"), ask=answers_like("Hello him"))
    assert here.tree(REPO, "main", "space") == here.tree(REPO, sound.commit, "space")


def test_a_release_compares_what_its_space_answers_with_the_trial(
    hub: Running, here: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = 'os.environ.get("SPACE_ID", "here")'
    monkeypatch.setattr(building, "copy_app", lambda into: folder_of(into, SERVER.replace("SAYS", says)))

    def ask(url: str, prompt: str, revision: str, limit: int | None = None, *, token: str | None = None) -> Any:
        return building.Answer(prompt, revision, str(told(url)["says"]), "eos", 3, 0.1)

    monkeypatch.setattr(building, "ask", ask)
    release = Release.on(hub, tmp_path).train().publish()
    release.promote()
    release.recipe = with_space()
    with pytest.raises(RefusedError, match=r"'hubkit/shown' .stopped. on the Hub, 'here' .stopped.") as caught:
        release.perform("space")
    assert "The model's branches stay released" in str(caught.value.hint) and here.runtime(REPO).stage == "PAUSED"


@pytest.mark.parametrize(
    ("text", "ended", "same_machine", "same"),
    [
        ("Rome it is.", "eos", True, True),
        ("Rome, it is.", "eos", True, False),
        ("Rome it was.", "eos", False, True),
        ("Rome it is.", "limit", False, False),
        ("Paris it is.", "eos", False, False),
    ],
)
def test_what_counts_as_the_same_answer(text: str, ended: str, same_machine: bool, same: bool) -> None:
    tried = building.Answer("Which?", "main", "Rome it is.", "eos", 5, 1.0)
    deployed = dataclasses.replace(tried, text=text, ended=ended, seconds=9.0)
    with contextlib.nullcontext() if same else pytest.raises(deployment.OtherAnswerError):
        compare_answers(tried, deployed, REPO, same_machine=same_machine)


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


def test_a_release_does_not_take_the_space_of_another_model(hub: Running, here: Hub, tmp_path: Path) -> None:
    deploy(here, answering(tmp_path / "app", "one", **{"release.json": '{"repo": "hubkit/another"}'}))
    release = Release.on(hub, tmp_path)
    release.recipe = with_space()
    (found,) = stage.check(release.context("space"))
    assert found.level == "error" and "hubkit/another" in found.message


def test_a_strangers_space_does_not_run_without_trust(here: Hub, tmp_path: Path) -> None:
    here.ensure_repo(REPO, "public", "space")
    done = hubkit("space", "run", REPO, "--hub", here.endpoint, home=tmp_path / "home")
    assert done.returncode == 3 and "--trust" in done.stderr
