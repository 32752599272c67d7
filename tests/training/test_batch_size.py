"""`per_device_train_batch_size: auto`: what is found, that finding it leaves no trace, and that a resume keeps it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from training_case import Case, recipe_text

from hubkit.core.files import digests, read_json
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.stage import silent
from hubkit.training import batch_size, checkpoints, checks, probe
from hubkit.training.batch_size import Batches
from hubkit.training.checkpoints import by_time
from hubkit.training.launching import ranks
from hubkit.training.probe import Arithmetic, best

COMMON = "max_steps: 2, max_length: 64, learning_rate: 1e-3, logging_steps: 1"
AUTO = f"{COMMON}, per_device_train_batch_size: auto"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("auto")).prepare()


def stage(args: str, rows: int | None) -> str:
    text = recipe_text(dpo=args, quantization="none")
    return text.replace(f"args: {{{args}}}", f"args: {{{args}}}\n    batch_size: {rows}", 1) if rows else text


class Limited:
    """A device that holds so many rows, without and with gradient checkpointing, at these seconds a row."""

    def __init__(self, without: int, with_: int, seconds: tuple[float, float] = (3.0, 4.0)) -> None:
        self.most, self.seconds, self.tried = {False: without, True: with_}, seconds, 0

    def fits(self, rows: int, *, checkpointing: bool) -> bool:
        self.tried += 1
        return rows <= self.most[checkpointing]

    def seconds_a_row(self, rows: int, *, checkpointing: bool) -> float:
        return self.seconds[checkpointing]


@pytest.mark.parametrize(
    ("device", "found"),
    [
        (Limited(64, 64), (8, False)),
        (Limited(3, 64), (2, False)),
        (Limited(1, 64, (9.0, 4.0)), (8, True)),  # one row at a time does not fill it
        (Limited(0, 4), (4, True)),
        (Limited(0, 0), None),
    ],
)
def test_the_fastest_batch_that_fits_is_taken(device: Limited, found: tuple[int, bool] | None) -> None:
    assert best(device, [1, 2, 4, 8], (False, True)) == found


def test_nothing_more_is_tried_once_all_rows_fit_without_checkpointing() -> None:
    device = Limited(64, 64)
    best(device, [1, 2, 4, 8], (False, True))
    assert device.tried == 4


def test_arithmetic_finds_more_rows_for_more_memory_and_for_recomputed_activations(case: Case) -> None:
    size = probe.ModelSize.of(probe.facts_of((case.folder / "base-model" / "config.json").read_bytes()))
    one = Arithmetic(size, "float32", 128, 4e7, 0.0)
    most = {way: max(rows for rows in range(1, 200) if one.fits(rows, checkpointing=way)) for way in (False, True)}
    assert most[True] > most[False] > 1
    twice = Arithmetic(size, "float32", 128, 8e7, 0.0)
    assert twice.fits(2 * most[False], checkpointing=False)
    assert not Arithmetic(size, "float32", 128, 4e7, 4e7).fits(1, checkpointing=True)


def test_a_cpu_is_given_the_batch_of_the_recipe_at_once_and_it_is_reported(case: Case) -> None:
    found = case.train("dpo", stage(AUTO, 8)).path
    chosen = read_json(found / "training.json")["batches"]
    assert (chosen["per_device"], chosen["accumulation"], chosen["checkpointing"]) == (8, 1, False)
    assert chosen["chosen_by"].startswith("computed for rows of ")
    plain = case.train("dpo", stage(f"{COMMON}, per_device_train_batch_size: 8", None), key="plain").path
    assert read_json(plain / "training.json")["batches"]["chosen_by"] == "the recipe"
    assert digests(found / "adapter" / "adapter_model.safetensors") == digests(
        plain / "adapter" / "adapter_model.safetensors"
    )


@pytest.mark.parametrize("name", ["dpo", "sft"])
def test_trying_batches_leaves_no_trace_in_the_training_that_follows(
    case: Case, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The trials of a GPU, run here on the CPU as a device that holds two rows."""
    import torch

    tried: list[tuple[int, bool]] = []
    attempt = probe.attempt

    def limited(trainer: Any, rows: Any, *, checkpointing: bool) -> None:
        tried.append((len(rows), checkpointing))
        attempt(trainer, rows, checkpointing=checkpointing)
        if len(rows) > 2:
            raise torch.OutOfMemoryError("too many")

    def text(per_device: str) -> str:
        args = f"{COMMON}, {per_device}"
        given = {"dpo": args, "sft": args}
        found = recipe_text(**given, quantization="none").replace("r: 4,", "r: 4, lora_dropout: 0.1,")
        return found.replace(f"args: {{{args}}}", f"args: {{{args}}}\n    batch_size: 4", 1).replace(
            f"none, args: {{{args}}}}}", f"none, batch_size: 4, args: {{{args}}}}}", 1
        )

    if name == "sft":
        case.train("dpo", text("per_device_train_batch_size: 2"), key="before")
    monkeypatch.setattr(probe, "attempt", limited)
    monkeypatch.setattr(probe, "device", lambda: "cuda")
    monkeypatch.setattr(probe, "device_name", lambda: "a device of two rows")
    fixed = ", gradient_checkpointing: false" if name == "sft" else ""
    found = case.train(name, text(f"per_device_train_batch_size: auto{fixed}")).path
    chosen = read_json(found / "training.json")["batches"]
    assert (chosen["per_device"], chosen["accumulation"]) == (2, 2)
    without = [(1, False), (2, False), (4, False)]
    timed = [] if fixed else [(1, True), (2, True), (4, True), *[(2, False)] * 2, *[(2, True)] * 2]
    assert tried == without + timed
    monkeypatch.undo()
    plain = case.train(name, text("per_device_train_batch_size: 2"), key="plain").path
    assert digests(found / "adapter" / "adapter_model.safetensors") == digests(
        plain / "adapter" / "adapter_model.safetensors"
    )


def test_what_was_chosen_is_used_again_and_halved_after_running_out_of_memory(tmp_path: Path) -> None:
    Batches(4, 8, 1, True, "tried").save(tmp_path)
    args = {"per_device_train_batch_size": "auto"}
    found, is_open = batch_size.arguments_for(args, 32, tmp_path, "dpo", gpu=True)
    assert not is_open
    assert found == {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 8,
        "gradient_checkpointing": True,
    }
    assert batch_size.arguments_for(args, 64, tmp_path, "dpo", gpu=True)[1], "another number of rows is chosen anew"
    had = Batches(4, 8, 1, True, "the recipe")
    for _ in range(2):  # another process says so, too
        assert "batches of 2 x 16 rows" in batch_size.after_out_of_memory(args, 32, tmp_path, had, gpu=True)
    assert batch_size.arguments_for(args, 32, tmp_path, "dpo", gpu=True)[0]["per_device_train_batch_size"] == 2
    fixed = {"per_device_train_batch_size": 4}
    by_hand = "Set per_device_train_batch_size to 2 (batch_size stays 32), or lower max_length."
    assert batch_size.after_out_of_memory(fixed, 32, tmp_path, had, gpu=True) == by_hand
    both = "Set per_device_train_batch_size to 2 and gradient_accumulation_steps to 16, or lower max_length."
    assert batch_size.after_out_of_memory(fixed, None, tmp_path, had, gpu=True) == both
    single = batch_size.after_out_of_memory(fixed, 32, tmp_path, Batches(1, 32, 1, True, "the recipe"), gpu=True)
    assert single == "One row at a time is too much for this device: lower max_length."
    assert batch_size.arguments_for(fixed, 32, tmp_path, "dpo", gpu=True) == (
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 8, "gradient_checkpointing": True},
        True,
    ), "what the recipe says now counts, not what was chosen before"


@pytest.mark.parametrize(
    ("args", "cuts"),
    [
        ("auto", [(6, False), (3, False), (2, False), (1, False), (1, True)]),
        ("auto, gradient_checkpointing: false", [(6, False), (3, False), (2, False), (1, False)]),
        ("auto", [(3, True), (2, True), (1, True)]),
        ("6", [(6, False), (6, True)]),  # on a GPU hubkit chooses whether activations are computed again
    ],
)
def test_after_running_out_of_memory_less_is_taken_of_what_the_recipe_leaves_open(
    args: str, cuts: list[tuple[int, bool]], tmp_path: Path
) -> None:
    """No sentence asks the user for a number that the recipe leaves to hubkit."""
    asked = yaml.safe_load(f"{{per_device_train_batch_size: {args}}}")
    Batches(cuts[0][0], 12 // cuts[0][0], 1, cuts[0][1], "tried").save(tmp_path)
    for per_device, checkpointing in cuts:
        had = Batches(**read_json(tmp_path / batch_size.FILE))
        assert (had.per_device, had.accumulation, had.checkpointing) == (per_device, 12 // per_device, checkpointing)
        given = batch_size.arguments_for(asked, 12, tmp_path, "dpo", gpu=True)
        assert not given[1] and given[0]["per_device_train_batch_size"] == per_device
        said = [batch_size.after_out_of_memory(asked, 12, tmp_path, had, gpu=True) for _ in range(2)]
        last = (per_device, checkpointing) == cuts[-1]
        assert said[0] == said[1] and said[0].startswith("Run the same command again") != last
    assert said[0].startswith("Set per_device_train_batch_size to 3") == (args == "6") and "lower max_length" in said[0]


def test_what_is_chosen_is_kept_once_every_process_has_looked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes later would take it for the choice of an earlier run."""
    args = {"per_device_train_batch_size": "auto"}
    settings: Any = SimpleNamespace(args=args, batch_size=4, name="dpo")
    now = SimpleNamespace(
        per_device_train_batch_size=1, gradient_accumulation_steps=4, world_size=1, gradient_checkpointing=True
    )
    trainer = SimpleNamespace(args=now, is_fsdp_enabled=True, is_world_process_zero=lambda: True)
    others: list[bool] = []
    monkeypatch.setattr(probe, "apply", lambda *_: None)
    monkeypatch.setattr(
        ranks, "wait", lambda: others.append(batch_size.arguments_for(args, 4, tmp_path, "dpo", gpu=True)[1])
    )
    probe.settle(settings, trainer, tmp_path, silent)
    assert others == [True] and (tmp_path / batch_size.FILE).is_file()


def test_all_processes_take_what_fits_the_one_with_the_least_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.utils.gather_object", lambda own: [*own, (4, True)])
    assert probe._least((8, False), 2) == (4, True) == probe._least((4, False), 2)
    assert probe._least((2, False), 2) == (2, True)
    assert probe._least((8, False), 1) == (8, False), "alone it asks nobody"


def test_several_processes_share_the_rows_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    found, _ = batch_size.arguments_for({"per_device_train_batch_size": 2}, 32, tmp_path, "dpo", gpu=False)
    assert found == {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    with pytest.raises(Exception, match="30 rows of an optimizer step cannot be shared evenly by 4 processes"):
        batch_size.arguments_for({}, 30, tmp_path, "dpo", gpu=False)


@pytest.mark.parametrize(
    ("args", "rows", "words"),
    [
        ("per_device_train_batch_size: auto", 8, None),
        ("per_device_train_batch_size: auto, gradient_accumulation_steps: 2", None, None),
        ("per_device_train_batch_size: automatic", None, "valid integer"),
        ("per_device_train_batch_size: 3", 8, "8 is no multiple of per_device_train_batch_size, which is 3"),
        ("gradient_accumulation_steps: 2", 8, "follows from `batch_size`"),
    ],
)
def test_preflight_knows_auto_and_the_rows_of_a_step(
    case: Case, args: str, rows: int | None, words: str | None
) -> None:
    from hubkit.recipe.stage import CheckContext

    ctx = case.context(parse_recipe(stage(args, rows)), "train[dpo]")
    errors = [item.message for item in checks.check(CheckContext(ctx.settings, ctx.target), "dpo")]
    assert (words is None and not errors) or any(words in error for error in errors if words)


def saves(
    minutes: float | None, at: list[float], save_takes: float = 0.0, evaluation_takes: float = 0.0
) -> list[float]:
    """When a training whose steps end at the seconds ``at`` saves; it evaluates before each save."""
    now = [0.0]
    callback = by_time(minutes, lambda: now[0])
    args = SimpleNamespace(save_strategy="steps", world_size=1)
    callback.on_train_begin(args, None, None)
    found = []
    for second in at:
        now[0] = max(now[0], second)
        control = SimpleNamespace(should_save=False)
        callback.on_step_end(args, None, control)
        if control.should_save:
            found.append(now[0])
            if evaluation_takes:
                now[0] += evaluation_takes
                callback.on_evaluate(args, None, control)
            now[0] += save_takes
            callback.on_save(args, None, control)
    return found


def test_a_checkpoint_is_saved_when_the_minutes_of_the_recipe_have_passed() -> None:
    steps = [float(second) for second in range(0, 4000, 50)]
    assert saves(10, steps) == [600.0, 1200.0, 1800.0, 2400.0, 3000.0, 3600.0]
    assert saves(None, steps) == [900.0, 1800.0, 2700.0, 3600.0]


def test_a_checkpoint_that_the_probe_asks_for_is_saved_by_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main process alone knows of it, and each has a part to save."""
    args, decided = SimpleNamespace(save_strategy="steps", world_size=2), []

    def of_main(decision: bool, _: Any) -> bool:
        decided.append(decision)
        return decided[0]

    monkeypatch.setattr(checkpoints, "_decided_by_main", of_main)
    controls = [SimpleNamespace(should_save=asked) for asked in (True, False)]
    for control in controls:
        callback = by_time(None, lambda: 0.0)
        callback.on_train_begin(args, None, None)
        callback.on_step_end(args, None, control)
    assert decided == [True, False] and all(control.should_save for control in controls)


def test_a_save_that_takes_long_is_not_made_every_quarter_of_an_hour() -> None:
    """Unless the recipe asks for it."""
    steps = [float(second) for second in range(0, 8000, 50)]
    assert saves(None, steps, save_takes=100.0) == [900.0, 3000.0, 5100.0, 7200.0]
    assert len(saves(15, steps, save_takes=100.0)) == 8


def test_an_evaluation_before_a_save_makes_no_save_that_takes_long() -> None:
    steps = [float(second) for second in range(0, 8000, 50)]
    assert saves(None, steps, evaluation_takes=300.0) == [900.0, 2100.0, 3300.0, 4500.0, 5700.0, 6900.0]
