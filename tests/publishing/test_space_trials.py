"""Spaces are tried here before they are published."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from served_apps import DEAF, answering, folder_of, told
from spies import report, spy

from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.processes.confinement import Reach, best_way
from hubkit.publishing.spaces import building


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
