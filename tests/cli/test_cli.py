"""The command line: which Hub is meant, whose token goes there, what a person without arguments sees."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import hubkit, hubkit_json
from huggingface_hub import constants
from samples import RECIPE_TEXT

from hubkit.cli.recipes import find_recipe
from hubkit.cli.targets import find_target
from hubkit.core.errors import UsageError

TOKEN = "hf_" + "x" * 34


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No Hub named, no token given, nothing saved."""
    monkeypatch.setenv("HUBKIT_HOME", str(tmp_path / "home"))
    for name in ("HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "saved"))
    return tmp_path


@pytest.mark.parametrize(
    ("endpoint", "hub", "goes"),
    [
        (None, "huggingface", True),
        ("https://huggingface.co", "huggingface", True),
        ("https://hub.corp.example", "huggingface", False),
        ("https://hub.corp.example", "https://hub.corp.example", True),
        ("https://hub.corp.example/", None, True),
        ("https://hub.corp.example", "https://other.example", False),
        (None, "https://other.example", False),
    ],
)
def test_the_environments_token_goes_to_its_own_hub_only(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str | None, hub: str | None, goes: bool
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    if endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert find_target(hub).token == (TOKEN if goes else None)


def test_the_saved_token_still_goes_to_the_default_hub(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "saved").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.corp.example")
    monkeypatch.setenv("HF_TOKEN", "corp-token")
    assert find_target("huggingface").token == TOKEN


def test_every_other_hub_has_a_cache_of_its_own(nowhere: Path) -> None:
    homes = {find_target(hub).home for hub in ("https://a.example", "https://b.example", "http://127.0.0.1:1")}
    assert len(homes) == 3 and all(home.is_relative_to(nowhere / "home") for home in homes)


@pytest.mark.parametrize("hub", ["ftp://x", "me/model", "https://user:word@x.example", "nonsense"])
def test_what_is_no_hub_is_refused(nowhere: Path, hub: str) -> None:
    with pytest.raises(UsageError, match="is not a Hub"):
        find_target(hub)


def test_the_embedded_hub_is_not_started_for_a_look(nowhere: Path) -> None:
    with pytest.raises(UsageError, match="hubkit hub start"):
        find_target("embedded", start=False)


def test_an_unknown_recipe_names_the_built_in_ones(nowhere: Path) -> None:
    with pytest.raises(UsageError, match="dpopenhermes-7b, tiny"):
        find_recipe("tyni")


@pytest.mark.parametrize("args", [[], ["hub"], ["revisions"]])
def test_without_arguments_a_person_sees_the_commands(args: list[str], tmp_path: Path) -> None:
    done = hubkit(*args, home=tmp_path / "home")
    assert done.returncode == 2
    assert "commands:" in (done.stdout + done.stderr).lower() and "Error" not in done.stderr


def test_init_writes_a_recipe_that_plans(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert hubkit("init", "me/my-model", home=home, cwd=tmp_path).returncode == 0
    done = hubkit("plan", home=home, cwd=tmp_path)
    assert done.returncode == 0 and "me/my-model (public, apache-2.0) on embedded" in done.stdout
    assert "me/my-model-space" in done.stdout, "the Space is his own, too"
    again = hubkit("init", "me/other", home=home, cwd=tmp_path)
    assert again.returncode == 2 and "exists already; nothing was written" in again.stderr


def test_plan_of_the_large_recipe_needs_no_network(tmp_path: Path) -> None:
    done = hubkit("plan", "dpopenhermes-7b", home=tmp_path / "home")
    assert done.returncode == 0
    for word in ("teknium/OpenHermes-2.5-Mistral-7B", "7,000 rows", "agieval, bigbench, gpt4all, truthfulqa", "dpo-v0"):
        assert word in done.stdout
    plan = hubkit_json("plan", "dpopenhermes-7b", home=tmp_path / "home")
    devices = [device["short"] for device in plan["costs"]["devices"]]
    assert devices[-4:] == ["4090", "A100", "H100", "H200"] and plan["costs"]["complete"]
    for device in devices:
        seconds = [step["cost"][device]["seconds"] for step in plan["steps"]]
        assert sum(seconds) == pytest.approx(plan["costs"]["seconds"][device], rel=0.01)
    trained = next(step for step in plan["steps"] if step["step"] == "train[dpo]")["cost"]["H100"]
    assert trained["memory"]["total"] > trained["memory"]["weights"] > 3e9 and trained["disk"] > 1e8
    assert plan["costs"]["disk"]["most"] > plan["costs"]["disk"]["left"] > 3 * 14e9
    assert "Not checked:\n - what only the Hub knows" in done.stdout and "466 tokens a sequence" in done.stdout
    assert any("rows" in item for item in plan["unchecked"])


@pytest.mark.parametrize("option", [(), ("--adapter",), ("--dataset",)])
def test_card_render_without_a_run_prints_a_draft(tmp_path: Path, option: tuple[str, ...]) -> None:
    done = hubkit("card", "render", "tiny", *option, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("---\n") and "> **Draft.**" in done.stdout
    assert "Some measurements are missing" in done.stderr


def test_card_render_prints_the_card_of_the_gguf_files(tmp_path: Path) -> None:
    done = hubkit("card", "render", "tiny", "--gguf", home=tmp_path)
    assert done.returncode == 2 and "The variant 'main' has no card of GGUF files." in done.stderr
    (tmp_path / "hubkit.yaml").write_text(f"{RECIPE_TEXT}gguf: {{place: repo}}\n")
    done = hubkit("card", "render", str(tmp_path / "hubkit.yaml"), "--gguf", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "base_model_relation: quantized" in done.stdout and "llama-cli -hf me/my-model-GGUF:Q8_0" in done.stdout
