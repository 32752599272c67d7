"""What was trained elsewhere goes the whole way, by the real command: nothing is trained, all is measured.

The folder of plain TRL is released in `make test`; those that are shaped as Unsloth's and axolotl's, and an SFT that
goes on from an adopted adapter, in `pytest -m soak tests/e2e/test_adopting.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapters import merged_by_peft
from adopting import BASE, UNSLOTH, Adopting, named
from commands import hubkit, hubkit_json

from hubkit.cli.adopting import Adopted, write_adopted_recipe
from hubkit.core.errors import HubkitError
from hubkit.core.target import Target
from hubkit.hub.client import Hub, connect

pytestmark = pytest.mark.timeout(900)
PLAIN_TRL = Path(__file__).parents[1] / "support" / "plain_trl.py"


@pytest.fixture(scope="module")
def adopting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adopting]:
    """A home with its embedded Hub and the base, and a file of questions: the stop rate asks few of them."""
    folder = tmp_path_factory.mktemp("adopting")
    home = folder / "home"
    url = hubkit_json("hub", "start", home=home)["url"]
    token = (home / "hub" / "owner.token").read_text(encoding="utf-8").strip()
    made = Adopting(folder, Target(url, folder / "hf", token, embedded=True)).start()
    rows = [
        {"messages": [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": "A number."}]}
        for number in range(20)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        yield made
    finally:
        hubkit("hub", "stop", home=home)


def release(adopting: Adopting, name: str, *options: str) -> tuple[dict[str, Any], Path]:
    """What `hubkit release` printed for the folder of ``name``, and its run."""
    folder = adopting.folder / f"release-{name}"
    folder.mkdir(exist_ok=True)
    home = adopting.folder / "home"
    arguments = ("--base", BASE, "--to", f"hubkit/{name}", "--data", str(adopting.folder / "questions.jsonl"))
    outcome = hubkit_json("release", *options, *arguments, home=home, cwd=folder)
    return outcome, home / "runs" / f"{name}-1"


def read(run: Path, step: str, file: str) -> Any:
    return json.loads((run / "artifacts" / step / file).read_text(encoding="utf-8"))


def card(hub: Hub, repo: str, path: str = "README.md") -> str:
    return (hub.read_file(repo, path, "main") or b"").decode()


def check_release(adopting: Adopting, name: str, outcome: dict[str, Any], run: Path) -> None:
    """What holds for each: both forms measured and published, a card that says what it is, a Space; nothing trained."""
    hub, repo = connect(adopting.target), f"hubkit/{name}"
    (line,) = outcome["variants"]
    assert set(line["stop_rates"]) >= {"merged", "adapter"}, line
    assert read(run, "stopping[main]", "stopping.json")["forms"]["adapter"]["prompts"] == 16
    tree = hub.tree(repo, "main")
    assert {"model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"} <= tree.keys()
    config = json.loads(hub.read_file(repo, "adapter/adapter_config.json", "main") or b"")
    commit = hub.resolve(BASE, "main")
    assert (config["base_model_name_or_path"], config["revision"]) == (BASE, commit)
    assert outcome["space"] and hub.repo_exists(f"{repo}-space", "space")
    made = read(run, "train[adopted]", "training.json")
    assert (made["steps"], made["seconds"], made["uses"], made["method"]) == (None, None, "adopt", "adopt")
    assert not (run / "artifacts" / "train[adopted]" / "seen").exists()
    text = card(hub, repo)
    assert "not trained by this release" in text and "| Stage | Dataset |" not in text
    for path in ("README.md", "adapter/README.md", ".hubkit/manifest.json"):
        assert str(adopting.folder) not in card(hub, repo, path)


@pytest.mark.train
def test_a_folder_of_plain_trl(adopting: Adopting) -> None:
    """Its adapter names the folder of the base, which the digests prove to be the repo."""
    out = adopting.folder / "release-trl" / "out"
    out.parent.mkdir()
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    subprocess.run(
        [sys.executable, PLAIN_TRL, adopting.base, out], env=bare, cwd=out.parent, check=True, capture_output=True
    )
    outcome, run = release(adopting, "trl", "--adapter", "./out", "--trained-with", "plain TRL")
    check_release(adopting, "trl", outcome, run)
    made = read(run, "train[adopted]", "training.json")
    assert (made["origin"]["base_name"], made["origin"]["base_by"]) == ("base", "digests")
    (report,) = made["reported"]["files"]
    assert report["file"] == "trainer_state.json" and report["values"]["steps"] == 4
    text = card(connect(adopting.target), "hubkit/trl")
    assert "Trained with plain TRL, as reported by the authors." in text
    assert "As reported by `trainer_state.json`, and not measured by this release: steps 4," in text
    numbers = read(run, "card[main]", "numbers.json")["README.md"]
    reported = [item for item in numbers if item["pointer"].startswith("/reported/files/0/values/")]
    assert {item["step"] for item in reported} == {"train[adopted]"} and len(reported) >= 4
    again, _ = release(adopting, "trl", "--adapter", "./out", "--trained-with", "plain TRL")
    assert again["already"]


def test_nothing_is_uploaded_of_one_that_does_not_fit(adopting: Adopting) -> None:
    folder = adopting.folder / "release-wrong"
    folder.mkdir()
    named(adopting.copy("release-wrong/out"), "them/other")
    arguments = ("--adapter", "./out", "--base", BASE, "--to", "hubkit/wrong")
    done = hubkit("release", *arguments, home=adopting.folder / "home", cwd=folder)
    assert done.returncode == 3, done.stderr
    said = " ".join(done.stderr.split())
    assert "The adapter was trained on them/other, and the base of the recipe is hubkit/base." in said
    assert "hubkit.yaml:" in said and not connect(adopting.target).repo_exists("hubkit/wrong")


@pytest.mark.parametrize(
    ("options", "recipe", "sentence"),
    [
        ({"adapter": "./out"}, None, "The repo to publish to is not known."),
        ({"base": BASE}, None, "--base, --to, --data, --trained-with and --training need --adapter or --weights."),
        ({"adapter": "./out", "weights": "./out", "to": "me/x"}, None, "Pass either --adapter or --weights."),
        ({"adapter": "./out", "to": "me/x"}, "tiny", "--adapter and --weights write a recipe"),
        ({"adapter": "./nothing", "to": "me/x"}, None, "nothing does not exist."),
        ({"adapter": "./pickled", "to": "me/x"}, None, "adapter_model.bin, a pickle"),
        ({"adapter": "./mirror", "to": "me/x"}, None, f"The adapter calls its base {UNSLOTH}"),
    ],
)
def test_options_that_do_not_go_together(
    options: dict[str, str],
    recipe: str | None,
    sentence: str,
    adopting: Adopting,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUBKIT_HOME", str(adopting.folder / "home"))
    named(adopting.copy(str(tmp_path / "mirror")), UNSLOTH)
    pickled = adopting.copy(str(tmp_path / "pickled"))
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    nothing = dict.fromkeys(("adapter", "weights", "base", "to", "data", "trained_with"))
    given = Adopted(**{**nothing, "training": (), **options})  # type: ignore[arg-type]
    with pytest.raises(HubkitError) as error:
        write_adopted_recipe(given, "embedded", recipe)
    assert sentence in error.value.message and not (tmp_path / "hubkit.yaml").exists()


@pytest.mark.soak
def test_a_folder_of_unsloth_and_a_rollback(adopting: Adopting) -> None:
    """Released twice into one repo: the second one is rolled back."""
    adopting.unsloth("release-unsloth/out")
    outcome, run = release(adopting, "unsloth", "--adapter", "./out")
    check_release(adopting, "unsloth", outcome, run)
    made = read(run, "train[adopted]", "training.json")
    assert (made["origin"]["base_name"], made["origin"]["base_by"]) == (UNSLOTH, "stated")
    assert "the authors state that it is" in card(connect(adopting.target), "hubkit/unsloth")
    first = connect(adopting.target).tree("hubkit/unsloth", "main")
    config = adopting.folder / "release-unsloth" / "out" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 12}))
    release(adopting, "unsloth", "--adapter", "./out")
    assert connect(adopting.target).tree("hubkit/unsloth", "main") != first
    done = hubkit("revisions", "rollback", "hubkit/unsloth", "main", "-y", home=adopting.folder / "home")
    assert done.returncode == 0, done.stderr
    assert connect(adopting.target).tree("hubkit/unsloth", "main") == first


@pytest.mark.soak
def test_a_folder_of_axolotl(adopting: Adopting) -> None:
    adopting.axolotl("release-axolotl/out")
    options = ("--trained-with", "axolotl 0.9", "--training", "out.yaml")
    outcome, run = release(adopting, "axolotl", "--adapter", "./out", *options)
    check_release(adopting, "axolotl", outcome, run)
    text = card(connect(adopting.target), "hubkit/axolotl")
    assert "| `learning_rate`, as reported by `out.yaml` | 0.0002 |" in text
    assert "Trained with axolotl 0.9, as reported by the authors." in text and "/home/someone" not in text


@pytest.mark.soak
def test_an_sft_goes_on_from_an_adopted_adapter(adopting: Adopting) -> None:
    folder = adopting.folder / "release-repair"
    adopting.axolotl("release-repair/out")
    (folder / "hubkit.yaml").write_text(f"""
repo: hubkit/repair
visibility: public
license: apache-2.0
base: {{repo: {BASE}, dtype: float32}}
data: {{chats: [{{file: {adopting.folder / "questions.jsonl"}}}]}}
stages:
  theirs: {{uses: adopt, adapter: ./out, trained_with: axolotl 0.9}}
  repair:
    {{uses: sft, data: chats, continues: theirs, quantization: none, args: {{max_steps: 2, max_length: 128}}}}
variants:
  as-it-was: {{stage: theirs, gate: report}}
  main: {{stage: repair, gate: report}}
evaluate: {{suites: []}}
gates: {{stop_rate: {{prompts: 8, max_new_tokens: 8}}}}
card: {{title: Repaired}}
""")
    outcome = hubkit_json("release", home=adopting.folder / "home", cwd=folder)
    run = adopting.folder / "home" / "runs" / "repair-1"
    assert {line["variant"] for line in outcome["variants"]} == {"as-it-was", "main"}
    made = read(run, "train[repair]", "training.json")
    assert (made["continues"], made["steps"], made["origin"]) == ("theirs", 2, {})
    text = card(connect(adopting.target), "hubkit/repair")
    assert (
        "hubkit's own prompts" in text and "**SFT** (stage `repair`)" in text and "**Adopted** (stage `theirs`)" in text
    )


@pytest.mark.soak
def test_the_weights_of_a_whole_model(adopting: Adopting) -> None:
    folder = adopting.folder / "release-merged"
    merged = merged_by_peft(adopting.base, adopting.folder / "plain", folder / "merged")
    for path in [*adopting.base.glob("tokenizer*"), adopting.base / "chat_template.jinja"]:
        shutil.copyfile(path, merged / path.name)
    outcome, run = release(adopting, "merged", "--weights", "./merged")
    (line,) = outcome["variants"]
    assert "merged" in line["stop_rates"] and read(run, "train[adopted]", "training.json")["form"] == "weights"
    tree = connect(adopting.target).tree("hubkit/merged", "main")
    assert "model.safetensors" in tree and not [path for path in tree if path.startswith("adapter/")]
