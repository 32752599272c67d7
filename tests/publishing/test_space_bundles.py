"""Building Spaces: what is in the folder that is published, and what would go wrong with it on the Hub."""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from quality import measured
from served_apps import CARD, answering

from hubkit.cards.space_and_dataset_cards import space_card
from hubkit.core.errors import RefusedError
from hubkit.models.chat.stop_rates import Answer, MeasuredRate
from hubkit.publishing.manifest import MANIFEST_PATH
from hubkit.publishing.spaces import building, readiness
from hubkit.publishing.spaces.measurements import benchmark_table, measured_answers

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


def test_a_built_space_holds_the_app_and_what_it_needs(tmp_path: Path) -> None:
    bundle = building.build(FACTS, space_card(FACTS), tmp_path / "one")
    assert {"app.py", "README.md", "requirements.txt", "release.json", MANIFEST_PATH} <= bundle.files.keys()
    assert not [path for path in bundle.files if "__pycache__" in path]
    front = yaml.safe_load(bundle.files["README.md"].read_text().split("---\n")[1])
    assert (
        front["sdk"] == "gradio" and front["models"] == ["hubkit/tiny", FACTS.base[0]] and front["title"] == FACTS.title
    )
    assert len(front["short_description"]) <= 60, "the Hub takes no more"
    needed = bundle.files["requirements.txt"].read_text().splitlines()
    assert all("==" in line and "+" not in line for line in needed) and any(
        line.startswith("torch==") for line in needed
    )
    assert readiness.require_ready(tmp_path / "one") == [], "its requirements and metadata agree with sdk_version"
    release = json.loads(bundle.files["release.json"].read_text())
    assert [item["commit"] for item in release["revisions"]] == ["b" * 40, "c" * 40]
    assert building.build(FACTS, space_card(FACTS), tmp_path / "two").manifest.digest == bundle.manifest.digest


def test_a_built_space_holds_what_was_measured(tmp_path: Path) -> None:
    def rate(answer: str, ended: Any, **more: Any) -> MeasuredRate:
        return MeasuredRate(1, 2, 0.5, 0.0, 1.0, 3.0, "float32", answers=(Answer("Hi?", answer, ended, 3),), **more)

    assert (plain := FACTS.to_json())["answers"] == [] and plain["base_stop_rate"] is plain["benchmarks"] is None
    answers = measured_answers({"base": rate("Hi! Hi! Hi!", "limit"), "main": rate("Hi!", "eos"), "v0": None})
    tasks = measured(arc_easy=[1, 0, 1, 0, 1], piqa=[1, 1, 1, 1, 0])
    table = benchmark_table({"base": None, "main": tasks.results})
    facts = dataclasses.replace(FACTS, base_stop_rate=(3, 128), answers=answers, benchmarks=table)
    bundle = building.build(facts, space_card(facts), tmp_path / "one")
    release = json.loads(bundle.files["release.json"].read_text())
    assert release["base_stop_rate"] == {"stopped": 3, "prompts": 128}
    assert release["answers"] == [
        {"prompt": "Hi?", "revision": "base", "answer": "Hi! Hi! Hi!", "ended": "limit", "tokens": 3},
        {"prompt": "Hi?", "revision": "main", "answer": "Hi!", "ended": "eos", "tokens": 3},
    ]
    rows = [
        ["arc_easy", None, "0.6000 ± 0.2449"],
        ["piqa", None, "0.8000 ± 0.2000"],
        ["All (average)", None, "0.7000 ± 0.1581"],
    ]
    assert release["benchmarks"] == {"columns": ["base", "main"], "rows": rows}


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
        (
            f"sdk_version: {version('gradio')}",
            "torch==2.0\nHuggingface_Hub==0.20.0\n",
            "requirements.txt:2: it pins Huggingface_Hub==0.20.0, but Gradio",
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
