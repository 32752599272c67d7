"""The training stages with the real trainers on a very small model: what they save, resume, refuse and survive."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import training_case
from kept import kept
from training_case import COMMIT, DPO, SFT, Case, recipe_text

from hubkit.core.errors import HubkitError, RemoteError
from hubkit.core.files import read_json, write_json
from hubkit.hub.transport import install
from hubkit.models import load
from hubkit.recipe.loading import parse_recipe
from hubkit.training import checkpoints, shared
from hubkit.training.watching.callback import watch as watch_callback
from hubkit.training.watching.spent import Spent


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case")).prepare()


@pytest.fixture
def case(prepared: Case, tmp_path: Path) -> Case:
    """A copy of the prepared run, so that no test sees what another trained."""
    shutil.copytree(prepared.run.artifacts, tmp_path / "run" / "artifacts")
    return Case(tmp_path)


@pytest.fixture(scope="module")
def trained(prepared: Case, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Both stages trained once, in 4 bits."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(prepared.run.artifacts, folder / "run" / "artifacts")
    made = Case(folder)
    made.train("dpo")
    made.train("sft")
    return made


def adapter(case: Case, stage: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(case.run.artifacts / f"train[{stage}]" / "adapter" / "adapter_model.safetensors"))


def test_what_does_not_count_for_the_key_does_not_change_one_bit(case: Case, trained: Case) -> None:
    """Logs, checkpoints, the probe, progress and how rows are loaded: see hubkit.training.counted."""
    text = recipe_text(
        dpo=DPO.replace("logging_steps: 2", "logging_steps: 3, logging_first_step: true, run_name: other, project: p")
        + ", save_steps: 3, save_total_limit: 1, disable_tqdm: false, include_num_input_tokens_seen: all"
        + ", dataloader_num_workers: 1, dataset_num_proc: 1, skip_memory_metrics: false, torch_empty_cache_steps: 2"
        + ", per_device_eval_batch_size: 3, log_level: error"
    )
    probe = "probe: {every: 1, prompts: 5, max_new_tokens: 6, max_share: 1.0}"
    made = case.train("dpo", text.replace("    lora: {r", f"    {probe}\n    lora: {{r"))
    before, after = adapter(trained, "dpo"), adapter(case, "dpo")
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
    told = made.json("training.json")
    asked = [point["step"] for point in told["probes"]]  # on a busy machine one may be too slow, and the next waits
    assert asked and asked == sorted(set(asked)) and set(asked) <= set(range(2, 9)) and asked[-1] == 8
    assert {point["prompts"] for point in told["probes"]} == {5}
    curves = made.json("curves.json")
    assert curves["probes"] == told["probes"] and [point["step"] for point in curves["points"]] == [1, 3, 6]
    names = {"loss", "rewards/margins", "rewards/accuracies", "grad_norm", "learning_rate"}
    assert names <= curves["points"][-1].keys()


def test_the_adapter_stands_alone_and_is_bound_to_the_base(trained: Case) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for stage in ("dpo", "sft"):
        folder = trained.run.artifacts / f"train[{stage}]" / "adapter"
        assert sorted(item.name for item in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        config = json.loads((folder / "adapter_config.json").read_text())
        base = kept(trained.run.find("base")).json("base.json")
        assert (config["base_model_name_or_path"], config["revision"]) == (base["repo"], COMMIT)
        assert config["inference_mode"] is True
        assert len(config["target_modules"]) > 1 and config["target_modules"] == sorted(config["target_modules"])
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"]), folder
        )
        loaded = {name for name, _ in model.named_parameters() if "lora_" in name}
        assert len(loaded) == len(adapter(trained, stage)) == 2 * 7 * 2
        model.merge_and_unload()


def test_sft_goes_on_with_the_adapter_of_dpo(trained: Case) -> None:
    before, after = adapter(trained, "dpo"), adapter(trained, "sft")
    assert before.keys() == after.keys()
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert 0 < moved < 0.1
    assert {str(weight.dtype) for weight in before.values()} == {"torch.float32"}


def test_training_json_says_what_happened(trained: Case) -> None:
    told = kept(trained.run.find("train[dpo]")).json("training.json")
    assert (told["method"], told["steps"], told["rows"], told["continues"]) == ("dpo", 8, 24, None)
    assert told["lora"]["r"] == 4
    assert told["lora"]["target_modules"][-1] == "v_proj"
    assert [point["step"] for point in told["curve"]] == [2, 4, 6, 8]
    assert all(point["loss"] > 0 for point in told["curve"])
    assert told["args"]["learning_rate"] == 1e-3
    assert "truncation" not in told, "what the data check found about lengths stands in data.json alone"
    assert told["peak_memory_bytes"] > 10**8
    assert told["seconds"] > 0
    assert told["tokens_per_second"] > 0
    pairs = told["pairs"]
    assert (pairs["way"], pairs["reason"], pairs["order"]) == ("shared", None, "random")
    assert 0 < pairs["tokens"]["computed"] < pairs["tokens"]["real"] <= pairs["tokens"]["padded"]
    assert pairs["reference"]["computed"] == 24 and pairs["reference"]["cached"] == 8


def test_two_processes_make_the_adapter_of_one_with_the_same_batch(case: Case, tmp_path: Path) -> None:
    import torch

    case.leave_rows(23)  # the last batch of the epoch has three rows of four: two and one
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the two have: the number moves the last digits
    try:
        before = case.train("dpo", recipe_text(quantization="none"))
    finally:
        torch.set_num_threads(threads)
    one, alone = adapter(case, "dpo"), before.json("training.json")
    said: list[str] = []
    text = recipe_text(dpo=DPO.replace("batch_size: 4", "batch_size: auto"), quantization="none")
    text = text.replace("    data: preferences\n", "    data: preferences\n    batch_size: 4\n")
    made = case.launch("dpo", text + "launch: {processes: 2}\n", lambda figure, share: said.append(figure))
    two, told = adapter(case, "dpo"), made.json("training.json")
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    assert (told["processes"], told["global_batch"], told["steps"]) == (2, 4, 8)
    cut = told["batches"]
    assert (cut["per_device"], cut["accumulation"], cut["processes"], cut["checkpointing"]) == (2, 1, 2, False)
    assert "batches of 2 x 1 rows on each of 2 devices, without gradient checkpointing" in said
    assert told["device"] == "CPU, 2 processes of 1 thread" and alone["processes"] is None
    assert [point["loss"] for point in told["curve"]] == pytest.approx([point["loss"] for point in alone["curve"]])
    pairs, those = told["pairs"], alone["pairs"]
    assert pairs["tokens"]["real"] == those["tokens"]["real"], "of both processes"
    assert sum(pairs["reference"].values()) == sum(those["reference"].values())
    assert sorted(said) == sorted(set(said)) and said[-1].startswith("step 8/8"), "the main process alone reports"
    assert made.manifest.files.keys() == before.manifest.files.keys()
    assert list(case.run.work.iterdir()) == [], "the other's files are gone"
    assert "process 1 of 2 on" in (case.run.logs / "train[dpo].1.log").read_text()


def test_training_repeats_itself(trained: Case, case: Case) -> None:
    import torch

    case.train("dpo")
    first, again = adapter(trained, "dpo"), adapter(case, "dpo")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_without_quantization_and_without_speedups_the_numbers_are_the_same(case: Case) -> None:
    import torch

    text = recipe_text(quantization="none")
    case.train("dpo", text)
    told, fast = kept(case.run.find("train[dpo]")).json("training.json"), adapter(case, "dpo")
    assert told["quantization"] == "none" and told["pairs"]["way"] == "shared"
    assert next(iter(fast.values())).dtype.is_floating_point
    case.train("dpo", text.replace("    data: preferences\n", "    data: preferences\n    speedups: none\n"), key="k2")
    plain = kept(case.run.find("train[dpo]")).json("training.json")
    assert plain["pairs"] == {} and plain["curve"] != []
    assert [point["loss"] for point in plain["curve"]] == pytest.approx([point["loss"] for point in told["curve"]])
    slow = adapter(case, "dpo")
    assert all(torch.allclose(fast[name], slow[name], atol=1e-3) for name in fast)


def test_a_generation_does_not_spoil_the_gradients_of_4_bit_layers(case: Case) -> None:
    """On a CPU with AVX512-BF16 an eval-mode forward repacks the layers, unless they are told not to."""
    import torch
    from peft import LoraConfig, get_peft_model

    base = str(kept(case.run.find("base")).json("base.json")["repo"])

    def gradient(generate: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = load.load_model(Path(base), dtype="float32", quantization="nf4")
        assert load.keep_differentiable(model) == 14
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        ids = torch.arange(3, 35)[None]
        if generate:
            model.eval()
            model.generate(input_ids=ids, max_new_tokens=2)
            model.train()
        model(input_ids=ids, labels=ids).loss.backward()
        found = [weight.grad.flatten() for name, weight in model.named_parameters() if "lora_B" in name]
        return torch.cat(found)

    before, after = gradient(generate=False), gradient(generate=True)
    assert torch.nn.functional.cosine_similarity(before, after, dim=0) > 0.999


def test_a_hub_that_is_down_when_the_base_is_loaded_is_said(case: Case) -> None:
    ctx = case.context(parse_recipe(recipe_text()), "train[dpo]")
    install(ctx.target.endpoint, None)  # as in a worker; huggingface_hub's own client tries for a minute
    away = replace(ctx.inputs.base, repo="them/base")
    ctx = replace(ctx, inputs=replace(ctx.inputs, base=away))
    with pytest.raises(RemoteError, match="cannot be reached") as down:
        shared.prepare(ctx)
    assert down.value.exit_code == 5


def test_a_checkpoint_counts_only_when_it_is_whole(tmp_path: Path) -> None:
    assert checkpoints.last_complete(tmp_path / "none") is None
    for step in (10, 20, 100, 110):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"weights of %d" % step)
        if step != 110:
            checkpoints.seal(folder)
    assert checkpoints.last_complete(tmp_path) == tmp_path / "checkpoint-100"
    assert not (tmp_path / "checkpoint-110").exists()
    (tmp_path / "checkpoint-100" / "adapter_model.safetensors").write_bytes(b"weights of 1o0")
    assert checkpoints.last_complete(tmp_path) == tmp_path / "checkpoint-20"
    (tmp_path / "checkpoint-20" / "adapter_model.safetensors").unlink()
    assert checkpoints.last_complete(tmp_path) == tmp_path / "checkpoint-10"
    write_json(tmp_path / "checkpoint-10" / "manifest.json", {"files": 3})
    assert checkpoints.last_complete(tmp_path) is None


@pytest.mark.train
@pytest.mark.parametrize("stage", ["dpo", "sft"])
def test_a_killed_training_goes_on_from_its_last_whole_checkpoint(stage: str, trained: Case, tmp_path: Path) -> None:
    import torch

    case = Case(tmp_path / "killed")
    whole = Case(tmp_path / "whole")
    for made in (case, whole):
        shutil.copytree(trained.run.artifacts, made.run.artifacts)
        shutil.rmtree(made.run.artifacts / f"train[{stage}]")
    steps = "max_steps: 40, save_steps: 4, "
    text = recipe_text(
        dpo=steps + re.sub(r"max_steps: \d+, ", "", DPO), sft=steps + re.sub(r"max_steps: \d+, ", "", SFT)
    )
    saved = case.run.work / f"train[{stage}]" / "scratch" / "checkpoints"
    command = [sys.executable, str(Path(training_case.__file__)), str(case.folder), stage, text]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while not list(saved.glob("checkpoint-*/manifest.json")):
        assert time.monotonic() < deadline, "no checkpoint was sealed"
        assert child.poll() is None, "training ended before it could be killed"
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert case.run.find(f"train[{stage}]") is None
    (saved / "checkpoint-999").mkdir()
    (saved / "checkpoint-999" / "trainer_state.json").write_text("{")
    last = checkpoints.last_complete(saved)
    assert last is not None
    before = read_json(last / "hubkit_spent.json")
    assert before["seconds"] > 0
    assert before["peak_memory_bytes"] > 10**8
    write_json(last / "hubkit_spent.json", {"seconds": 36_000.0, "peak_memory_bytes": 10**15})
    (last / "manifest.json").unlink()
    checkpoints.seal(last)
    told = case.train(stage, text).json("training.json")
    assert 36_000 < told["seconds"] < 36_600
    assert told["peak_memory_bytes"] == 10**15
    assert int(told["resumed_from"].split("-")[1]) in range(4, 40, 4)
    assert told["steps"] == 40
    assert told["tokens_per_second"] is None
    assert whole.train(stage, text).json("training.json")["resumed_from"] is None
    first, again = adapter(whole, stage), adapter(case, stage)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not case.run.work.joinpath(f"train[{stage}]").exists()


def test_a_training_that_was_killed_after_its_last_step_takes_no_step_more(
    case: Case, trained: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends within an epoch, where transformers' own loop would go on before it looks."""

    class KilledError(Exception):
        pass

    def kill(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(shared, "_save", kill)
        with pytest.raises(KilledError):
            case.train("dpo")
    made = case.train("dpo")
    told = made.json("training.json")
    assert (told["steps"], told["resumed_from"]) == (8, "checkpoint-8")
    assert told["probes"][-1]["step"] == 8
    before, after = adapter(trained, "dpo"), adapter(case, "dpo")
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)


def test_a_run_whose_numbers_are_not_finite_is_stopped_at_once(case: Case) -> None:
    wild = DPO.replace("learning_rate: 1e-3", "learning_rate: 1e30, max_grad_norm: 0, save_steps: 1")
    with pytest.raises(
        HubkitError, match=r"diverged at step [23]: a gradient is not finite.*Last good checkpoint"
    ) as stopped:
        case.train("dpo", recipe_text(dpo=wild))
    assert stopped.value.exit_code == 1
    assert "learning_rate" in (stopped.value.hint or "")
    assert case.run.find("train[dpo]") is None
    last = checkpoints.last_complete(case.run.work / "train[dpo]" / "scratch" / "checkpoints")
    assert last is not None
    assert last.name in stopped.value.message


def test_seconds_and_memory_are_those_of_all_processes(case: Case) -> None:
    wild = DPO.replace("learning_rate: 1e-3", "learning_rate: 1e30, max_grad_norm: 0, save_steps: 1")
    with pytest.raises(HubkitError, match="a gradient is not finite"):
        case.train("dpo", recipe_text(dpo=wild))
    last = checkpoints.last_complete(case.run.work / "train[dpo]" / "scratch" / "checkpoints")
    assert last is not None
    first = Spent.until(last)
    assert first.seconds > 0
    assert first.peak > 10**8
    (last / "manifest.json").unlink()
    write_json(last / "hubkit_spent.json", {"seconds": 36_000.0, "peak_memory_bytes": 10**15})
    checkpoints.seal(last)
    spent = Spent.until(last)
    watch = watch_callback(case.context(parse_recipe(recipe_text()), "train[dpo]"), spent)

    class State:
        global_step, is_world_process_zero = 7, True

    class Args:
        output_dir = str(last.parent)

    (last.parent / "checkpoint-7").mkdir()
    watch.on_save(Args, State, None)
    assert checkpoints.last_complete(last.parent) == last.parent / "checkpoint-7"
    again = Spent.until(last.parent / "checkpoint-7")
    assert 36_000 < again.seconds < 36_600
    assert again.peak == 10**15


def test_gradients_are_left_to_the_scaler_where_there_is_one(case: Case) -> None:
    import torch
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    Accelerator(cpu=True)
    watch = watch_callback(case.context(parse_recipe(recipe_text()), "train[dpo]"))
    model = torch.nn.Linear(2, 1)
    model(torch.tensor([[float("inf"), 1.0]])).sum().backward()
    plain = torch.optim.SGD(model.parameters(), lr=0.1)

    class State:
        global_step, max_steps = 0, 10

    scaled = AcceleratedOptimizer(plain, scaler=torch.amp.GradScaler("cpu"))
    watch.on_pre_optimizer_step(None, State, None, model=model, optimizer=scaled)
    with pytest.raises(HubkitError, match="the loss is nan"):
        watch.on_log(None, State, None, logs={"loss": float("nan")})
    for optimizer in (plain, AcceleratedOptimizer(plain)):
        with pytest.raises(HubkitError, match="diverged at step 1: a gradient is not finite"):
            watch.on_pre_optimizer_step(None, State, None, model=model, optimizer=optimizer)


def test_a_run_whose_loss_grows_without_bound_is_stopped(case: Case) -> None:
    watch = watch_callback(case.context(parse_recipe(recipe_text()), "train[dpo]"))

    class State:
        global_step, max_steps = 3, 10

    watch.on_log(None, State, None, logs={"loss": 0.69})
    watch.on_log(None, State, None, logs={"loss": 9.0})
    with pytest.raises(HubkitError, match=r"the loss went from 0\.69 to 14"):
        watch.on_log(None, State, None, logs={"loss": 14.0})
    with pytest.raises(HubkitError, match="the loss is nan"):
        watch.on_log(None, State, None, logs={"loss": float("nan")})


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_running_out_of_memory_says_what_to_change(case: Case, kind: str) -> None:
    import torch

    ctx = case.context(parse_recipe(recipe_text()), "train[dpo]")

    class Trainer:
        class state:
            global_step = 6

        class args:
            per_device_train_batch_size = 4
            gradient_accumulation_steps = 2
            world_size = 1

        def train(self, resume_from_checkpoint: str | None) -> None:
            if kind == "gpu":
                raise torch.OutOfMemoryError("CUDA out of memory")
            torch.empty(2**55, dtype=torch.uint8)

    with pytest.raises(HubkitError, match="'dpo' ran out of memory at step 7") as stopped:
        shared._run(ctx, Trainer(), None)
    assert "per_device_train_batch_size" in (stopped.value.hint or "")


def tokens_beside(case: Case, stage: str, folder: str, rows: int | None = None) -> None:
    """Write the rows of ``stage``'s dataset as tokens to ``folder`` of the data step's artifact, as that step does."""
    from transformers import AutoTokenizer

    from hubkit.models.chat import eos
    from hubkit.training.data import tokens

    artifact, name = case.run.artifacts / "data", {"dpo": "preferences", "sft": "repair"}[stage]
    tokenizer = AutoTokenizer.from_pretrained(case.folder / "base-model")
    lines = (artifact / "sets" / f"{name}.jsonl").read_text().splitlines()[:rows]
    encoder = tokens.Encoder(tokenizer, eos.find(tokenizer), {})
    assert len(list(tokens.write(lines, len(lines), artifact / folder / name, encoder))) == 1


@pytest.mark.parametrize("stage", ["dpo", "sft"])
def test_tokens_of_the_data_step_train_the_same_weights_and_rows_for_evaluation_change_none(
    stage: str, case: Case, prepared: Case
) -> None:
    import torch

    shutil.copytree(prepared.folder / "base-model", case.folder / "base-model")
    text = recipe_text(quantization="none")
    if stage == "sft":
        text = text.replace("continues: dpo, ", "lora: {r: 2, target_modules: all-linear}, ")
    case.train(stage, text)
    without = adapter(case, stage)
    tokens_beside(case, stage, "tokens")
    tokens_beside(case, stage, "evaluation-tokens", rows=6)
    made = case.train(stage, text, key="again")
    told = read_json(made.path / "training.json")
    assert adapter(case, stage).keys() == without.keys()
    assert all(torch.equal(value, without[name]) for name, value in adapter(case, stage).items())
    assert told["rows"] == 24
    assert len(told["evaluation"]) > 1 and all(point["loss"] > 0 for point in told["evaluation"])
    assert {"eval_loss"} & set(told["curve"][0]) == set()
    assert read_json(made.path / "seen" / "texts.json")["rows"]
    assert not list((case.run.artifacts / "data").rglob("cache*")), "nothing is written to the artifact"
