"""Releases whose published form is full weights alone, and releases that leave out what others measure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from architecture_release import ArchitectureRelease
from commands import hubkit, hubkit_json

from hubkit.core.target import Target
from hubkit.hub.client import Hub, connect

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]

ARGS = "args: {max_steps: 1, per_device_train_batch_size: 4, max_length: 256, learning_rate: 1e-3}"
LORA = "quantization: none, lora: {r: 2, target_modules: all-linear}"
HEAD = """
visibility: public
license: apache-2.0
base: {repo: hubkit/qwen2}
data: {pairs: [{repo: hubkit/pairs}], chats: [{repo: hubkit/chats}]}
"""
ALONE = f"""
repo: hubkit/alone
{HEAD}
stages: {{sft: {{data: chats, lora: none, {ARGS}}}}}
variants: {{main: {{stage: sft, gate: report}}}}
card: {{title: SFT alone}}
gates: {{stop_rate: {{prompts_from: chats, prompts: 4, max_new_tokens: 8, batch_size: 4}}}}
"""
FIVE = f"""
repo: hubkit/five
{HEAD}
stages:
  full: {{uses: dpo, data: pairs, lora: none, {ARGS}}}
  sft: {{data: chats, lora: none, continues: full, {ARGS}}}
  adapted: {{uses: sft, data: chats, continues: full, {LORA}, {ARGS}}}
  dpo: {{data: pairs, {LORA}, {ARGS}}}
  rest: {{uses: sft, data: chats, continues: dpo, lora: none, {ARGS}}}
variants: {{main: {{stage: sft}}, full: {{stage: full}}, adapted: {{stage: adapted}}, dpo: {{stage: dpo}},
  rest: {{stage: rest}}}}
card: {{title: Five}}
space: {{repo: hubkit/five-chat}}
"""
COMPLETION = f"""
repo: hubkit/completion
{HEAD}
chat: {{template: completion}}
stages: {{sft: {{data: chats, lora: none, {ARGS}}}}}
variants: {{main: {{stage: sft}}}}
card: {{title: Completion}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArchitectureRelease]:
    made = ArchitectureRelease(tmp_path_factory.mktemp("weights") / "home").start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def base(place: ArchitectureRelease) -> Path:
    return place.publish("qwen2", "bfloat16")


@pytest.fixture(scope="module")
def run(place: ArchitectureRelease, base: Path) -> Path:
    return place.release_recipe(base, ALONE)


def hub(place: ArchitectureRelease) -> Hub:
    return connect(Target(place.url, place.home / "hf", place.token, embedded=True))


def artifact(run: Path, step: str, name: str) -> Any:
    return json.loads((run / "artifacts" / step / name).read_text(encoding="utf-8"))


def card(place: ArchitectureRelease, repo: str, revision: str = "main") -> str:
    return (hub(place).read_file(repo, "README.md", revision) or b"").decode()


def test_weights_are_published_without_an_adapter(place: ArchitectureRelease, run: Path) -> None:
    tree = set(hub(place).tree("hubkit/alone", "main"))
    assert {"model.safetensors", "config.json"} <= tree and not [path for path in tree if "adapter" in path]
    assert set(artifact(run, "stopping[main]", "stopping.json")["forms"]) == {"merged"}
    merge = artifact(run, "merge[main]", "merge.json")
    assert (merge["way"], merge["dtype"], merge["fits"]) == ("cast", "bfloat16", True)
    assert 0 < merge["changed"] <= merge["tensors"] and merge["compared_texts"] > 10
    loaded = artifact(run, "loadback[main]", "loadback.json")
    assert loaded["proof"] is None and loaded["reproduced"]["merged"]["same_next_token"] == 1.0
    assert not list(run.glob("artifacts/evaluate*")) and not list(run.glob("artifacts/space*"))
    text = card(place, "hubkit/alone")
    assert "adapter" not in text and "peft" not in text.partition("<summary>Provenance")[0]
    assert "## Benchmarks" not in text and "This variant was not benchmarked." in text


def test_commands_take_a_release_of_weights(place: ArchitectureRelease, base: Path, run: Path) -> None:
    repo = "hubkit/alone"
    proof = hubkit("verify", repo, "--proof", home=place.home)
    assert proof.returncode == 3 and "there is no merge to prove" in proof.stderr
    assert hubkit_json("verify", repo, home=place.home)["differences"] == []
    assert not [item for item in hubkit_json("check", repo, home=place.home)["findings"] if item["level"] == "error"]
    again = hubkit("release", home=place.home, cwd=base)
    assert again.returncode == 0 and "is up to date" in again.stdout and "no adapter" in again.stdout


@pytest.mark.soak
def test_five_variants_without_a_gate_and_a_space_that_loads_them(place: ArchitectureRelease, base: Path) -> None:
    made = place.release_recipe(base, FIVE)
    forms = {name: artifact(made, f"merge[{name}]", "merge.json")["way"] for name in ("main", "adapted", "dpo", "rest")}
    assert forms == {"main": "cast", "adapted": "cast", "dpo": "streamed", "rest": "cast"}
    answers = artifact(made, "space", "space.json")["answers"]
    assert {item["revision"] for item in answers} == {"main", "full", "adapted", "dpo", "rest"}
    release = json.loads((made / "artifacts" / "space" / "app" / "release.json").read_text())
    assert {item["name"]: item.get("form", "adapter") for item in release["revisions"]}["main"] == "weights"
    assert not any("stop_rate" in item for item in release["revisions"])
    assert not list(made.glob("artifacts/*stopping*")) and not (made / "artifacts" / "gate").exists()
    assert "The stop rate was not measured" in card(place, "hubkit/five", "rest")
    (adapter_card,) = [hub(place).read_file("hubkit/five", "adapter/README.md", "dpo")]
    assert b"Its stop rate was not measured." in (adapter_card or b"")
    loaded = {name: artifact(made, f"loadback[{name}]", "loadback.json")["proof"] for name in ("main", "dpo")}
    assert loaded["main"] is None and loaded["dpo"]["numbers"] > 0
    _changes_hands(place, "hubkit/five")


def _changes_hands(place: ArchitectureRelease, repo: str) -> None:
    """A variant with an adapter takes the branch of one without, and gives it back."""
    diff = hubkit_json("revisions", "diff", repo, "main", "dpo", home=place.home)
    assert diff["files"] and diff["weights"]["changes"]
    before = hub(place).head(repo, "main")
    assert hubkit("revisions", "promote", repo, "dpo", "main", "-y", home=place.home).returncode == 0
    assert "adapter/adapter_config.json" in hub(place).tree(repo, "main")
    assert hubkit("revisions", "rollback", repo, "main", "-y", home=place.home).returncode == 0
    tree = hub(place).tree(repo, "main")
    assert tree == hub(place).tree(repo, before or "") and not [path for path in tree if "adapter" in path]


@pytest.mark.soak
def test_a_base_without_a_chat_template_becomes_a_completion_model(place: ArchitectureRelease, base: Path) -> None:
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        path = base / "base" / name
        if name.endswith(".jinja"):
            path.unlink(missing_ok=True)
        else:
            settings = json.loads(path.read_text())
            settings.pop("chat_template", None)
            path.write_text(json.dumps(settings))
    connected = hub(place)
    connected.upload_folder("hubkit/qwen2", base / "base", repo_type="model", title="Remove the template")
    made = place.release_recipe(base, COMPLETION)
    assert (
        artifact(made, "base", "base.json")["end_of_turn"]["token"] == artifact(made, "base", "base.json")["eos_token"]
    )
    text = card(place, "hubkit/completion")
    assert "conversational" not in text and "The stop rate was not measured" in text
    assert "## Which branch to use" not in text and "## Benchmarks" not in text
