"""The stages merge, stopping and gate: what they write, and what they refuse, with real tiny models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kept import Kept, measured_rate, perform, sample, stored

from hubkit.core.errors import RefusedError
from hubkit.core.files import Manifest, write_json
from hubkit.core.numbers import share
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.models.chat.library import CHATML
from hubkit.models.chat.stop_rates import StopRates
from hubkit.pipeline import keys
from hubkit.pipeline.jobs import expand
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runs import Run
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Context, Scope, silent
from hubkit_stages import gate, merge, stopping

RECIPE = """
repo: me/tiny
visibility: private
license: apache-2.0
base: {repo: me/base, dtype: float32}
data: {preferences: [{repo: me/pairs}]}
stages:
  dpo: {data: preferences, lora: {r: 4}}
  sft: {data: preferences, continues: dpo}
variants:
  dpo-v0: {stage: dpo, gate: report}
  main: {stage: sft}
evaluate: {suites: [x]}
gates: {stop_rate: {prompts_from: preferences, prompts: 12, max_new_tokens: 16, batch_size: 5}}
card: {title: Tiny, summary: A test.}
"""


@pytest.fixture
def step(tmp_path: Path) -> Callable[..., Context]:
    """Make the context of a step from the folders of its inputs."""
    run = Run(tmp_path / "run")

    def make(step: str, inputs: dict[str, Path], recipe: Recipe | None = None, **more: Any) -> Context:
        recipe = recipe or parse_recipe(RECIPE)
        known = {name: stored(path) for name, path in inputs.items()}
        run.begin(step, "key")
        target = more.pop("target", Target("http://127.0.0.1:9", tmp_path / "home"))
        job = next(job for job in expand(recipe) if job.id == step)
        state = ReleaseState(recipe, tmp_path, target, run, expand(recipe), known)
        return state.context(job, more.pop("report", silent))

    return make


@pytest.fixture
def done(tmp_path: Path) -> Callable[[Any, str, Context], Kept]:
    """Run a stage as a step, and keep what it makes."""
    return lambda stage, step, ctx: perform(stage, ctx, Run(tmp_path / "run"), step, "key")


def stop_rates(folder: Path, **forms: float) -> Path:
    told = {name.replace("_", "-"): measured_rate(rate) for name, rate in forms.items()}
    write_json(folder / "stopping.json", sample("stopping.json", forms=told))
    return folder


def judged(step, tmp_path, main=(1.0, 1.0), dpo=(1.0, 1.0), base=1.0, recipe=None) -> Context:
    return step(
        "gate",
        {
            "base-stopping": stop_rates(tmp_path / "base", base=base),
            "stopping[main]": stop_rates(tmp_path / "main", merged=main[0], adapter=main[1], four_bit=0.0),
            "stopping[dpo-v0]": stop_rates(tmp_path / "dpo", merged=dpo[0], adapter=dpo[1], four_bit=0.0),
        },
        recipe,
    )


def test_a_variant_whose_gate_only_reports_holds_nothing_back(step, done, tmp_path):
    made = done(gate, "gate", judged(step, tmp_path, dpo=(0.0, 0.01), base=0.99))
    assert made.summary["figure"] == "dpo-v0 failed (reported); main passed (at least 97.0 %)"
    variants = made.json("gates.json")["variants"]
    assert list(variants) == ["dpo-v0", "main"]
    rates = {"merged": 0.0, "adapter": 0.01}
    verdict = {"passed": False, "enforced": False, "threshold": 0.97, "rates": rates, "benchmarks": []}
    assert variants["dpo-v0"] == verdict
    assert variants["main"]["passed"] and variants["main"]["enforced"]


@pytest.mark.parametrize("main", [(0.9, 1.0), (1.0, 0.979), (0.0, 0.0)])
def test_each_published_form_must_pass_an_enforced_gate(step, tmp_path, main):
    with pytest.raises(RefusedError) as refused:
        gate.run(judged(step, tmp_path, main=main, dpo=(0.5, 0.5)))
    assert refused.value.exit_code == 3
    assert f"main: merged {share(main[0])}, adapter {share(main[1])}: failed" in refused.value.message.splitlines()[-1]
    assert "dpo-v0: merged 50.0 %, adapter 50.0 %: failed (reported)" in refused.value.message
    assert "at least 98.0 %" in refused.value.message


def test_the_threshold_itself_passes(step, tmp_path):
    verdicts = gate.run(judged(step, tmp_path, main=(0.95, 0.95), base=0.97)).artifact
    assert verdicts.variants["main"].passed


def test_a_base_under_the_bar_is_said(step, tmp_path):
    strict = parse_recipe(RECIPE.replace("prompts: 12", "prompts: 12, at_least: 0.95"))
    made = gate.run(judged(step, tmp_path, base=0.4, recipe=strict)).artifact
    assert "base model's own stop rate is only 40.0 %, below the required 95.0 %" in made.base.remark
    low = gate.run(judged(step, tmp_path, base=0.4)).artifact
    assert "at_least" in low.base.remark
    assert gate.run(judged(step, tmp_path)).artifact.base.remark is None


def test_no_enforced_gate_at_all_is_noted(step, tmp_path):
    assert list(gate.check(judged(step, tmp_path))) == []
    lax = parse_recipe(RECIPE.replace("main: {stage: sft}", "main: {stage: sft, gate: report}"))
    assert [finding.level for finding in gate.check(judged(step, tmp_path, recipe=lax))] == ["note"]


def test_a_vllm_that_is_asked_for_and_not_there_is_found_before(tmp_path):
    recipe = parse_recipe(RECIPE.replace("batch_size: 5", "backend: vllm"))
    settings = stopping.Settings.of(recipe, Scope(tmp_path, variant="main"))
    (finding,) = stopping.check(CheckContext(settings, Target("http://127.0.0.1:9", tmp_path)))
    assert (finding.level, finding.exit_code) == ("error", 2) and "vLLM is not installed" in finding.message
    auto = stopping.Settings.of(parse_recipe(RECIPE), Scope(tmp_path, variant="main"))
    assert list(stopping.check(CheckContext(auto, Target("http://127.0.0.1:9", tmp_path)))) == []


@pytest.fixture
def base(make_model, make_tokenizer, tmp_path) -> Path:
    """The base step's artifact; its repo is a folder, which the libraries take for one."""
    import torch

    folder = tmp_path / "base-model"
    model = make_model(seed=3, initializer_range=0.3)
    with torch.no_grad():
        model.lm_head.weight[260] *= 1.6
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    made = tmp_path / "base"
    end_of_turn = {"token": "<|im_end|>", "id": 260, "suffix_ids": [198]}
    told = {"repo": str(folder), "commit": "main", "dtype": "float32", "end_of_turn": end_of_turn, "pad_token": "<pad>"}
    write_json(made / "base.json", sample("base.json", **told))
    for name in ("chat_template.jinja", "training_template.jinja"):
        (made / name).write_text(CHATML)
    return made


@pytest.fixture
def trained(base, tmp_path) -> Path:
    """A training step's artifact: an adapter that makes the turn end rarer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    repo = json.loads((base / "base.json").read_text())["repo"]
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(repo), LoraConfig(r=2, target_modules=["q_proj"]))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.peft_config["default"].revision = "main"
    model.save_pretrained(tmp_path / "train" / "adapter")
    write_json(tmp_path / "train" / "training.json", {"stage": "sft"})
    return tmp_path / "train"


@pytest.fixture
def data(tmp_path) -> Path:
    rows = [{"messages": [{"role": "user", "content": f"word {n} " * (n % 5 + 1)}]} for n in range(20)]
    (tmp_path / "data").mkdir()
    write_json(tmp_path / "data" / "data.json", sample("data.json"))
    (tmp_path / "data" / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


@pytest.fixture
def merged(step, done, base, trained, hub, tmp_path) -> Path:
    """The merge step's artifact, made from a base that stands on a real Hub."""
    target = Target(hub.url, tmp_path / "home", hub.token, embedded=True)
    api = connect(target).api
    told = json.loads((base / "base.json").read_text())
    api.create_repo("hubkit/base")
    commit = api.upload_folder(repo_id="hubkit/base", folder_path=told["repo"]).oid
    there = Path(shutil.copytree(base, tmp_path / "base-there"))
    write_json(there / "base.json", {**told, "repo": "hubkit/base", "commit": commit})
    train = Path(shutil.copytree(trained, tmp_path / "train-there"))
    rename(train, base_model_name_or_path="hubkit/base", revision=commit)
    ctx = step("merge[main]", {"base": there, "train[sft]": train}, target=target)
    return done(merge, "merge[main]", ctx).path


def rename(train: Path, **settings: str) -> None:
    path = train / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_merge_stage(merged):
    told = json.loads((merged / "merge.json").read_text())
    assert told["dtype"] == "float32"
    assert told["changed"] == 2
    assert told["targets"] == {"q_proj": 2}
    assert (merged / "model" / "chat_template.jinja").read_text() == CHATML


def test_variants_that_are_merged_together_are_what_each_is_alone(step, merged, hub, tmp_path):
    base, trained = tmp_path / "base-there", tmp_path / "train-there"
    target = Target(hub.url, tmp_path / "home", hub.token, embedded=True)
    known = {"merge[main]": "train[sft]", "merge[dpo-v0]": "train[dpo]"}
    ctxs = [step(name, {"base": base, train: trained}, target=target) for name, train in known.items()]
    alone = Manifest.of(merged / "model")
    for ctx, result in zip(ctxs, merge.run_together(ctxs), strict=True):
        made = Manifest.of(ctx.out / "model")
        assert made == alone
        assert {
            name.removeprefix("model/"): item for name, item in result.digests.items()
        }.items() <= made.files.items()


def test_merge_stage_refuses_the_adapter_of_another_base(step, base, trained):
    rename(trained, base_model_name_or_path="me/other")
    with pytest.raises(RefusedError, match="trained on me/other"):
        merge.run(step("merge[main]", {"base": base, "train[sft]": trained}))


def test_what_cannot_be_merged_is_said_before_training(step, hub, tmp_path):
    target = Target(hub.url, tmp_path / "home", hub.token, embedded=True)
    api = connect(target).api
    api.create_repo("hubkit/four-bit")
    config = json.dumps({"quantization_config": {"load_in_4bit": True}}).encode()
    api.upload_file(path_or_fileobj=config, path_in_repo="config.json", repo_id="hubkit/four-bit")
    text = RECIPE.replace("me/base", "hubkit/four-bit").replace(
        "lora: {r: 4}", "lora: {r: 4, layer_replication: [[0, 1]]}"
    )
    ctx = step("merge[main]", {}, parse_recipe(text), target=target)
    messages = [finding.message for finding in merge.check(ctx) if finding.level == "error"]
    assert len(messages) == 2
    assert "layer_replication" in messages[0]
    assert "quantized" in messages[1]


def test_each_form_of_a_variant_is_measured(step, done, base, data, trained, merged):
    inputs = {"base": base, "data": data, "train[sft]": trained, "merge[main]": merged}
    heard = []
    ctx = step("stopping[main]", inputs, report=lambda figure, share: heard.append(share))
    told = done(stopping, "stopping[main]", ctx).json("stopping.json")
    assert list(told["forms"]) == ["merged", "adapter", "four-bit"]
    assert told["prompts"] == 12 == told["forms"]["merged"]["prompts"]
    assert (told["max_new_tokens"], told["end_of_turn"]) == (16, {"token": "<|im_end|>", "id": 260})
    assert told["forms"]["merged"] == told["forms"]["adapter"], "float32 merged weights are the adapter on its base"
    shown = {name: [item["prompt"] for item in told["forms"][name]["answers"]] for name in told["forms"]}
    assert len(shown["merged"]) == 4
    assert shown["four-bit"] == shown["merged"], "the same prompts, in the same order"
    again = StopRates.parse(told).forms["merged"].answers
    assert {(item.ended, item.tokens == 16) for item in again} <= {("limit", True), ("eos", False), ("eos", True)}
    assert 0 < told["forms"]["merged"]["rate"] < 1
    assert [told["forms"][name]["dtype"] for name in told["forms"]] == ["float32", "float32", "nf4"]
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


def test_without_quantization_the_four_bit_form_is_skipped_with_a_reason(step, done, base, data, trained, merged):
    inputs = {"base": base, "data": data, "train[sft]": trained, "merge[main]": merged}
    recipe = parse_recipe(RECIPE.replace("continues: dpo", "continues: dpo, quantization: none"))
    told = done(stopping, "stopping[main]", step("stopping[main]", inputs, recipe)).json("stopping.json")
    assert list(told["forms"]) == ["merged", "adapter"]
    assert "not trained on a quantized base" in told["skipped"]["four-bit"]


def test_the_base_is_measured_alone(step, done, base, data):
    ctx = step("base-stopping", {"base": base, "data": data})
    told = done(stopping, "base-stopping", ctx).json("stopping.json")
    assert list(told["forms"]) == ["base"]
    assert told["forms"]["base"]["prompts"] == 12


@pytest.mark.parametrize("library", ["torch", "transformers", "tokenizers", "peft", "bitsandbytes"])
def test_another_version_of_what_shapes_the_figures_is_another_key(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    before, installed = keys.artifact_key(stopping, {}, {}), keys.installed
    monkeypatch.setattr(keys, "installed", lambda name: "0.0.1" if name == library else installed(name))
    assert keys.artifact_key(stopping, {}, {}) != before
    monkeypatch.setattr(keys, "installed", lambda name: None if name == library else installed(name))
    assert keys.artifact_key(stopping, {}, {}) != before
