"""What strangers get from the Hub: the same bytes, two forms that are one model, turns that end."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kept import kept
from releases import Release

from hubkit.core.errors import ConflictError
from hubkit.hub.client import connect
from hubkit.models.chat import eos, trained
from hubkit.server.process import Running
from hubkit_stages import loadback

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
    made.make("base", {"base.json": {"repo": BASE, "commit": commit, "dtype": "float32", "end_of_turn": end.to_json()}})
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
    settings.write_text(settings.read_text().replace(str(tmp_path / "base"), BASE))
    keep(made, "train[sft]", "adapter", tmp_path / "adapter", {"training.json": {"stage": "sft"}})
    merged = tuned.merge_and_unload()
    merged.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    keep(made, "merge[main]", "model", tmp_path / "model", {"merge.json": {"dtype": "float32"}})
    made.make("stopping[main]", {"stopping.json": {"forms": {}}})
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
    from hubkit.server.process import Running
    url, token, folder, inputs, rate = sys.argv[1:]
    release = Release.on(Running(url, 0, Path(folder), token), Path(folder))
    release.made = {name: kept(release.run.find(name)) for name in json.loads(inputs)}
    stop_rate = RECIPE.gates.stop_rate.model_copy(update=json.loads(rate))
    try:
        release.perform("loadback[main]", {"gates": Gates(stop_rate=stop_rate)})
    except HubkitError as error:
        print(json.dumps([error.exit_code, error.message]))
    else:
        print(json.dumps([0, ""]))
""")


def load_back(hub: Running, release: Release) -> tuple[int, str]:
    """Run the stage in a process whose every library talks to this Hub: exit code and message."""
    command = [sys.executable, "-c", STAGE, hub.url, hub.token, str(release.folder)]
    command += [json.dumps(list(release.made)), json.dumps(RATE)]
    environment = {**os.environ, **release.target.environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    code, message = json.loads(done.stdout.splitlines()[-1])
    return code, message


def test_both_forms_are_one_model(hub: Running, release: Release) -> None:
    release.publish("main")
    assert load_back(hub, release) == (0, "")
    said = kept(release.run.find("loadback[main]")).json("loadback.json")
    assert said["commit"] == release.made["publish[main]"].json("published.json")["commit"]
    assert said["files"] == len(release.made["publish[main]"].json("bundle.json")["files"])
    assert said["compared"]["dtype"] == "float32" and said["compared"]["conversations"] == 4
    assert said["compared"]["positions"] > 100
    assert 0 < said["compared"]["max_difference"] <= 1e-4, "two ways of computing the same"
    assert said["top1_agreement"] > 0.99
    for form in ("merged", "adapter"):
        assert said["stopping"][form]["prompts"] == 4 and said["stopping"][form]["dtype"] == "float32"
    left = [path for path in release.folder.rglob("*.safetensors") if "cache" in path.parts]
    assert left == [], "the cache is removed"


def test_the_gates_hold_again(hub: Running, release: Release) -> None:
    gate(release, 1.1)
    release.publish("main")
    code, message = load_back(hub, release)
    assert code == 3
    assert "from the Hub is too low: merged" in message and ", adapter " in message and "required: 110.0 %" in message


def test_merged_weights_that_are_not_the_adapter(
    hub: Running, release: Release, make_model: Any, tmp_path: Path
) -> None:
    make_model(seed=7).save_pretrained(tmp_path / "model")
    keep(release, "merge[main]", "model", tmp_path / "model", {"merge.json": {"dtype": "float32"}})
    release.publish("main")
    code, message = load_back(hub, release)
    assert code == 4 and "not the same model: their logits differ" in message


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


def test_rounding_is_told_from_damage() -> None:
    fine = loadback.Comparison("float32", 4, 100, 0.996, 0.3)
    fine.refuse_if_broken("bfloat16")
    with pytest.raises(ConflictError, match=r"logits differ by 0\.3"):
        fine.refuse_if_broken("float32")
    for dtype in ("bfloat16", "float16"):
        replace(fine, agreement=0.995).refuse_if_broken(dtype)
        with pytest.raises(ConflictError, match=r"agree on 99\.4 % of the next tokens \(at least 99\.5 %\)") as refused:
            replace(fine, agreement=0.994).refuse_if_broken(dtype)
        assert refused.value.exit_code == 4
    with pytest.raises(ConflictError):
        replace(fine, max_difference=float("nan")).refuse_if_broken("float32")
