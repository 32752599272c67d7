"""The end-of-turn token is in the loss exactly once, and padding is not: on TRL's own batches of each architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from architecture_release import SYSTEM
from architectures import ARCHITECTURES, make

from hubkit.core.errors import RefusedError
from hubkit.core.files import read_json
from hubkit.models.chat import agreement, eos
from hubkit.models.load import load_tokenizer
from hubkit.training import batches
from hubkit.training.data import turns
from hubkit.training.data.mappings import Row
from hubkit.training.data.roles import Roles
from hubkit.training.data.rows import sides

QUESTIONS = [[{"role": "user", "content": f" What is {number}? " * (1 + number % 3)}] for number in range(4)]
QUESTIONS += [[{"role": "system", "content": SYSTEM}, *QUESTIONS[0]]]
QUESTIONS += [[*QUESTIONS[1], {"role": "assistant", "content": "One."}, *QUESTIONS[2]]]
ANSWERS = [[{"role": "assistant", "content": f"It is {number}.\n" * (1 + number)}] for number in range(6)]


def rows_of(tokenizer: Any, method: str) -> list[Row]:
    """Rows of one and two turns, with and without a system message, fit for the template of ``tokenizer``."""
    roles, found = Roles(tokenizer), []
    for question, answer, other in zip(QUESTIONS, ANSWERS, ANSWERS[1:] + ANSWERS[:1], strict=True):
        answers = {"chosen": answer, "rejected": other} if method == "dpo" else {"completion": answer}
        found.append(roles.fit({"prompt": question, **answers})[0])
    return found


def trainer_of(method: str, folder: Path, base: Path, tokenizer: Any, rows: Sequence[Row], **args: Any) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    kind, config = (DPOTrainer, DPOConfig) if method == "dpo" else (SFTTrainer, SFTConfig)
    given = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "max_length": 256}
    return kind(
        model=AutoModelForCausalLM.from_pretrained(base),
        args=config(output_dir=str(folder), **{**given, **args}),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"),
    )


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, tuple[Path, Any, eos.EndOfTurn]] = {}

    def base(name: str) -> tuple[Path, Any, eos.EndOfTurn]:
        if name not in made:
            folder = make(name, tmp_path_factory.mktemp("bases") / name)
            tokenizer = load_tokenizer(folder)
            configs = [read_json(folder / file) for file in ("config.json", "generation_config.json")]
            agreed = agreement.agree(tokenizer.chat_template, agreement.Tokens.of(tokenizer), *configs)
            assert agreed.end_of_turn and agreed.pad
            tokenizer.pad_token = agreed.pad.token
            made[name] = folder, tokenizer, agreed.end_of_turn
        return made[name]

    return base


@pytest.mark.parametrize("method", ["dpo", "sft"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_answer_ends_in_the_loss_and_padding_is_outside(
    name: str, method: str, bases: Any, tmp_path: Path
) -> None:
    base, tokenizer, end = bases(name)
    rows = rows_of(tokenizer, method)
    trainer = trainer_of(method, tmp_path, base, tokenizer, rows)
    answers = [answer for row in rows for _, answer in sides(row)]
    assert batches.prove(trainer, tokenizer, end) == len(answers)
    batch = trainer.data_collator(list(trainer.train_dataset))
    trained = _in_loss_by_row(batch)
    closing = [end.id, *end.suffix_ids]
    for row in trained:
        assert row.count(end.id) == 1 and row[-len(closing) :] == closing
    texts = {tokenizer.decode(row) for row in trained}
    assert all(any(answer[-1]["content"].strip() in text for text in texts) for answer in answers)
    padded = batch["attention_mask"] == 0
    assert padded.any() and (batch["input_ids"][padded] == tokenizer.pad_token_id).all()
    seen = turns.look(rows, tokenizer, end, max_length=256)
    assert all(side.closed_once == side.ends_trained == len(rows) and not side.truncated for side in seen.values())


def _in_loss_by_row(batch: Mapping[str, Any]) -> list[list[int]]:
    """Of the tensors themselves, not by the function that is tested."""
    mask = batch["labels"] != -100 if "labels" in batch else batch["completion_mask"] == 1
    mask = mask & (batch["attention_mask"] == 1)
    return [ids[kept].tolist() for ids, kept in zip(batch["input_ids"], mask, strict=True)]


@pytest.mark.parametrize("method", ["dpo", "sft"])
def test_a_trainer_that_masks_padding_by_its_id_is_refused_before_it_trains(
    method: str, bases: Any, tmp_path: Path
) -> None:
    base, tokenizer, end = bases("gpt-2")
    trainer = trainer_of(method, tmp_path, base, tokenizer, rows_of(tokenizer, method))
    collate, name = trainer.data_collator, "labels" if method == "sft" else "completion_mask"

    def by_id(rows: Any) -> Any:
        batch = collate(rows)
        batch[name][batch["input_ids"] == tokenizer.pad_token_id] = -100 if method == "sft" else 0
        return batch

    trainer.data_collator = by_id
    count = 12 if method == "dpo" else 6
    with pytest.raises(RefusedError, match=rf"leaves {count} of {count} end-of-turn tokens <\|endoftext\|> out of the"):
        batches.prove(trainer, tokenizer, end)


def test_a_trainer_that_trains_on_other_tokens_is_refused(bases: Any, tmp_path: Path) -> None:
    base, tokenizer, end = bases("llama-3")
    trainer = trainer_of("sft", tmp_path, base, tokenizer, rows_of(tokenizer, "sft"))
    collate = trainer.data_collator

    def shifted(rows: Any) -> Any:
        batch = collate(rows)
        batch["labels"] = batch["input_ids"].clone()
        return batch

    trainer.data_collator = shifted
    with pytest.raises(RefusedError, match=r"other tokens than those of the answers: on '<\|begin_of_text\|>"):
        batches.prove(trainer, tokenizer, end)


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("dpo", {"max_length": 130}),
        ("dpo", {"max_length": 130, "truncation_mode": "keep_end"}),
        ("sft", {"max_length": 130}),
        ("sft", {"max_length": 130, "truncation_mode": "keep_end"}),
        ("sft", {"max_length": None}),
        ("sft", {"completion_only_loss": False}),
        ("sft", {"pad_to_multiple_of": 8}),
        ("sft", {"shuffle_dataset": True}),
        ("sft", {"padding_free": True, "max_length": None}),
    ],
)
def test_what_a_recipe_may_set_is_not_refused(method: str, args: dict[str, Any], bases: Any, tmp_path: Path) -> None:
    base, tokenizer, end = bases("smollm")
    trainer = trainer_of(method, tmp_path, base, tokenizer, rows_of(tokenizer, method), **args)
    assert batches.prove(trainer, tokenizer, end) > 0


def test_a_packed_set_no_longer_has_its_conversations(bases: Any, tmp_path: Path) -> None:
    base, tokenizer, end = bases("smollm")
    trainer = trainer_of("sft", tmp_path, base, tokenizer, rows_of(tokenizer, "sft"), packing=True)
    assert batches.prove(trainer, tokenizer, end) == 0


def test_an_opened_prompt_that_ends_otherwise_than_an_answer_begins(bases: Any) -> None:
    """As templates with a thinking block have it: an answer begins where the two part."""
    _, tokenizer, end = bases("qwen2")
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = template.replace("assistant\n{% endif", "assistant\n<think>\n\n</think>\n\n{% endif")
        rows = rows_of(tokenizer, "sft")
        seen = turns.look(rows, tokenizer, end, max_length=None)["rows"]
        assert (seen.closed_once, seen.ends_trained, seen.not_closed) == (6, 6, [])
        shown = turns.spans(rows[:1], tokenizer)[0]["rows"]
        assert "".join(text for text, trained in shown if trained) == "It is 0.\n<|im_end|>\n"
    finally:
        tokenizer.chat_template = template


@pytest.mark.parametrize("name", ["gpt-2", "falcon", "pythia"])
def test_the_token_of_the_padding_does_not_change_the_loss(name: str, bases: Any, tmp_path: Path) -> None:
    """Padded with the end-of-turn token or with another: the same loss, so padding is hidden by its place."""
    import torch

    base, tokenizer, end = bases(name)
    trainer = trainer_of("sft", tmp_path, base, tokenizer, rows_of(tokenizer, "sft"))
    losses = []
    for pad in (end.id, tokenizer.convert_tokens_to_ids("a")):
        trainer.data_collator.pad_token_id = pad
        batch = trainer.data_collator(list(trainer.train_dataset))
        assert (batch["input_ids"][batch["attention_mask"] == 0] == pad).all()
        with torch.no_grad():
            losses.append(float(trainer.model(**batch).loss))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
