"""What strangers get from the Hub: the bytes that were measured, a proved merge, two forms that load."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from commands import hubkit
from kept import kept, measured_rate
from releases import REPO, Release, faults, requests

from hubkit.checks.source import RepoSource
from hubkit.core.errors import ConflictError
from hubkit.hub.client import connect
from hubkit.models.chat import eos, trained
from hubkit.publishing.proving import prove_merge
from hubkit.server.process import Running

pytestmark = pytest.mark.train
BASE = "hubkit/little-base"
RATE = {"prompts": 4, "max_new_tokens": 4, "batch_size": 4}


@pytest.fixture
def release(hub: Running, tmp_path: Path, make_model: Any, make_tokenizer: Any) -> Release:
    """One variant, staged: a random adapter on a random base, merged in float32."""
    import torch
    from peft import LoraConfig, get_peft_model

    made = Release.on(hub, tmp_path).train()
    connected = connect(made.target)
    tokenizer, model = make_tokenizer(), make_model()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    connected.ensure_repo(BASE, "public")
    connected.api.upload_folder(repo_id=BASE, folder_path=tmp_path / "base")
    commit = connected.resolve(BASE, "main")
    end = eos.find(tokenizer)
    base = {"repo": BASE, "commit": commit, "dtype": "float32", "end_of_turn": end.to_json()}
    made.make("base", {"base.json": base, "training_template.jinja": tokenizer.chat_template})
    prompts = [{"messages": [{"role": "user", "content": f"Say {number}."}]} for number in range(4)]
    made.make(
        "data",
        {"data.json": {"sets": {}}, "prompts.jsonl": "".join(json.dumps(prompt) + "\n" for prompt in prompts)},
    )
    torch.manual_seed(1)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    tuned.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    tuned.save_pretrained(tmp_path / "adapter")
    settings = tmp_path / "adapter" / "adapter_config.json"
    bound = {"base_model_name_or_path": BASE, "revision": commit}
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **bound}))
    keep(made, "train[sft]", "adapter", tmp_path / "adapter", {"training.json": {"stage": "sft"}})
    merged = tuned.merge_and_unload()
    merged.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    keep(made, "merge[main]", "model", tmp_path / "model", {"merge.json": {"dtype": "float32"}})
    rates = {form: measured_rate(0.5) for form in ("merged", "adapter")}
    made.make("stopping[main]", {"stopping.json": {"forms": rates}})
    gate(made, 0.0)
    return made


def keep(release: Release, step: str, name: str, folder: Path, more: dict[str, Any]) -> None:
    files = {f"{name}/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    release.make(step, {**files, **more})


def gate(release: Release, threshold: float, *, enforced: bool = True) -> None:
    held = {"passed": True, "enforced": enforced, "threshold": threshold, "rates": {}}
    release.make("gate", {"gates.json": {"variants": {"main": held}}})


STAGE = textwrap.dedent("""
    import json, sys
    from pathlib import Path
    from kept import kept
    from releases import RECIPE, Release
    from hubkit.core.errors import HubkitError
    from hubkit.recipe.models import Gates
    from hubkit.recipe.stage import Options
    from hubkit.server.process import Running
    url, token, folder, inputs, rate, steps, thorough = sys.argv[1:]
    release = Release.on(Running(url, 0, Path(folder), token), Path(folder))
    release.made = {name: kept(release.run.find(name)) for name in json.loads(inputs)}
    release.options = Options(thorough=bool(thorough))
    stop_rate = RECIPE.gates.stop_rate.model_copy(update=json.loads(rate))
    stages = {name: item.model_copy(update={"quantization": "none"}) for name, item in RECIPE.stages.items()}
    try:
        for step in steps.split():
            release.perform(step, {"gates": Gates(stop_rate=stop_rate), "stages": stages})
    except HubkitError as error:
        print(json.dumps([error.exit_code, error.message]))
    else:
        print(json.dumps([0, ""]))
""")


def load_back(
    hub: Running, release: Release, steps: str = "loadback[main]", *, thorough: bool = False
) -> tuple[int, str]:
    """Run the stage in a process whose every library talks to this Hub: exit code and message."""
    command = [sys.executable, "-c", STAGE, hub.url, hub.token, str(release.folder)]
    command += [json.dumps(list(release.made)), json.dumps(RATE), steps, "yes" if thorough else ""]
    environment = {**os.environ, **release.target.environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    code, message = json.loads(done.stdout.splitlines()[-1])
    return code, message


def test_both_forms_are_one_model(hub: Running, release: Release, tmp_path: Path) -> None:
    block = f"from huggingface_hub import hf_hub_download as get\nget({REPO!r}, 'model.safetensors', revision='main')"
    card = f"---\nlicense: apache-2.0\n---\n# Card\n\n```python\n{block}\n```\n"
    release.make("card[main]", {"README.md": card, "adapter-README.md": card, "numbers.json": {}})
    release.publish("main")
    faults(hub)
    assert load_back(hub, release, "stopping[main] loadback[main] snippets[main]", thorough=True) == (0, "")
    fetched = [line.split("/", 1)[1] for line in requests(hub) if line.startswith("GET") and ".safetensors" in line]
    staged = f"{REPO}/resolve/{release.made['publish[main]'].json('published.json')['commit']}"
    base = f"{BASE}/resolve/{release.made['base'].json('base.json')['commit']}"
    large = [f"{staged}/adapter/adapter_model.safetensors", f"{staged}/model.safetensors", f"{base}/model.safetensors"]
    assert sorted(fetched) == sorted(large), "each large file is downloaded once, in all the steps together"
    agreement = kept(release.run.find("stopping[main]")).json("stopping.json")["agreement"]
    assert (agreement["dtype"], agreement["wider"], agreement["conversations"]) == ("float32", "float64", 4)
    assert agreement["forms"]["positions"] > 100 and agreement["forms"]["same_next_token"] > 0.99
    assert 0 < agreement["forms"]["max_difference"] <= 1e-4, "two ways of computing the same"
    assert 0 < agreement["floor"]["max_difference"] <= 1e-4 and agreement["floor"]["same_next_token"] > 0.99
    said = kept(release.run.find("loadback[main]")).json("loadback.json")
    assert said["commit"] == release.made["publish[main]"].json("published.json")["commit"]
    assert said["files"] == len(release.made["publish[main]"].json("bundle.json")["files"])
    assert said["proof"]["changed"] > 0 and said["proof"]["thorough"] and 0 < said["proof"]["greatest"] <= 1
    assert said["proof"]["numbers"] == said["proof"]["parameters"]
    assert [said["reproduced"][form]["same_next_token"] for form in ("merged", "adapter")] == [1.0, 1.0]
    verified = ["verify", REPO, "--revision", said["commit"], "--thorough"]
    done = hubkit(*verified, home=tmp_path / "home", HF_ENDPOINT=hub.url, HF_TOKEN=hub.token)
    assert done.returncode == 0, done.stderr
    assert f"The merged weights are the adapter on {BASE}@" in done.stdout and "every number recomputed" in done.stdout
    left = [path for path in release.folder.rglob("*.safetensors") if "cache" in path.parts]
    assert left == [], "the cache is removed"


def test_a_form_that_expects_other_tokens_than_before_the_upload(hub: Running, release: Release) -> None:
    rates = {form: measured_rate(0.5) for form in ("merged", "adapter")}
    read = {"conversations": [[3, 4, 5, 6]], "best": {form: [[1, 1, 1, 1]] for form in rates}}
    release.make("stopping[main]", {"stopping.json": {"forms": rates}, "next_tokens.json": json.dumps(read)})
    release.publish("main")
    code, message = load_back(hub, release)
    assert code == 4 and "the merged form, loaded back from the Hub, is not the model that was measured" in message
    assert "at 100 % of 4 positions (at most 10.0 %)" in message


def test_the_gates_hold_for_what_is_on_the_hub(hub: Running, release: Release) -> None:
    gate(release, 0.9)
    release.publish("main")
    code, message = load_back(hub, release)
    assert code == 3
    assert "on the Hub is too low: merged 50.0 %, adapter 50.0 % (required: 90.0 %)" in message


def test_merged_weights_that_are_not_the_adapter(
    hub: Running, release: Release, make_model: Any, tmp_path: Path
) -> None:
    make_model(seed=7).save_pretrained(tmp_path / "model")
    keep(release, "merge[main]", "model", tmp_path / "model", {"merge.json": {"dtype": "float32"}})
    release.publish("main")
    code, message = load_back(hub, release)
    assert code == 4 and "The merged weights are not the adapter on its base: " in message
    assert "another base" in message
    commit = release.made["publish[main]"].json("published.json")["commit"]
    connected = connect(release.target)
    with pytest.raises(ConflictError, match="not the adapter on its base"):
        prove_merge(RepoSource(connected, REPO, commit), connected)
    measured = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**measured, "rope_theta": 5.0}))
    keep(release, "merge[main]", "model", tmp_path / "model", {"merge.json": {"dtype": "float32"}})
    code, message = load_back(hub, release)
    assert code == 4 and "main: config.json on the Hub is not the file whose stop rate was measured" in message


def test_a_tokenizer_that_writes_other_tokens_than_were_trained_on(
    hub: Running, release: Release, make_tokenizer: Any, tmp_path: Path
) -> None:
    template = make_tokenizer().chat_template.replace("+ '\n' +", "+ '\n ' +")
    texts = {trained.SEEN_FILE: trained.seen(make_tokenizer(template), [])}
    keep(release, "train[sft]", "adapter", tmp_path / "adapter", {"training.json": {"stage": "sft"}, **texts})
    release.publish("main")
    code, message = load_back(hub, release)
    assert code == 4 and "the training conversations differently: the golden conversation 'one turn' differs" in message


@pytest.mark.fault("F9")
def test_bytes_that_come_back_otherwise(hub: Running, release: Release) -> None:
    from hubkit.server.storage.folder import Folder

    release.publish("main")
    digest = release.made["merge[main]"].manifest.files["model/model.safetensors"].sha256
    (stored,) = [path for path in Folder(hub.data).lfs.rglob("*") if path.name == digest]
    stored.chmod(0o600)
    body = bytearray(stored.read_bytes())
    body[-3] ^= 1
    stored.write_bytes(body)
    code, message = load_back(hub, release)
    assert code == 4 and "the Hub says that its copy of a file is damaged" in message


def test_a_base_on_this_machine_that_is_not_the_hubs(hub: Running, release: Release) -> None:
    release.publish("main")
    base = connect(release.target).download(BASE, "main", cache=release.target.home / "hub")
    held = (base / "model.safetensors").resolve()
    body = bytearray(held.read_bytes())
    body[-3] ^= 1
    held.chmod(0o600)
    held.write_bytes(body)
    code, message = load_back(hub, release)
    assert code == 4 and f"The copy of {BASE}@" in message and "differs from the Hub's: model.safetensors" in message
