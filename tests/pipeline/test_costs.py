"""The cost model: its formulas on examples computed by hand, what must never get cheaper, and what a plan says."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from architectures import make_config
from cost_samples import H100, LAPTOP, MISTRAL, work
from releases import target_of
from rich.console import Console
from samples import RECIPE_TEXT

from hubkit.cli.costs import cost_lines, note_lines
from hubkit.cli.recipes import last_state
from hubkit.core.errors import RemoteError
from hubkit.core.target import Target
from hubkit.hub.client import Hub, connect
from hubkit.pipeline import preflight
from hubkit.pipeline.costs import asking, benchmarks, datasets, devices, room, sources, training
from hubkit.pipeline.costs.devices import Device, from_measured
from hubkit.pipeline.costs.estimate import Estimate, estimate
from hubkit.pipeline.costs.formulas import (
    ModelSize,
)
from hubkit.pipeline.costs.sources import Rows
from hubkit.pipeline.costs.speedups import Speedups
from hubkit.pipeline.release_state import ReleaseState
from hubkit.recipe.loading import load_recipe, parse_recipe, read_recipe
from hubkit.recipe.models import Recipe, Training
from hubkit.server.process import Running
from hubkit.training.arguments import effective
from hubkit.training.pairs.reference import libraries
from hubkit.training.pairs.store import FOLDER, Store
from hubkit_stages.recipes import dpopenhermes_7b, tiny

FIXED = Path(__file__).parents[1] / "data/recipes/dpopenhermes-7b-before-license.yaml"
"""The large recipe with batches of a fixed size."""


DOCS = Path(__file__).parents[2] / "docs"


def no_hub() -> Hub:
    raise RemoteError("The Hub cannot be reached.")


@pytest.mark.parametrize("method", ["dpo", "sft"])
def test_what_a_recipe_leaves_out_is_what_trl_sets(method: str) -> None:
    for name, value in training.DEFAULTS[method].items():
        assert effective("dpo" if method == "dpo" else "sft", {}, name) == value, name


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
    recipe = load_recipe(dpopenhermes_7b.RECIPE)
    stock = recipe.stages["dpo"].model_copy(update={"speedups": "none"})
    stages = {**recipe.stages, "dpo": stock}
    found = planned(state_of(recipe.model_copy(update={"stages": stages}), dpopenhermes_7b.RECIPE.parent))
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
    assert memory is not None and 7e9 < memory.total < 22e9, "a pair of the longest"
    weights = MISTRAL.bytes("bfloat16")
    assert found.left > 3 * weights, "the base, and the merged weights of two variants"
    assert found.complete and not found.missing
    assert [device.short for device in found.devices] == ["CPU", "4090", "A100", "H100", "H200"]
    order = [found.seconds(device.short) or 0 for device in found.devices]
    assert order == sorted(order, reverse=True)
    faster = planned(of_file(dpopenhermes_7b.RECIPE))
    before, after = (item.costs["train[dpo]"]["H100"].seconds or 0 for item in (found, faster))
    assert 2 < before / after < 3.5
    assert any("dpo: a second run on the same pairs takes 3" in line for line in faster.assumed)
    assert not any("second run" in line for line in found.assumed)


def test_the_time_of_dpo_promises_no_more_than_the_benchmark_beside_stock_trl_has_shown() -> None:
    """And not much less: the arithmetic leaves out that only answers pass the output layer."""
    text = (DOCS / "bench-training.md").read_text()

    def number(pattern: str) -> float:
        found = re.search(pattern, text)
        assert found is not None, pattern
        return float(found[1])

    rows, padded = int(number(r"adapter, (\d+) pairs")), number(r"make (\d\.\d+) times as many by padding")
    assert number(r"no padding (\d\.\d+) times as many are computed") == pytest.approx(training.ONCE, abs=0.03)
    size = ModelSize(
        parameters=20_000_000, multiplied=17_000_000, linear=13_900_000, layers=9, hidden=384, intermediate=1024,
        vocabulary=8192, attention=384, cached=128,
    )  # fmt: skip
    device = replace(LAPTOP, bandwidth=1e15, call=0.0)
    found = replace(work(rows=rows, batch=4, tokens=100), longest=100 * padded)
    ways = [replace(found, once=False), found, replace(found, known="cpu")]
    idle = training.START + rows / training.ROWS_A_SECOND
    stock, first, second = (training.seconds(way, size, size.parameters // 50, device) - idle for way in ways)
    for one, measured in ((first, r"measured (\d\.\d+) and"), (second, r"measured \d\.\d+ and (\d\.\d+)\.")):
        assert 0.7 < stock / one / number(measured) < 1.1


@pytest.mark.parametrize(
    ("config", "stage", "once"),
    [
        ({}, {}, True),
        ({"sliding_window": 4096}, {}, False),
        ({"sliding_window": 4096, "use_sliding_window": False}, {}, True),
        ({"text_config": {"attention_dropout": 0.1}}, {}, False),
        ({"layer_types": ["full_attention", "linear_attention"]}, {}, False),
        ({}, {"speedups": "none"}, False),
        ({}, {"args": {"neftune_noise_alpha": 5}}, False),
        ({}, {"uses": "sft"}, False),
    ],
)
def test_prompts_are_computed_once_where_the_base_and_the_stage_let_them(
    config: dict[str, object], stage: dict[str, Any], once: bool, tmp_path: Path
) -> None:
    args = {"max_length": 8192, **stage.pop("args", {})}
    recipe = load_recipe(dpopenhermes_7b.RECIPE)
    given = recipe.stages["dpo"].model_copy(update={"args": args, **stage})
    recipe = recipe.model_copy(update={"stages": {**recipe.stages, "dpo": given}})
    found = training.work_of(given, "dpo", Rows(100, 400))
    applied = Speedups.of(json.dumps(config).encode(), tmp_path).applied(found, recipe, "dpo")
    assert applied is not None and applied.once is once
    unknown = Speedups.of(None, tmp_path).applied(found, recipe, "dpo")
    assert unknown is not None and not unknown.once


def test_a_reference_that_is_known_is_not_computed_again(tmp_path: Path) -> None:
    recipe = load_recipe(dpopenhermes_7b.RECIPE)
    key = {
        "base": {"repo": recipe.base.repo},
        "reference": None,
        "quantization": "nf4",
        "all_weights": False,
        "libraries": libraries(),
    }
    for device, versions in (("cpu", libraries()), ("cuda", {**libraries(), "torch": "1.0"})):
        store = Store(tmp_path / FOLDER, {**key, "device": device, "libraries": versions})
        for number in range(100):
            store.add(number.to_bytes(16, "big"), (1.0, 2.0))
        store.flush()
    Store(tmp_path / FOLDER, {**key, "device": "cuda", "base": {"repo": "another/base"}})
    (tmp_path / FOLDER / "torn").mkdir()
    (tmp_path / FOLDER / "torn" / "key.json").write_text("{")
    known = Speedups.of(b"{}", tmp_path)
    for rows, device in ((100, "cpu"), (200, None)):  # 0.6 epochs
        found = known.applied(training.work_of(recipe.stages["dpo"], "dpo", Rows(rows, 400)), recipe, "dpo")
        assert found is not None and found.known == device
        assert found.asks_reference(H100) and found.asks_reference(LAPTOP) is (device is None)


def test_the_tiny_recipes_table_at_80_columns(planned: Callable[..., Estimate]) -> None:
    state = of_file(tiny.RECIPE)
    text = shown(planned(state), state)
    assert text.startswith(TINY_TABLE)
    assert "- rows: 328 of Intel/orca_dpo_pairs, from the recipe, which makes it; 164 of" in text
    assert "CPU 35.0 % of 100 GFLOP/s" in text and "Not checked" not in text
    assert max(map(len, text.splitlines())) <= 80


TINY_TABLE = """\
estimated        CPU   4090   A100   H100   H200     RAM    VRAM    disk  upload
provide         25 s   25 s   25 s   25 s   25 s                  2.2 MB
base             2 s    2 s    2 s    2 s    2 s                  2.2 MB
data             7 s    7 s    7 s    7 s    7 s                  475 kB
base-stopping    2 s    1 s    1 s    1 s    1 s  657 MB  657 MB
base-scores      5 s    1 s    1 s    1 s    1 s  676 MB  676 MB
train[dpo]      19 s   13 s   13 s   13 s   13 s  676 MB  661 MB  1.8 MB
train[sft]      16 s   11 s   11 s   11 s   11 s  729 MB  682 MB  1.8 MB
merge (2)        2 s    2 s    2 s    2 s    2 s                  2.8 MB
stopping (2)    10 s    8 s    8 s    8 s    8 s  657 MB  657 MB
evaluate (2)    11 s    2 s    2 s    2 s    2 s  676 MB  676 MB
publish (2)      2 s    2 s    2 s    2 s    2 s                  2.8 MB  2.8 MB
loadback (2)     4 s    4 s    4 s    4 s    4 s  653 MB  653 MB  1.4 MB
snippets (2)    21 s   23 s   23 s   23 s   23 s  651 MB  651 MB  1.1 MB
space           23 s   24 s   24 s   24 s   24 s  652 MB  652 MB
sum            3 min  2 min  2 min  2 min  2 min  729 MB  682 MB   12 MB  2.8 MB
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


def test_a_device_of_the_table_keeps_its_rates_and_another_has_those_measured() -> None:
    measured = _answered({"config": None})["device"]
    assert isinstance(measured, dict)
    assert from_measured(measured) == replace(LAPTOP, flops=1e11, disk=1e9, hashing=1e9)
    gpu = {**measured, "gpu": True, "name": "NVIDIA H100 80GB HBM3", "memory": 79 * 2**30, "compute": "bfloat16"}
    assert from_measured(gpu) == replace(H100, name="NVIDIA H100 80GB HBM3", memory=79 * 2**30, disk=1e9, hashing=1e9)
    assert from_measured({**gpu, "name": "NVIDIA L40S"}).source == "measured here"
    assert [device.short for device in devices.others(H100)] == ["4090", "A100", "H200"]


def test_a_step_that_does_not_fit_is_refused_with_figures_and_what_to_lower(planned: Callable[..., Estimate]) -> None:
    state = of_file(FIXED)
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
