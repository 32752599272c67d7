"""Small recipes whose data is prepared from rows in memory, for tests of the data step."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubkit.evals.contamination import Contamination
from hubkit.models.chat.eos import EndOfTurn, find
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe, Source
from hubkit.training.data.loading import Loaded
from hubkit.training.data.preparing import DataReport, DataSettings, prepare

PAIR = {"system": "", "question": "What is it?", "chosen": "It is a cat.", "rejected": "A dog."}


def pairs(count: int, **given: Any) -> list[dict[str, Any]]:
    return [{**PAIR, "question": f"What is number {n}?", "chosen": f"Number {n}.", **given} for n in range(count)]


def chats(count: int, topic: str = "thing") -> list[dict[str, Any]]:
    return [{"instruction": f"Name {topic} {n}.", "input": "", "output": f"It is {n}."} for n in range(count)]


def recipe(accept: str = "", prompts: int = 5, **settings: Any) -> Recipe:
    made = parse_recipe(f"""
repo: me/my-model
visibility: public
license: apache-2.0
base: {{repo: them/base}}
data:
  preferences: [{{repo: them/pairs}}]
  repair: [{{repo: them/chats, rows: 10}}]
stages:
  dpo: {{data: preferences, accept: [{accept}]}}
  sft: {{data: repair, continues: dpo}}
variants: {{main: {{stage: sft}}}}
evaluate: {{suites: [own]}}
gates: {{stop_rate: {{prompts_from: repair, prompts: {prompts}}}}}
card: {{title: T, summary: S.}}
""")
    return made.model_copy(update=settings)


def made_of(
    asked: Recipe,
    tables: Mapping[str, list[dict[str, Any]]],
    tokenizer: Any,
    max_length: int | None = None,
    folder: Path | None = None,
    benchmarks: Contamination | None = None,
) -> DataReport:
    def load(source: Source) -> Loaded:
        table = tables[source.repo]
        return Loaded("c" * 40, tuple(table[0]) if table else ("instruction", "output"), table, "mit")

    end: EndOfTurn = find(tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        return prepare(
            DataSettings.of(asked),
            load,
            tokenizer,
            end,
            lambda stage: (max_length, "keep_start"),
            lambda words, share: None,
            folder or Path(scratch) / "out",
            Path(scratch) / "scratch",
            benchmarks,
        )
