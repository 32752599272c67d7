"""Rows that the data step tokenized, handed to TRL: its batches are those that it makes of the conversations itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from architectures import ARCHITECTURES, make_tokenizer

from hubkit.core.errors import RefusedError
from hubkit.models.chat import eos
from hubkit.models.chat.trained import seen
from hubkit.training import batches, tokenized
from hubkit.training.data import tokens, workers
from hubkit.training.data.mappings import Row
from hubkit.training.data.prepared import TrainingRows, rows_file
from hubkit.training.data.roles import Roles

LONG = "A long answer, and longer. "


def rows_of(tokenizer: Any, method: str, count: int = 40) -> list[Row]:
    roles, found = Roles(tokenizer), []
    for number in range(count):
        prompt = [{"role": "user", "content": f" What is {number}? " * (1 + number % 5)}]
        if number % 4 == 1:
            prompt = [{"role": "system", "content": "Be kind."}, *prompt]
        if number % 7 == 3:
            prompt = [*prompt, {"role": "assistant", "content": "One."}, {"role": "user", "content": "And?"}]
        answers = [
            [{"role": "assistant", "content": text}] for text in (f"It is {number}. é\n" + LONG * (number % 3), "No.")
        ]
        row = {"chosen": answers[0], "rejected": answers[1]} if method == "dpo" else {"completion": answers[0]}
        found.append(roles.fit({"prompt": prompt, **row})[0])
    return found


def written(folder: Path, rows: Sequence[Row], tokenizer: Any) -> TrainingRows:
    file = folder / rows_file("mine")
    file.parent.mkdir(parents=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    encoder = tokens.Encoder(tokenizer, eos.find(tokenizer), {})
    assert [done.rows for done in tokens.write(lines, len(rows), folder / "tokens/mine", encoder)][-1] == len(rows)
    return TrainingRows.load(file)


def small_model(vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    widths = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **widths))


def trainers(method: str, folder: Path, tokenizer: Any, rows: TrainingRows, **args: Any) -> tuple[Any, Any]:
    """A trainer that was given conversations, and one that was given tokens."""
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    kind, config = (DPOTrainer, DPOConfig) if method == "dpo" else (SFTTrainer, SFTConfig)
    own = tokenized.dpo_trainer() if method == "dpo" else SFTTrainer
    given = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "max_length": 256}

    def trainer(kind: Any, dataset: Callable[[Any], Any]) -> Any:
        made = config(output_dir=str(folder / "out"), **{**given, **args})
        return kind(
            model=small_model(len(tokenizer)),
            args=made,
            train_dataset=dataset(made),
            processing_class=tokenizer,
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"),
        )

    def handed_over(made: Any) -> Any:
        dataset, evaluated = tokenized.datasets_for(
            rows, tokenizer, "dpo" if method == "dpo" else "sft", made, folder / "scratch"
        )
        assert evaluated is None
        return dataset

    return trainer(kind, lambda made: rows.dataset(folder / "cache")), trainer(own, handed_over)


def same_batches(one: Any, other: Any) -> None:
    import torch

    batches_of = []
    for trainer in (one, other):
        torch.manual_seed(0)  # samplers by length draw from the global state
        batches_of.append(list(trainer.get_train_dataloader()))
    assert len(batches_of[0]) == len(batches_of[1]) > 1
    for mine, theirs in zip(*batches_of, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            equal = torch.equal if isinstance(mine[name], torch.Tensor) else int.__eq__
            assert equal(mine[name], theirs[name]), name


@pytest.mark.parametrize("method", ["dpo", "sft"])
@pytest.mark.parametrize("name", ["gpt-2", "llama-3", "gemma-3"])
def test_the_batches_are_those_that_trl_makes_of_the_conversations(name: str, method: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(ARCHITECTURES[name])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
    rows = written(tmp_path, rows_of(tokenizer, method), tokenizer)
    one, other = trainers(method, tmp_path, tokenizer, rows)
    same_batches(one, other)
    first = tokenized.first_rows(other.train_dataset, batches.ROWS, rows)
    assert batches.prove(other, tokenizer, eos.find(tokenizer), first) == batches.ROWS * (2 if method == "dpo" else 1)
    assert seen(tokenizer, first) == seen(tokenizer, one.train_dataset)


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("dpo", {"max_length": 60}),
        ("dpo", {"max_length": 60, "truncation_mode": "keep_end"}),
        ("dpo", {"max_length": None}),
        ("sft", {"max_length": 60}),
        ("sft", {"max_length": 60, "truncation_mode": "keep_end"}),
        ("sft", {"max_length": None}),
        ("sft", {"max_length": 60, "completion_only_loss": False}),
        ("sft", {"max_length": 60, "shuffle_dataset": True}),
        ("sft", {"max_length": 60, "train_sampling_strategy": "group_by_length"}),
        ("sft", {"packing": True, "max_length": 200}),
        ("sft", {"packing": True, "max_length": 200, "packing_strategy": "wrapped", "shuffle_dataset": True}),
        ("sft", {"padding_free": True, "max_length": None}),
    ],
)
def test_they_are_cut_sampled_and_packed_as_trl_does(method: str, args: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = make_tokenizer(ARCHITECTURES["smollm"])
    rows = written(tmp_path, rows_of(tokenizer, method), tokenizer)
    one, other = trainers(method, tmp_path, tokenizer, rows, per_device_train_batch_size=4, **args)
    assert len(one.train_dataset) == len(other.train_dataset)
    same_batches(one, other)
    first = tokenized.first_rows(other.train_dataset, batches.ROWS, rows)
    proved = batches.prove(other, tokenizer, eos.find(tokenizer), first)
    assert (proved > 0) != bool(args.get("packing"))


def test_tokens_of_another_tokenizer_or_template_are_not_used(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(ARCHITECTURES["smollm"])
    rows = written(tmp_path, rows_of(tokenizer, "sft"), tokenizer)
    assert rows.tokens(tokenizer) is not None
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>", " <|im_start|>")
    assert rows.tokens(tokenizer) is None
    args = type("Args", (), {"dataset_kwargs": None})()
    found, _ = tokenized.datasets_for(rows, tokenizer, "sft", args, tmp_path / "scratch")
    assert found.column_names == ["prompt", "completion"]
    assert TrainingRows.load(tmp_path / "sets/other.jsonl").tokens(tokenizer) is None


def test_many_processes_make_the_tokens_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer(ARCHITECTURES["smollm"])
    rows = rows_of(tokenizer, "sft", 600)
    alone = written(tmp_path / "alone", rows, tokenizer).tokens(tokenizer)
    monkeypatch.setattr(workers, "FEW", 0)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    together = written(tmp_path / "together", rows, tokenizer).tokens(tokenizer)
    assert alone and together and alone.longest == together.longest
    assert [path.read_bytes() for path in alone.files] == [path.read_bytes() for path in together.files]


def test_what_fails_in_a_process_is_said_with_its_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 2)
    tokenizer = make_tokenizer(ARCHITECTURES["smollm"])
    end = eos.find(tokenizer)
    encoder, line = tokens.Encoder(tokenizer, end, {}), json.dumps(rows_of(tokenizer, "sft", 1)[0])
    tokenizer.chat_template = "{{ raise_exception('no cats') }}"
    with pytest.raises(RefusedError, match="no cats") as failed, workers.Workers(encoder, workers.FEW) as many:
        list(many.map([[line], [line]]))
    assert "Remove such rows" in (failed.value.hint or "")


def test_rows_with_keys_that_the_first_ones_lack_are_a_dataset(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    plain = {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Yes"}]}
    called = {**plain, "completion": [{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}]}
    file.write_text("".join(json.dumps(row) + "\n" for row in [*[plain] * 1200, called]))
    found = TrainingRows.load(file).dataset()
    assert found.num_rows == 1201
    assert found[1200]["completion"][0]["tool_calls"] == [{"name": "f"}]
    assert found.cache_files, "mapped from a file"
