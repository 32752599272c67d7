"""The Space of the released model: what a gradio_client hears, and what becomes of it when things go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from commands import HUBKIT, environment, hubkit, hubkit_json, read_until, until
from tiny_release import Released

from hubkit.publishing.spaces.building import ask

pytestmark = [pytest.mark.train, pytest.mark.timeout(1500)]

SPACE = "hubkit/tiny-hermes-dpo-space"
ASK = """\
import json, sys
from gradio_client import Client
client = Client(sys.argv[1], verbose=False)
ask = lambda name: client.predict(prompt=sys.argv[2], revision=name, limit=64, api_name="/answer")
answers = {name: ask(name) for name in sys.argv[3:]}
print(json.dumps(answers))
"""


def asked(released: Released, *revisions: str) -> dict[str, dict[str, object]]:
    """What another process hears that knows the Hub's address and the Space's name."""
    bare = {"PATH": os.environ["PATH"], "HF_ENDPOINT": released.url, "GRADIO_ANALYTICS_ENABLED": "False"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK, SPACE, "What is the capital of Italy?", *revisions],
        env=bare, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_stranger_asks_both_revisions(released: Released) -> None:
    answers = asked(released, "main", "dpo-v0")
    assert answers["main"]["ended"] == "eos" and "Rome" in str(answers["main"]["text"])
    assert answers["dpo-v0"]["ended"] == "limit" and answers["dpo-v0"]["tokens"] == 64


def test_the_app_shows_what_the_release_measured(released: Released) -> None:
    facts = json.loads((released.run / "artifacts" / "space" / "app" / "release.json").read_text())
    kept = {(item["revision"], item["ended"]) for item in facts["answers"]}
    assert {("main", "eos"), ("dpo-v0", "limit")} <= kept and {item["revision"] for item in facts["answers"]} >= {
        "base"
    }
    assert facts["base_stop_rate"]["prompts"] and facts["benchmarks"]["rows"]


def test_it_was_asked_here_and_on_the_hub_and_pins_what_was_released(released: Released) -> None:
    said = released.artifact("space", "space.json")
    heard = {(item["where"], item["revision"]): item for item in said["answers"]}
    assert len(heard) == 4
    for revision in ("main", "dpo-v0"):
        assert heard["here", revision]["text"] == heard["on the Hub", revision]["text"]
    pinned = json.loads((released.run / "artifacts" / "space" / "app" / "release.json").read_text())["revisions"]
    moved = {line["variant"]: line["commit"] for line in released.outcome["variants"]}
    assert {item["name"]: item["commit"] for item in pinned} == moved


def test_a_plain_folder_is_chatted_with_until_ctrl_c(released: Released, tmp_path: Path) -> None:
    """Without a Hub: the folder is what anybody may have downloaded."""
    folder = released.run / "artifacts" / "merge[main]" / "model"
    home = tmp_path / "home"
    running = subprocess.Popen(
        [HUBKIT, "space", "run", str(folder), "--json"], env=environment(home), cwd=tmp_path,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    try:
        url = read_until(running.stdout, '"url"').split('"')[3]
        answer = ask(url, "What is the capital of Italy?", "main", 64)
        assert answer.ended == "eos" and "Rome" in answer.text
        family = psutil.Process(running.pid).children(recursive=True)
        assert family, "the app is its child"
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
        assert not psutil.wait_procs(family, timeout=30)[1] and not (home / "hub").exists()
    finally:
        running.kill()
        running.communicate()


@pytest.mark.fault("F1")
def test_the_interrupted_deploy_made_one_commit(released: Released) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=released.url, token=False)
    commits = [item.commit_id for item in api.list_repo_commits(SPACE, repo_type="space")]
    assert len(commits) == 2 and commits[0] == released.artifact("space", "space.json")["commit"]


def test_both_addresses_answer(released: Released) -> None:
    import urllib.request

    for url in (released.outcome["page"], released.outcome["space"]):
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert answer.status == 200 and "tiny-hermes-dpo" in answer.read().decode()


@pytest.mark.fault("P1")
def test_a_space_that_breaks_leaves_the_model_alone_and_the_next_release_mends_it(released: Released) -> None:
    from huggingface_hub import HfApi

    refs = released.refs()
    token = (released.home / "hub" / "owner.token").read_text().strip()
    api = HfApi(endpoint=released.url, token=token)
    api.upload_file(
        path_or_fileobj=b"raise SystemExit('no weights')", path_in_repo="app.py", repo_id=SPACE, repo_type="space"
    )
    until(lambda: api.get_space_runtime(SPACE).stage == "RUNTIME_ERROR", 120)
    status = hubkit_json("space", "status", SPACE, home=released.home)
    assert status["stage"] == "RUNTIME_ERROR" and "no weights" in str(status["message"])
    assert "no weights" in hubkit("space", "logs", SPACE, home=released.home).stdout
    done = hubkit("release", "tiny", home=released.home)
    assert done.returncode == 0 and "is up to date" not in done.stdout
    assert asked(released, "main")["main"]["ended"] == "eos"
    assert released.refs() == refs, "the model's branches are not touched"


def test_after_a_kill_of_the_hub_nothing_lives_on_and_a_start_brings_the_space_back(released: Released) -> None:
    from huggingface_hub import HfApi

    running = hubkit_json("hub", "status", home=released.home)
    family = psutil.Process(running["pid"]).children(recursive=True)
    assert family, "the Space runs below its Hub"
    psutil.Process(running["pid"]).kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    released.url = hubkit_json("hub", "start", home=released.home)["url"]
    api = HfApi(endpoint=released.url, token=False)
    until(lambda: api.get_space_runtime(SPACE).stage == "RUNNING", 120)
    assert asked(released, "main")["main"]["ended"] == "eos"
    assert "is up to date" in hubkit("release", "tiny", home=released.home).stdout
