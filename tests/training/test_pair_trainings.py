"""Whole trainings on pairs: TRL's curve, the order of the rows, and the reference's numbers kept on disk."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pair_trainers import llama, trainer_of

from hubkit.training.pairs import order
from hubkit.training.pairs.attention import CURRENT
from hubkit.training.pairs.reference import digests_of
from hubkit.training.pairs.store import Store, prune
from hubkit.training.pairs.trainer import report_of
from hubkit.training.tokenized import dpo_trainer


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    CURRENT.begin(None)


def trained(trainer: Any) -> dict[str, Any]:
    trainer.train()
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad}


def test_a_training_has_the_curve_of_trl_and_the_next_one_computes_no_reference(tmp_path: Path) -> None:
    import torch

    args = {"max_steps": 8, "logging_steps": 1}
    stock = trainer_of(tmp_path / "stock", kind=dpo_trainer(), **args)
    wanted = trained(stock)
    folder, key = tmp_path / "cache", {"what": "the base"}
    first = trainer_of(tmp_path / "first", store=Store(folder, key), **args)
    weights = trained(first)
    report = report_of(first)
    assert (report["way"], report["order"], report["reason"]) == ("shared", "random", None)
    assert report["reference"] == {"computed": 24, "cached": 8}  # a second epoch began
    assert report["tokens"]["computed"] < report["tokens"]["real"] < report["tokens"]["padded"]
    for mine, theirs in zip(first.state.log_history, stock.state.log_history, strict=True):
        for name in mine.keys() - {"train_runtime", "train_samples_per_second", "train_steps_per_second"}:
            assert mine[name] == pytest.approx(theirs[name], abs=1e-4, rel=1e-4), name
    assert all(torch.allclose(weights[name], wanted[name], atol=1e-3) for name in wanted)
    second = trainer_of(tmp_path / "second", store=Store(folder, key), **args)
    again = trained(second)
    assert report_of(second)["reference"] == {"computed": 0, "cached": 32}
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_numbers_of_a_reference_that_is_not_fixed_are_not_kept(tmp_path: Path) -> None:
    """Noise, dropout, or trained biases that the adapter's switch does not reset."""
    from peft import LoraConfig, get_peft_model

    def continued() -> Any:
        return get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM", r=2, lora_dropout=0.1))

    def kept(model: Any = None, **args: Any) -> bool:
        trainer = trainer_of(tmp_path, model, store=Store(tmp_path / "cache", {}), **args)
        return trainer.reference is not None

    assert kept() and kept(continued()) and kept(ref_model=llama(attention_dropout=0.1).eval(), disable_dropout=False)
    assert not kept(neftune_noise_alpha=5.0)
    assert not kept(continued(), disable_dropout=False)
    assert not kept(llama(attention_dropout=0.1))
    assert not kept(bias="lora_only") and not kept(bias="all")
    assert not kept(ref_model=llama(attention_dropout=0.1).train())


def test_a_resumed_run_with_smaller_batches_trains_each_row_of_the_epoch_once(tmp_path: Path) -> None:
    trained: list[bytes] = []

    def trainer(rows: int, accumulation: int) -> Any:
        given = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation, "max_steps": 3}
        given |= {"save_strategy": "steps", "save_steps": 1, "ref_model": llama()}
        found = trainer_of(tmp_path, llama(attention_dropout=1e-9), **given)
        compute = found.compute_loss

        def counted(model: Any, inputs: dict[str, Any], *args: Any, **named: Any) -> Any:
            trained.extend(digests_of(inputs))
            return compute(model, inputs, *args, **named)

        found.compute_loss = counted
        return found

    alone = trainer(8, 1)
    alone.train()
    assert report_of(alone)["order"] == "by length" and len(set(trained)) == 24
    whole, trained[:] = list(trained), []
    resumed = trainer(4, 2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    assert trained == whole[8:]


def test_rows_that_are_padded_come_by_length_and_a_resumed_run_goes_on_in_its_order(tmp_path: Path) -> None:
    import torch

    def trainer(name: str) -> Any:
        torch.manual_seed(0)  # the same reference in both
        reference = llama(attention_dropout=1e-9).eval()
        given = {"max_steps": 9, "save_strategy": "steps", "save_steps": 4, "ref_model": reference}
        store = Store(tmp_path / name, {})
        return trainer_of(tmp_path / name, llama(attention_dropout=1e-9), store=store, **given)

    alone = trainer("alone")
    weights = trained(alone)
    report = report_of(alone)
    assert (report["way"], report["order"]) == ("head", "by length")
    assert report["tokens"]["padded"] == report["tokens"]["computed"]
    killed = trainer("alone")  # as the same run begins again: its folder has the checkpoints of 4 and 8 steps
    killed.train(resume_from_checkpoint=str(tmp_path / "alone" / "out" / "checkpoint-4"))
    after = {name: weight for name, weight in killed.model.named_parameters() if weight.requires_grad}
    assert all(torch.equal(weights[name], after[name]) for name in weights)


def test_batches_by_length_are_seeded_complete_and_alike_in_length() -> None:
    draw = random.Random(1)
    lengths = [draw.randint(10, 1000) for _ in range(1003)]
    places = order.by_length(lengths, 8, seed=3)
    assert sorted(places) == list(range(1003))
    assert places == order.by_length(lengths, 8, seed=3) != order.by_length(lengths, 8, seed=4)
    spread = [max(group) - min(group) for group in _groups(lengths, places)]
    assert sum(spread) / len(spread) < 60
    firsts = [lengths[place] for place in places[:160:8]]
    assert firsts != sorted(firsts) and firsts != sorted(firsts, reverse=True)
    epoch = iter([0, 1, 0])
    sampler = order.ByLength(lengths, 8, 3, lambda: next(epoch))
    first, second, third = (list(sampler) for _ in range(3))
    assert len(sampler) == 1003 and first == third == places and second != first


def _groups(lengths: list[int], places: list[int]) -> Iterator[list[int]]:
    for start in range(0, 1000, 8):
        yield [lengths[place] for place in places[start : start + 8]]


def digest(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_numbers_survive_and_a_damaged_file_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path, {"base": "a"})
    for number in range(3):
        store.add(digest(number), (-1.5 * number, -0.1))
        store.flush()
    assert Store(tmp_path, {"base": "b"}).find(digest(0)) is None
    again = Store(tmp_path, {"base": "a"})
    assert [again.find(digest(number)) for number in range(3)] == [(-1.5 * number, -0.1) for number in range(3)]
    assert json.loads((again.folder / "key.json").read_text()) == {"base": "a"}
    files = sorted(again.folder.glob("*.npy"))
    files[0].write_bytes(files[0].read_bytes()[:-3])
    content = bytearray(files[1].read_bytes())
    content[-2] ^= 1
    files[1].write_bytes(content)
    damaged = Store(tmp_path, {"base": "a"})
    assert (damaged.damaged, len(damaged)) == (2, 1)
    assert Store(tmp_path, {"base": "a"}).damaged == 0


def test_many_files_are_joined_and_the_oldest_keys_make_room(tmp_path: Path) -> None:
    store = Store(tmp_path, {"base": "a"})
    for number in range(20):
        store.add(digest(number), (float(number), 0.0))
        store.flush()
    assert len(Store(tmp_path, {"base": "a"})) == 20
    assert len(list(store.folder.glob("*.npy"))) == 1
    assert len(Store(tmp_path, {"base": "a"})) == 20
    for place, name in enumerate(("b", "c")):
        other = Store(tmp_path, {"base": name})
        other.add(digest(0), (0.0, 0.0))
        other.flush()
        _last_used(other.folder, time.time() - 1000 + place)
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    prune(tmp_path, store.folder, size - 1)
    assert [len(Store(tmp_path, {"base": name})) for name in "abc"] == [20, 0, 1]


def _last_used(folder: Path, when: float) -> None:
    import os

    os.utime(folder, (when, when))


def test_a_pair_has_one_digest_whatever_it_is_padded_to(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    rows = [trainer.train_dataset[place] for place in range(6)]
    together = digests_of(trainer.data_collator(rows))
    alone = [digests_of(trainer.data_collator([row]))[0] for row in rows]
    assert together == alone and len(set(together)) == 6
    moved = {**rows[0], "prompt_ids": rows[0]["prompt_ids"][:-1]}
    moved |= {side: [rows[0]["prompt_ids"][-1], *rows[0][side]] for side in ("chosen_ids", "rejected_ids")}
    assert digests_of(trainer.data_collator([moved]))[0] != alone[0]
