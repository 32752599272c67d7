"""The cost model: its formulas on examples computed by hand, what must never get cheaper, and what a plan says."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from architectures import make_config
from hypothesis import given
from hypothesis import strategies as some
from releases import target_of
from rich.console import Console
from samples import RECIPE_TEXT

from hubkit.cli.costs import cost_lines, note_lines
from hubkit.cli.recipes import last_state
from hubkit.core.errors import RemoteError
from hubkit.core.target import Target
from hubkit.hub.client import Hub, connect
from hubkit.models import meta
from hubkit.pipeline import preflight
from hubkit.pipeline.costs import asking, benchmarks, datasets, devices, room, sources, training
from hubkit.pipeline.costs.devices import TABLE, Device, from_measured
from hubkit.pipeline.costs.estimate import Estimate, estimate
from hubkit.pipeline.costs.formulas import (
    LIBRARIES,
    Memory,
    ModelSize,
    activation_bytes,
    generation_memory,
    optimizer_bytes,
    padding,
    scoring_memory,
    training_memory,
)
from hubkit.pipeline.costs.sources import Rows
from hubkit.pipeline.costs.training import TrainingWork
from hubkit.pipeline.release_state import ReleaseState
from hubkit.recipe.loading import parse_recipe, read_recipe
from hubkit.recipe.models import Recipe, Training
from hubkit.server.process import Running
from hubkit.training.arguments import effective
from hubkit_stages.recipes import dpopenhermes_7b, tiny

MISTRAL = ModelSize(
    parameters=7_241_748_480,
    multiplied=7_110_668_288,
    linear=6_979_321_856,
    layers=32,
    hidden=4096,
    intermediate=14_336,
    vocabulary=32_002,
    attention=4096,
    cached=2048,
)
LAPTOP = Device("CPU, 4 cores", "CPU", False, 100e9, 0.35, 10e9, 16 * 10**9, 2e-4, "measured here", 40e9, "float32")
H100 = next(device for device in TABLE if device.short == "H100")


def no_hub() -> Hub:
    raise RemoteError("The Hub cannot be reached.")


# --- formulas


def test_a_forward_pass_by_hand() -> None:
    size = ModelSize(100, 80, 60, layers=2, hidden=4, intermediate=8, vocabulary=5, attention=4, cached=4)
    # 10 tokens x (2 x 80 parameters + 4 x 2 layers x 4 wide x 3 long)
    assert size.forward(10, 3) == 10 * (160 + 96)
    assert (size.bytes("float32"), size.bytes("bfloat16")) == (400, 200)
    assert size.bytes("nf4") == 111, "60 x 0.515875 + 40 x 2, rounded up"


@pytest.mark.parametrize("name", ["llama-3", "llama-3-tied", "gpt-2", "qwen3", "phi-3"])
def test_the_flops_are_those_that_torch_counts(name: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    config = make_config(name, 400, bos=1, eos=2, pad=0)
    size = ModelSize.of(meta.facts_of(json.dumps(config.to_dict()).encode()))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ids = torch.ones(3, 40, dtype=torch.long)
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        model(ids)
    assert counted.get_total_flops() == pytest.approx(size.forward(3 * 40, 40), rel=0.05)


def test_experts_that_a_token_does_not_visit_are_not_multiplied() -> None:
    facts = meta.facts_of(json.dumps(make_config("mixtral", 400, bos=1, eos=2, pad=0).to_dict()).encode())
    size = ModelSize.of(facts)
    assert size.multiplied < size.parameters - facts.count_in_experts // 3


def test_the_size_of_the_large_recipes_base_is_that_of_its_card() -> None:
    config = json.loads(dpopenhermes_7b.SIZES.read_text())["models"]["teknium/OpenHermes-2.5-Mistral-7B"]["config"]
    assert ModelSize.of(meta.facts_of(json.dumps(config).encode())) == MISTRAL


def test_the_memory_of_a_training_step_by_hand() -> None:
    found = training_memory(
        MISTRAL, dtype="bfloat16", quantized=True, trained=10**6, optimizer="paged_adamw_8bit", tokens=100,
        checkpointing=True,
    )  # fmt: skip
    assert (found.adapter, found.gradients, found.optimizer) == (4 * 10**6, 4 * 10**6, 2 * 10**6)
    assert found.weights == MISTRAL.bytes("nf4") < 4.2e9
    assert found.logits == 100 * 32_002 * (2 + 4), "a tile of 100 tokens, in 16 bits and in float32"
    layer = 2 * (10 * 4096 + 3 * 4096 + 2 * 2048 + 6 * 14_336) + 8 * 4096
    assert found.activations == 100 * (32 * 4096 * 2 + layer)
    parts = ("weights", "adapter", "gradients", "optimizer", "activations", "logits")
    assert found.total == LIBRARIES + sum(getattr(found, part) for part in parts)


def test_the_memory_of_keys_and_values_by_hand() -> None:
    found = generation_memory(MISTRAL, 0, batch=2, prompt=10, new=90, dtype="bfloat16")
    assert found.cache == 2 * 100 * 32 * 2048 * 2


def test_padding_is_that_which_was_measured() -> None:
    """Lognormal lengths, 932 tokens a pair, batches of 4 pairs: 1.98 times the tokens."""
    assert padding(8) == pytest.approx(1.98, abs=0.04)
    assert padding(1) == 1


@pytest.mark.parametrize(
    ("name", "size"), [("paged_adamw_8bit", 2), ("adamw_torch", 8), ("adamw_torch_fused", 8), ("sgd", 4)]
)
def test_the_state_of_optimizers(name: str, size: float) -> None:
    assert optimizer_bytes(name) == size


# --- what never gets cheaper

amounts = some.integers(1, 4096)


def work(rows: int = 1000, batch: int = 4, tokens: float = 400, **args: object) -> TrainingWork:
    given = {"per_device_train_batch_size": batch, "num_train_epochs": 1, "max_length": 8192, **args}
    found = training.work_of(Training(uses="dpo", data="pairs", args=given), "mine", Rows(rows, tokens))
    assert found is not None
    return found


def spent(found: TrainingWork, device: Device = H100) -> float:
    return training.seconds(found, MISTRAL, 80_000_000, device)


@given(amounts, amounts)
def test_more_rows_or_longer_ones_never_cost_less(rows: int, more: int) -> None:
    assert spent(work(rows)) <= spent(work(rows + more))
    assert spent(work(tokens=rows)) <= spent(work(tokens=rows + more))


@given(amounts, amounts, some.booleans())
def test_a_larger_batch_or_longer_rows_never_need_less_memory(tokens: int, more: int, checkpointing: bool) -> None:
    def memory(number: int) -> list[int]:
        return [
            activation_bytes(MISTRAL, number, "bfloat16", checkpointing=checkpointing),
            training_memory(
                MISTRAL, dtype="bfloat16", quantized=False, trained=10**7, optimizer="adamw_torch", tokens=number,
                checkpointing=checkpointing,
            ).total,
            generation_memory(MISTRAL, 10**9, 4, number, 64, "bfloat16").total,
            generation_memory(MISTRAL, 10**9, number, 64, 64, "bfloat16").total,
            scoring_memory(MISTRAL, 10**9, 4, number, "bfloat16").total,
        ]  # fmt: skip

    assert all(few <= many for few, many in zip(memory(tokens), memory(tokens + more), strict=True))
    assert activation_bytes(MISTRAL, tokens, "bfloat16", checkpointing=True) <= activation_bytes(
        MISTRAL, tokens, "bfloat16", checkpointing=False
    )


@given(some.integers(1, 512))
def test_more_rows_in_a_batch_are_never_padded_less(rows: int) -> None:
    assert 1 <= padding(rows) <= padding(rows + 1)


def test_a_faster_device_takes_less_and_dpo_more_than_sft() -> None:
    assert spent(work(), replace(H100, flops=2 * H100.flops)) < spent(work())
    assert spent(work(), replace(H100, bandwidth=2 * H100.bandwidth)) < spent(work())
    single = replace(work(), method="sft")
    assert spent(single) < spent(work())
    assert spent(replace(work(), checkpointing=False)) < spent(work()), "activations are not computed again"


def test_packing_pads_nothing() -> None:
    packed = training.work_of(
        Training(uses="sft", data="rows", args={"packing": True, "max_length": 1000, "num_train_epochs": 1}), "mine",
        Rows(1000, 250.0),
    )  # fmt: skip
    assert packed is not None and packed.tokens == pytest.approx(250_000)


@pytest.mark.parametrize("method", ["dpo", "sft"])
def test_what_a_recipe_leaves_out_is_what_trl_sets(method: str) -> None:
    for name, value in training.DEFAULTS[method].items():
        assert effective("dpo" if method == "dpo" else "sft", {}, name) == value, name


# --- the plan of a recipe


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Estimate]:
    """The costs of a recipe on a laptop, with no Hub; the model is asked in this process, not in a child."""
    home = tmp_path / "home"
    monkeypatch.setenv("HUBKIT_HOME", str(home))
    monkeypatch.setattr(asking, "_child", lambda wanted: _answered(wanted))

    def cost(state: ReleaseState, here: Device = LAPTOP) -> Estimate:
        return estimate(state, home, no_hub, here=here)

    return cost


def _answered(wanted: dict[str, object]) -> dict[str, object]:
    measured = {
        "gpu": False, "name": "CPU, 4 cores", "compute": "float32", "memory": 16 * 10**9, "flops": 1e11,
        "bandwidth": 1e10, "call": 2e-4, "single": 4e10, "disk": 1e9, "hashing": 1e9,
    }  # fmt: skip
    config = wanted["config"]
    return {
        "device": measured,
        "model": asking.look(str(config).encode(), wanted["loras"]) if config else None,  # type: ignore[arg-type]
    }


def state_of(recipe: Recipe, folder: Path = Path()) -> ReleaseState:
    return last_state(recipe, folder, None)


def of_file(path: Path) -> ReleaseState:
    file = read_recipe(path)
    return state_of(file.recipe, file.folder)


def shown(found: Estimate, state: ReleaseState, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    for item in cost_lines(found, state.jobs, 50 * 10**9):
        console.print(item, markup=False, highlight=False)
    for item in note_lines(found, found.missing, room.memory_findings(found)):
        console.print(item, markup=False, highlight=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_the_large_recipe_on_an_h100_takes_what_is_known_of_it(planned: Callable[..., Estimate]) -> None:
    """Read off rates of others (hours or minutes on one H100, 7B), and the ten hours of the original release."""
    found = planned(of_file(dpopenhermes_7b.RECIPE))
    known = {
        "base-stopping": (3 * 60, 5 * 60),
        "base-scores": (25 * 60, 35 * 60),
        "train[dpo]": (3.5 * 3600, 5 * 3600),
        "train[sft]": (8 * 60, 12 * 60),
        "stopping[main]": (20 * 60, 25 * 60),
    }
    for job, (least, most) in known.items():
        seconds = found.costs[job]["H100"].seconds
        assert seconds is not None and least / 2 < seconds < most * 2, job
    total = found.seconds("H100")
    assert total is not None and 7 * 3600 < total < 12 * 3600
    memory = found.costs["train[dpo]"]["H100"].memory
    assert memory is not None and 10e9 < memory.total < 22e9, "about 15 GB"
    weights = MISTRAL.bytes("bfloat16")
    assert found.left > 3 * weights, "the base, and the merged weights of two variants"
    assert found.complete and not found.missing
    assert [device.short for device in found.devices] == ["CPU", "4090", "A100", "H100", "H200"]
    order = [found.seconds(device.short) or 0 for device in found.devices]
    assert order == sorted(order, reverse=True)


def test_the_tiny_recipes_table_at_80_columns(planned: Callable[..., Estimate]) -> None:
    state = of_file(tiny.RECIPE)
    text = shown(planned(state), state)
    assert text.startswith(TINY_TABLE)
    assert "- rows: 328 of Intel/orca_dpo_pairs, from the recipe, which makes it; 164 of" in text
    assert "CPU 35 % of 100 GFLOP/s" in text and "Not checked" not in text
    assert max(map(len, text.splitlines())) <= 80


TINY_TABLE = """\
estimated        CPU   4090   A100   H100   H200     RAM    VRAM    disk
provide         25 s   25 s   25 s   25 s   25 s                  2.2 MB
base             2 s    2 s    2 s    2 s    2 s                  2.2 MB
data             7 s    7 s    7 s    7 s    7 s                  475 kB
base-stopping    2 s    1 s    1 s    1 s    1 s  657 MB  657 MB
base-scores      5 s    1 s    1 s    1 s    1 s  676 MB  676 MB
train[dpo]      25 s   13 s   13 s   13 s   13 s  676 MB  661 MB  1.8 MB
train[sft]      16 s   11 s   11 s   11 s   11 s  729 MB  682 MB  1.8 MB
merge (2)        2 s    2 s    2 s    2 s    2 s                  2.8 MB
stopping (2)    10 s    8 s    8 s    8 s    8 s  657 MB  657 MB
evaluate (2)    11 s    2 s    2 s    2 s    2 s  676 MB  676 MB
publish (2)      2 s    2 s    2 s    2 s    2 s                  2.8 MB
loadback (2)     4 s    4 s    4 s    4 s    4 s  653 MB  653 MB  1.4 MB
snippets (2)    21 s   23 s   23 s   23 s   23 s  651 MB  651 MB  1.1 MB
space           23 s   24 s   24 s   24 s   24 s  652 MB  652 MB
sum            3 min  2 min  2 min  2 min  2 min  729 MB  682 MB   12 MB
Disk: 12.3 MB at most, of which 11.0 MB stay; 50.0 GB are free here.
"""


def test_what_is_reused_costs_nothing_and_is_not_listed(planned: Callable[..., Estimate]) -> None:
    state = of_file(tiny.RECIPE)
    before = planned(state)
    state.finished = {job.id: None for job in state.jobs if job.id != "space"}  # type: ignore[misc]
    after = planned(state)
    assert (after.seconds("CPU") or 0) < (before.seconds("CPU") or 0) / 3
    table = shown(after, state)
    assert "space" in table and "train[dpo]" not in table


def test_what_is_found_nowhere_is_missing_and_not_guessed(planned: Callable[..., Estimate]) -> None:
    state = state_of(parse_recipe(RECIPE_TEXT))
    found = planned(state)
    assert not found.complete and found.costs["train[dpo]"]["CPU"].seconds is None
    assert found.missing == (
        "memory and time of all steps with them/base, whose config.json is unknown: The Hub cannot be reached",
        "the rows of them/pairs: The Hub cannot be reached",
    )
    text = shown(found, state)
    assert "s+" in text.split("\nsum")[1].splitlines()[0] and "Not checked:" in text


def test_a_base_in_the_cache_is_known_without_a_hub(planned: Callable[..., Estimate], tmp_path: Path) -> None:
    state = state_of(parse_recipe(RECIPE_TEXT.replace("them/pairs}", "them/pairs, rows: 100}")))
    cached(state.target, "them/base", make_config("llama-3", 400, bos=1, eos=2, pad=0).to_dict())
    found = planned(state)
    assert found.costs["train[dpo]"]["CPU"].seconds is not None
    assert found.missing == ("the time of base-scores and evaluate",) or "tiny_facts" in " ".join(found.missing)
    assert "them/base: config.json as this machine has it in its cache" in found.assumed
    assert any("466 tokens a sequence" in line for line in found.assumed), "an assumption is printed"


def cached(target: Target, repo: str, config: dict[str, object]) -> None:
    folder = target.home / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c0ffee")
    (folder / "snapshots" / "c0ffee").mkdir(parents=True)
    (folder / "snapshots" / "c0ffee" / "config.json").write_text(json.dumps(config))


def test_the_rows_that_a_card_states() -> None:
    card = b"---\ndataset_info:\n  splits:\n  - {name: train, num_examples: 12, num_bytes: 600}\n---\n# Rows\n"
    assert datasets.rows_on_card(card, "train") == datasets.Listed(12, 50.0, "from its card")
    assert datasets.rows_on_card(card, "test").rows is None
    configs = b"---\ndataset_info:\n- splits:\n  - {name: test, num_examples: 7}\n---\n"
    assert datasets.rows_on_card(configs, "test") == datasets.Listed(7, None, "from its card")
    wrong = (
        b"",
        b"# no head",
        b"---\n: [\n---\n",
        b"---\ndataset_info: {splits: [{name: train, num_examples: many}]}\n---\n",
    )
    assert [datasets.rows_on_card(text, "train").rows for text in wrong] == [None] * 4


def test_a_package_that_only_provides_says_nothing_of_the_dataset_of_that_name() -> None:
    own = sources.packages(read_recipe(tiny.RECIPE).recipe)
    assert own[0]["datasets"]["Intel/orca_dpo_pairs"]["rows"] == 328
    others = sources.packages(parse_recipe(RECIPE_TEXT))
    assert [found["datasets"]["Intel/orca_dpo_pairs"]["rows"] for found in others] == [12_859], "not the stand-ins"


def test_the_requests_of_suites() -> None:
    recipe = read_recipe(dpopenhermes_7b.RECIPE).recipe
    whole = benchmarks.work_of(recipe.evaluate, Path())
    assert 100_000 < whole.requests < 200_000 and not whole.unknown
    trial = benchmarks.work_of(recipe.evaluate.model_copy(update={"limit": 10}), Path())
    assert trial.requests < whole.requests / 50
    unknown = benchmarks.work_of(recipe.evaluate.model_copy(update={"suites": ("openllm",)}), Path())
    assert unknown.unknown == ("openllm",)


# --- this device, and what does not fit


def test_a_device_of_the_table_keeps_its_rates_and_another_has_those_measured() -> None:
    measured = _answered({"config": None})["device"]
    assert isinstance(measured, dict)
    assert from_measured(measured) == replace(LAPTOP, flops=1e11, disk=1e9, hashing=1e9)
    gpu = {**measured, "gpu": True, "name": "NVIDIA H100 80GB HBM3", "memory": 79 * 2**30, "compute": "bfloat16"}
    assert from_measured(gpu) == replace(H100, name="NVIDIA H100 80GB HBM3", memory=79 * 2**30, disk=1e9, hashing=1e9)
    assert from_measured({**gpu, "name": "NVIDIA L40S"}).source == "measured here"
    assert [device.short for device in devices.others(H100)] == ["4090", "A100", "H200"]


def test_a_step_that_does_not_fit_is_refused_with_figures_and_what_to_lower(planned: Callable[..., Estimate]) -> None:
    state = of_file(dpopenhermes_7b.RECIPE)
    small = planned(state, replace(H100, short="mine", name="A GPU", memory=4 * 10**9))
    errors = {finding.message.split()[0]: finding for finding in room.memory_findings(small)}
    assert all(finding.level == "error" for finding in errors.values())
    assert "this device (A GPU) has 4.0 GB" in errors["train[dpo]"].message
    assert "weights 4." in errors["train[dpo]"].message
    assert "stages.dpo.args.per_device_train_batch_size" in (errors["train[dpo]"].hint or "")
    assert "nf4" not in (errors["train[dpo]"].hint or ""), "it is in 4 bits already"
    assert any("gates.stop_rate.batch_size" in (finding.hint or "") for finding in errors.values())
    assert len(errors) == 7, "once for each kind of work"
    near = planned(state, replace(H100, short="mine", memory=24 * 10**9))
    assert {finding.level for finding in room.memory_findings(near)} == {"warning"}
    assert not list(room.memory_findings(planned(state, H100)))


def test_a_disk_that_is_too_small_is_refused(planned: Callable[..., Estimate], monkeypatch: pytest.MonkeyPatch) -> None:
    found = planned(of_file(dpopenhermes_7b.RECIPE), H100)
    for free, levels in ((100 * 10**9, []), (62 * 10**9, ["warning"]), (20 * 10**9, ["error"])):
        monkeypatch.setattr(room, "free_bytes", lambda home, free=free: free)
        assert [finding.level for finding in room.room_findings(found, Path("/home"))] == levels, free


def test_preflight_estimates_a_large_base_alone(planned: Callable[..., Estimate], tmp_path: Path) -> None:
    text = RECIPE_TEXT.replace("them/pairs}", "them/pairs, rows: 100}")
    state = state_of(parse_recipe(text))
    cached(state.target, "them/base", make_config("llama-3", 400, bos=1, eos=2, pad=0).to_dict())
    assert preflight.costs_of(state, None) is None and preflight.costs_of(state, 2_000_000) is None
    found = preflight.costs_of(state, 60_000_000)
    assert found is not None and found.sized
    assert preflight.bytes_needed(state, found, 60_000_000) == 200_000_000 + found.disk
    assert preflight.bytes_needed(state, None, 60_000_000) == 200_000_000 + 5 * 60_000_000


def test_what_was_asked_once_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def child(wanted: dict[str, object]) -> dict[str, object]:
        asked.append(wanted)
        return _answered(wanted)

    monkeypatch.setattr(asking, "_child", child)
    config = json.dumps(make_config("llama-3", 400, bos=1, eos=2, pad=0).to_dict()).encode()
    first = asking.ask(tmp_path, config, {"dpo": {"r": 2, "target_modules": "all-linear"}}, lambda text: None)
    assert asking.ask(tmp_path, config, {"dpo": {"r": 2, "target_modules": "all-linear"}}, lambda text: None) == first
    assert len(asked) == 1
    asking.ask(tmp_path, config, {"dpo": {"r": 4, "target_modules": "all-linear"}}, lambda text: None)
    assert len(asked) == 2, "another adapter"
    device, model = first
    assert device is not None and model is not None and model.size is not None
    assert model.trained is not None and model.trained["dpo"] > 0


def test_the_child_measures_this_machine(tmp_path: Path) -> None:
    device, model = asking.ask(tmp_path, None, {}, lambda text: None)
    assert model is None and device is not None
    figures = asdict(device)
    assert all(figures[name] > 0 for name in ("flops", "bandwidth", "memory", "call", "disk", "hashing"))


def test_sizes_that_this_machine_lacks_are_read_from_the_hub(
    hub: Running, tmp_path: Path, planned: Callable[..., Estimate]
) -> None:
    connected = connect(target_of(hub, tmp_path))
    config = json.dumps(make_config("llama-3", 400, bos=1, eos=2, pad=0).to_dict())
    card = "---\ndataset_info:\n  splits: [{name: train, num_examples: 77}]\n---\n# Pairs\n"
    for repo, kind, name, text in (
        ("hubkit/base", "model", "config.json", config),
        ("hubkit/pairs", "dataset", "README.md", card),
        ("hubkit/chats", "dataset", "data/train.jsonl", json.dumps({"text": "x" * 90}) + "\n"),
    ):
        folder = tmp_path / repo.replace("/", "-")
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text * (5000 if name.endswith("jsonl") else 1))
        connected.ensure_repo(repo, "public", kind)  # type: ignore[arg-type]
        connected.upload_folder(repo, folder, title="Rows", repo_type=kind)  # type: ignore[arg-type]
    text = RECIPE_TEXT.replace("them/", "hubkit/").replace(", rows: 300", "")
    state = state_of(parse_recipe(text))
    found = estimate(state, tmp_path / "home", lambda: connected, here=LAPTOP)
    notes = " ".join(found.assumed)
    assert "77 of hubkit/pairs, from its card; about 5,000 of hubkit/chats, by the size of its files" in notes
    assert "data.repair: about 21 tokens a sequence, by the bytes of its rows" in notes, "104 bytes a row"
    assert "data.preferences: 466 tokens" in notes
    assert found.costs["train[sft]"]["CPU"].seconds is not None and found.sized


def test_a_step_is_not_refused_for_lengths_that_nobody_counted() -> None:
    stage = Training(uses="sft", data="rows", args={"max_length": 4096, "per_device_train_batch_size": 16})
    guessed, counted = (training.work_of(stage, "mine", Rows(100, 466, basis)) for basis in ("assumed", "counted"))
    assert guessed is not None and counted is not None
    certain = [training.memory(each, MISTRAL, 10**7, LAPTOP, longest=False).activations for each in (guessed, counted)]
    assert certain[0] == pytest.approx(certain[1] / 4, rel=0.01)
    longest = [training.memory(each, MISTRAL, 10**7, LAPTOP).total for each in (guessed, counted)]
    assert longest[0] == longest[1], "the warning is about the longest rows"


def test_the_memory_of_training_all_the_weights_by_hand() -> None:
    """In float32 and once more as autocast holds them; with their gradients, Adam's state, and the reference of DPO."""
    count = MISTRAL.parameters

    def memory(uses: str, device: Device = H100, **args: object) -> Memory:
        stage = Training(uses=uses, data="rows", lora="none", args={"max_length": 1024, **args})
        assert stage.quantization == "none"
        found = training.work_of(stage, "mine", Rows(100, 466))
        assert found is not None
        return training.memory(found, MISTRAL, count, device)

    sft, dpo = memory("sft"), memory("dpo")
    assert (sft.adapter, sft.gradients, sft.optimizer) == (0, 4 * count, 8 * count)
    assert sft.weights == pytest.approx((4 + 2) * count, rel=0.01)
    assert dpo.weights == pytest.approx((4 + 2 + 2) * count, rel=0.01)
    assert memory("dpo", precompute_ref_log_probs=True).weights == sft.weights
    assert memory("sft", LAPTOP).weights == pytest.approx(4 * count, rel=0.01), "a CPU trains in float32 itself"
