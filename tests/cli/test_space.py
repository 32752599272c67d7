"""`hubkit space` as a user types it."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
from commands import hubkit, hubkit_json
from served_apps import CARD, REPO, SERVER, answering, told


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

        (folder / "app.py").write_text(SERVER.replace("SAYS", "'second'"))
        second = hubkit_json("space", "deploy", *args, "--no-try", home=home)
        assert hubkit_json("space", "rollback", REPO, "--dry-run", home=home)["commit"] is None
        assert hubkit("space", "rollback", REPO, home=home).returncode == 2, "it asks, and there is no terminal"
        back = hubkit_json("space", "rollback", REPO, "-y", home=home)
        assert told(back["app"])["says"] == "typed" and back["commit"] not in {said["commit"], second["commit"]}
        assert "already a rollback" in hubkit("space", "rollback", REPO, "-y", home=home).stdout
        assert hubkit("space", "rollback", REPO, "--to", "main", "--steps", "1", home=home).returncode == 2
        assert hubkit_json("space", "pause", REPO, "-y", home=home)["stage"] == "PAUSED"
        assert hubkit_json("space", "pause", REPO, home=home)["already"], "nothing is asked"
        restarted = hubkit_json("space", "restart", REPO, home=home)
        assert restarted["stage"] == "RUNNING" and told(restarted["app"])["says"] == "typed"

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


def test_a_name_that_is_no_repo_is_said(tmp_path: Path) -> None:
    for args in (("status", "greeter"), ("run", "greeter"), ("logs", "spaces/me/greeter")):
        done = hubkit("space", *args, home=tmp_path / "home")
        assert done.returncode == 2 and "namespace/name" in done.stderr, args
    hubkit("hub", "stop", home=tmp_path / "home")
