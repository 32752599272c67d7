"""A training that is watched: its curves, the probe and its budget, what trackers leave, and who is ended by it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_case import recipe_text
from watched_recipe import recipe, settings

from hubkit.core.errors import RefusedError
from hubkit.core.files import write_json
from hubkit.core.target import Target
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Probe
from hubkit.recipe.stage import Context, Scope
from hubkit.training import checkpoints, checks
from hubkit.training.contract import Settings
from hubkit.training.watching import callback, stopping, watched
from hubkit.training.watching.curves import MOST, Curves, bounded, read_curves
from hubkit.training.watching.probe import StopProbe, undisturbed
from hubkit.training.watching.schedule import Schedule
from hubkit.training.watching.spent import Spent


def test_the_probe_is_on_with_the_token_limit_of_the_gate_and_shapes_nothing() -> None:
    plain, asked, off = (
        settings(),
        settings("    probe: {every: 5, max_new_tokens: 9, stop_below: 0.5}\n"),
        settings("    probe: none\n"),
    )
    assert plain.probe is not None and (plain.probe.every, plain.probe.max_new_tokens) == (50, 256)
    assert asked.probe is not None and (asked.probe.every, asked.probe.max_new_tokens) == (5, 9)
    assert off.probe is None
    assert plain.counted() == asked.counted() == off.counted()
    low = parse_recipe(recipe_text().replace("prompts_from: repair", "prompts_from: repair, max_new_tokens: 20"))
    assert Settings.of(low, Scope(Path(), training="dpo")).probe == Probe(max_new_tokens=20)


@pytest.mark.parametrize(("config", "probe", "refused"), [
    ("distributed_type: FSDP", "{every: 5}", True), ("distributed_type: FSDP", "none", False),
    ("distributed_type: MULTI_GPU", "{every: 5}", False), ("distributed_type: FSDP", "{}", False),
])  # fmt: skip
def test_a_probe_is_refused_where_no_process_has_all_weights(
    config: str, probe: str, refused: bool, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(config)
    launched = recipe(f"    launch: {{config: a.yaml, processes: 2}}\n    probe: {probe}\n")
    found = list(checks.probe_findings(Settings.of(launched, Scope(tmp_path, training="dpo"))))
    text = "stages.dpo.probe: the stop rate cannot be probed with FSDP: no process has all weights."
    assert [(item.message, item.exit_code) for item in found] == ([(text, 2)] if refused else [])


@pytest.mark.parametrize(("cost", "share"), [(0.1, 0.02), (3.0, 0.02), (30.0, 0.02), (1.0, 0.5), (500.0, 0.02)])
def test_all_probes_together_take_no_more_than_their_share(cost: float, share: float) -> None:
    steps, pace = 2000, 1.0
    schedule, asked = Schedule(50, share, steps), []
    spent = 0.0
    for step in range(2, steps + 1):
        whole = steps * pace + spent
        if schedule.is_due(step, whole):
            asked.append(step)
            took = min(cost, schedule.allowance(whole))  # it is cut off there
            spent += took
            schedule.took(step, took, whole)
    assert spent <= share * (steps * pace + spent) + 1e-9
    affordable = min(41, int(share * steps / cost))
    assert min(affordable, 2) <= len(asked) <= affordable + 1
    if asked:
        assert asked[0] == 2, "the first one shows what the later ones are compared with"
    if affordable >= 2:
        assert spent + cost <= share * (steps * pace + spent + cost) + 1e-9, "the one at the end is within it, too"
        gaps = [after - before for before, after in pairwise(asked)]
        assert max(gaps) <= 2 * max(50, steps / affordable), "they are spread over the training"
        assert all(step % 50 == 0 for step in asked[1:])


def test_a_step_is_asked_once_and_the_last_one_is_asked_at_the_end() -> None:
    schedule = Schedule(50, 0.5, 120)
    asked = []
    for step in range(2, 121):
        if schedule.is_due(step, 120.0):
            schedule.took(step, 0.1, 120.0)
            asked.append(step)
            assert not schedule.is_due(step, 120.0)
    assert asked == [2, 50, 100]
    assert schedule.allowance_at_end(120.0) == 60.0 and schedule.allowance_at_end(1000.0) == pytest.approx(499.7)


def test_a_resumed_training_asks_when_it_would_have_without_the_interruption() -> None:
    schedule = Schedule(50, 0.5, 400)
    schedule.resume(100, 0.5, 1.5)
    assert not any(schedule.is_due(step, 400.0) for step in range(121, 150))
    assert schedule.is_due(150, 400.0) and schedule.allowance(400.0) == 198.5


def test_random_states_modes_and_buffers_are_put_back() -> None:
    import numpy as np
    import torch

    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(2))
    model[0].eval()
    kept = model[1].running_mean
    states = random.random(), float(np.random.rand()), float(torch.rand(1))

    def next_numbers() -> tuple[float, ...]:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        with undisturbed(model):
            random.random(), np.random.rand(), torch.rand(3)
            model.train()
            model[1].running_mean = torch.ones(2)
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), float(np.random.rand()), float(torch.rand(1))
    assert next_numbers() == expected != states
    assert [module.training for module in model] == [False, True]
    assert model[1].running_mean is kept


class Tokenizer:
    """Words are tokens of one letter."""

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return "".join(message["content"] for message in messages)

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


@dataclass
class Rows:
    prompts: list[dict[str, Any]] = field(default_factory=list)

    def held_out(self, most: int) -> list[dict[str, Any]]:
        return self.prompts[:most]


def test_held_out_prompts_are_asked_the_long_ones_last_and_hubkits_own_where_there_are_none() -> None:
    turn: Any = SimpleNamespace(id=0)
    rows: Any = Rows([{"messages": [{"role": "user", "content": text}]} for text in ("b" * 2000, "a", "c" * 1500, "d")])
    probe = StopProbe.of(rows, Tokenizer(), turn, prompts=3, max_new_tokens=5)
    assert [len(ids) for ids in probe.prompts] == [1, 1, 1500]
    nothing: Any = Rows()
    own = StopProbe.of(nothing, Tokenizer(), turn, prompts=3, max_new_tokens=5)
    assert len(own.prompts) == 3 and all(len(ids) > 5 for ids in own.prompts)


def test_a_resumed_training_has_no_point_twice(tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    curves = Curves(path, "dpo", "dpo", 40)
    for step in range(2, 21, 2):
        curves.add(step, step / 2, {"loss": 1 / step, "epoch": 0.1, "words": "no number", "bad": float("nan")})
        curves.add(step, step / 2, {"eval_loss": 2.0})
    curves.add_probe(10, {"stopped": 1, "prompts": 2, "rate": 0.5, "seconds": 0.1})
    curves.add_probe(20, {"stopped": 0, "prompts": 2, "rate": 0.0, "seconds": 0.1})
    curves.write()
    again = Curves.resumed(path, 12, "dpo", "dpo")
    assert [point["step"] for point in again.points] == [2, 4, 6, 8, 10, 12]
    assert [point["step"] for point in again.probes] == [10]
    assert again.points[0] == {"step": 2, "seconds": 1.0, "loss": 0.5, "epoch": 0.1, "eval_loss": 2.0}
    assert Curves.resumed(path, 0, "dpo", "dpo").points == []
    assert Curves.resumed(tmp_path / "none", 12, "dpo", "dpo").points == []


def test_curves_stay_small_and_keep_their_shape(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "curves.json")
    for step in range(1, 10_001):
        curves.add(step, step * 0.1, {"loss": 10_000.0 - step})
    assert MOST / 2 <= len(curves.points) <= MOST
    assert curves.points[-1]["step"] == 10_000 and curves.points[-1]["seconds"] == 1000.0
    assert max(after["step"] - before["step"] for before, after in pairwise(curves.points)) <= 32, (
        "also at its beginning"
    )
    assert all(abs(point["loss"] - (10_000 - point["step"])) < 32 for point in curves.points)
    assert sum(point.get("merged", 1) for point in curves.points) == 10_000
    probes = [{"step": 1, "seconds": 1.0, "rate": 1.0}, {"step": 2, "seconds": 3.0, "rate": 0.0}]
    assert bounded([*probes, {"step": 3, "seconds": 3.0, "rate": 0.5}], 2) == [
        {"step": 3, "seconds": 3.0, "rate": 0.5, "merged": 3}
    ]


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "points": 3}', '{"format": 1}'])
def test_a_file_that_holds_no_curves_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "curves.json").write_text(content)
    assert read_curves(tmp_path / "curves.json") is None
    assert read_curves(tmp_path / "none") is None


def context(tmp_path: Path, probe: str) -> Context[Any, Any]:
    inputs: Any = None
    return Context(
        settings(probe), inputs, Target("http://127.0.0.1:1", tmp_path), tmp_path / "out", tmp_path / "scratch"
    )


def checkpoint(ctx: Context[Any, Any], step: int) -> Path:
    folder = ctx.scratch / "checkpoints" / f"checkpoint-{step}"
    write_json(folder / checkpoints.SPENT, {"seconds": 1.0, "peak_memory_bytes": 1})
    checkpoints.seal(folder)
    return folder


class Scripted:
    """A probe whose answers are known."""

    def __init__(self, *rates: float | Exception | None) -> None:
        self.rates = list(rates)

    def ask(self, model: Any, seconds: float) -> Any:
        rate = self.rates.pop(0)
        if isinstance(rate, Exception):
            raise rate
        if rate is None:
            return None
        return {"stopped": round(16 * rate), "prompts": 16, "rate": rate, "mean_tokens": 9.0, "seconds": 0.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the callback, in seconds."""
    now = [0.0]
    monkeypatch.setattr(watched, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def steps_of(
    clock: list[float], ctx: Context[Any, Any], probe: Any, curves: Curves, steps: range, save_every: int = 4
) -> None:
    """What a trainer calls: each step, a checkpoint where one is due or asked for, and a summary after the last step.

    A step takes a second.
    """
    watch = callback.watch(ctx, Spent(began=0.0), curves, probe)
    args = SimpleNamespace(output_dir=str(ctx.scratch / "checkpoints"), world_size=1)
    state = SimpleNamespace(global_step=0, max_steps=40, is_world_process_zero=True)
    watch.on_train_begin(args, state, None)
    for step in steps:
        control, state.global_step, clock[0] = SimpleNamespace(should_save=False), step, float(step)
        watch.on_step_end(args, state, control, model=None)
        watch.on_log(args, state, control, logs={"loss": 0.5, "num_tokens": 100.0 * step})
        if control.should_save or step % save_every == 0:
            checkpoint(ctx, step)
            watch.on_save(args, state, control)
    if state.global_step == state.max_steps:
        watch.on_log(args, state, None, logs={callback.SUMMARY: 1.0}, model=None)


PROBE = "    probe: {every: 5, stop_below: 0.5, max_share: 1.0, max_new_tokens: 32}\n"


def test_a_rate_that_falls_ends_the_training_with_the_last_good_checkpoint(tmp_path: Path, clock: list[float]) -> None:
    ctx, curves = context(tmp_path, PROBE), Curves(tmp_path / "curves.json")
    with pytest.raises(RefusedError) as ended:
        steps_of(clock, ctx, Scripted(1.0, 1.0, 0.9375, 0.25), curves, range(1, 41))
    assert ended.value.exit_code == 3
    assert ended.value.message == (
        "Training 'dpo' was ended after step 15: its stop rate fell from 93.8 % (step 10) to 25.0 %: 4 of 16 answers "
        "ended within 32 tokens. `stop_below` is 50.0 %. Last good checkpoint: "
        f"{ctx.scratch / 'good' / 'checkpoint-10'}."
    )
    assert "stages.dpo.probe.stop_below" in str(ended.value.hint)
    kept = checkpoints.last_complete(ctx.scratch / stopping.GOOD)
    assert kept is not None and kept.name == "checkpoint-10", "a good probe is followed by a checkpoint"
    found = read_curves(curves.path)
    assert found is not None and [point["rate"] for point in found.probes] == [1.0, 1.0, 0.9375, 0.25]
    assert found.points[-1]["step"] == 14 and found.points[-1]["tokens_per_second"] > 0
    with pytest.raises(RefusedError, match="was ended after step 15"):
        stopping.refuse_again(ctx)
    lower = context(tmp_path, PROBE.replace("0.5", "0.2"))
    stopping.refuse_again(lower)
    stopping.refuse_again(ctx)  # what was decided is forgotten once the probe was changed


def test_a_checkpoint_that_was_good_outlives_those_that_push_it_out(tmp_path: Path, clock: list[float]) -> None:
    import shutil

    ctx, curves = context(tmp_path, PROBE), Curves(tmp_path / "curves.json")
    steps_of(clock, ctx, Scripted(1.0, 1.0), curves, range(1, 10))
    shutil.rmtree(ctx.scratch / "checkpoints")
    checkpoint(ctx, 9)
    curves.add_probe(9, {"stopped": 0, "prompts": 16, "rate": 0.0, "seconds": 0.1})
    with pytest.raises(RefusedError, match=r"Last good checkpoint: .*good/checkpoint-5\."):
        stopping.judge(ctx, curves)


def test_a_repair_that_begins_low_is_not_ended(tmp_path: Path, clock: list[float]) -> None:
    curves = Curves(tmp_path / "curves.json")
    steps_of(
        clock, context(tmp_path, PROBE), Scripted(0.0, 0.1, 0.4, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0), curves, range(1, 41)
    )
    assert [point["step"] for point in curves.probes] == [2, 5, 10, 15, 20, 25, 30, 35, 40]


SELDOM = PROBE.replace("every: 5", "every: 100")


def test_the_rate_of_the_last_step_is_measured_in_any_case_and_can_end_the_run(
    tmp_path: Path, clock: list[float]
) -> None:
    short = SELDOM.replace("max_share: 1.0", "max_share: 0.00001")
    ctx, curves = context(tmp_path, short), Curves(tmp_path / "curves.json")
    steps_of(clock, ctx, Scripted(0.875), curves, range(1, 41))
    assert [(point["step"], point["rate"]) for point in curves.probes] == [(40, 0.875)], "there was no time for others"
    curves = Curves(tmp_path / "curves.json")
    with pytest.raises(RefusedError, match=r"ended after step 40: its stop rate fell from 100 % \(step 2\) to 25.0 %"):
        steps_of(clock, context(tmp_path, SELDOM), Scripted(1.0, 0.25), curves, range(1, 41))
    for threshold, ends in (("0.4", True), ("0.2", False)):
        changed = context(tmp_path, SELDOM.replace("stop_below: 0.5", f"stop_below: {threshold}"))
        stopping.refuse_again(changed)
        watch = callback.watch(changed, Spent(began=0.0), curves, Scripted())
        state = SimpleNamespace(global_step=40, max_steps=40, is_world_process_zero=True)
        expected: Any = RefusedError if ends else callback.CompleteError
        with pytest.raises(expected):
            watch.on_train_begin(SimpleNamespace(world_size=1), state, None, model=None)
    assert len(curves.probes) == 2, "it is asked once"


def test_a_probe_that_no_time_suffices_for_is_said(tmp_path: Path, clock: list[float]) -> None:
    curves = Curves(tmp_path / "curves.json")
    steps_of(clock, context(tmp_path, SELDOM), Scripted(None, None), curves, range(1, 41))
    assert (curves.probes, curves.off) == ([], "one takes longer than 1 min 00 s")


def test_a_probe_that_fails_is_given_up_and_the_training_goes_on(tmp_path: Path, clock: list[float]) -> None:
    curves = Curves(tmp_path / "curves.json")
    steps_of(clock, context(tmp_path, PROBE), Scripted(None, 1.0, ValueError("no cache")), curves, range(1, 41))
    assert [point["step"] for point in curves.probes] == [5]
    assert curves.off == "it failed: ValueError: no cache"


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({}, ""),
        ({2: 0.0}, "  stop rate 0 % at step 2"),
        ({2: 1.0, 10: 0.25}, "  stop rate 100 % → 25.0 % at step 10"),
        ({2: 0.0, 30: 0.5, 40: 1.0}, "  stop rate 0 % → 100 %"),
        ({40: 1.0}, "  stop rate 100 %"),
    ],
)
def test_the_line_of_a_training_says_after_which_step_its_last_rate_was(rates: dict[int, float], said: str) -> None:
    assert watched.stop_rates([{"step": step, "rate": rate} for step, rate in rates.items()], 40) == said
