"""Prepared data of any number of rows, made in seconds: a block of rows, tokenized once, again and again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from training_case import Case, recipe_text

from hubkit.models.chat import eos
from hubkit.training.data import tokens
from hubkit.training.data.prepared import rows_file

SETS = {"dpo": "preferences", "sft": "repair"}


class _Repeated:
    """An encoder that tokenizes a block of rows once and answers with it for each further one of that size."""

    def __init__(self, encoder: tokens.Encoder) -> None:
        self.tokenizer, self.cuts, self._encoder = encoder.tokenizer, encoder.cuts, encoder
        self._known: dict[int, tokens.Chunk] = {}

    def __call__(self, lines: Sequence[str]) -> tokens.Chunk:
        if len(lines) not in self._known:
            self._known[len(lines)] = self._encoder(lines)
        return self._known[len(lines)]


def write_many(out: Path, method: str, count: int, tokenizer: Any) -> None:
    """Write ``count`` rows for ``method`` (dpo, sft) and their tokens to the data artifact ``out``."""
    block, name = [_line(method, number) for number in range(tokens.CHUNK)], SETS[method]
    file = out / rows_file(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="\n") as rows:
        rows.writelines(_lines(block, count))
    encoder: Any = _Repeated(tokens.Encoder(tokenizer, eos.find(tokenizer), {}))
    for _ in tokens.write(_lines(block, count), 1, out / "tokens" / name, encoder):  # 1: in this process
        pass


def _lines(block: Sequence[str], count: int) -> Iterator[str]:
    return islice(cycle(block), count)


def _line(method: str, number: int) -> str:
    words = " and ".join(f"number {(number * place) % 97}" for place in range(1, 4 + number % 9))
    prompt = [{"role": "user", "content": f"What is {words}?"}]
    answers = [[{"role": "assistant", "content": text}] for text in (f"It is {words}.", "No.")]
    row = {"chosen": answers[0], "rejected": answers[1]} if method == "dpo" else {"completion": answers[0]}
    return json.dumps({"prompt": prompt, **row}) + "\n"


def case_of(folder: Path, method: str, count: int) -> Case:
    """A run in ``folder`` whose base and data are done: ``count`` rows for ``method``."""
    from hubkit_stages.recipes.tiny import model

    made = Case(folder).prepare()
    small, report = made.run.artifacts / "data", (made.run.artifacts / "data/data.json").read_bytes()
    shutil.rmtree(small)
    out = made.begin("data")
    (out / "data.json").write_bytes(report)
    write_many(out, method, count, model.make_tokenizer())
    made.keep("data")
    return made


def first_step(folder: Path, method: str) -> dict[str, float]:
    """Train the run in ``folder`` for one step: the ``rows``, and the ``seconds`` from the stage's start to its end.

    The libraries are imported before.
    """
    import peft  # noqa: F401
    import trl  # noqa: F401
    from transformers.trainer_callback import CallbackHandler

    done: list[float] = []
    original = CallbackHandler.on_step_end

    def on_step_end(handler: Any, *given: Any) -> Any:
        done.append(time.perf_counter())
        return original(handler, *given)

    args = "max_steps: 1, per_device_train_batch_size: 4, max_length: 256, save_strategy: 'no'"
    text = recipe_text(dpo=args, sft=args, quantization="none")
    if method == "sft":
        lora = "lora: {r: 4, lora_alpha: 8, target_modules: all-linear}"
        text = text.replace("continues: dpo, quantization: none,", f"quantization: none, {lora},")
    CallbackHandler.on_step_end = on_step_end
    began = time.perf_counter()
    try:
        made = Case(folder).train(method, text)
    finally:
        CallbackHandler.on_step_end = original
    return {"rows": made.json("training.json")["rows"], "seconds": done[0] - began}
