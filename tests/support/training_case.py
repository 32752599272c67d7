"""A training step by itself: a small base in a folder, rows, and the context that the pipeline would give.

Run as a program it trains one stage: ``python training_case.py FOLDER STAGE RECIPE_TEXT`` (for tests that kill it);
with ``launch`` after that, in the processes of the recipe.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept import Kept, kept, perform, sample

from hubkit.core.files import MANIFEST, write_json
from hubkit.core.target import Target
from hubkit.pipeline.jobs import expand
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runs import Run
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Context, Report, StageResult, silent

COMMIT = "b" * 40
RECIPE = """
repo: me/my-model
visibility: public
license: apache-2.0
seed: 3
base: {{repo: them/base}}
data:
  preferences: [{{repo: them/pairs}}]
  repair: [{{repo: them/chats}}]
stages:
  dpo:
    data: preferences
    quantization: {quantization}
    lora: {{r: 4, lora_alpha: 8, target_modules: all-linear}}
    args: {{{dpo}}}
  sft: {{data: repair, continues: dpo, quantization: {quantization}, args: {{{sft}}}}}
variants: {{main: {{stage: sft}}}}
evaluate: {{suites: [own]}}
gates: {{stop_rate: {{prompts_from: repair}}}}
card: {{title: T, summary: S.}}
"""
DPO = "max_steps: 8, per_device_train_batch_size: 4, max_length: 64, learning_rate: 1e-3, logging_steps: 2"
SFT = "max_steps: 4, per_device_train_batch_size: 4, max_length: 64, learning_rate: 1e-3, logging_steps: 1"


def recipe_text(dpo: str = DPO, sft: str = SFT, quantization: str = "nf4") -> str:
    return RECIPE.format(dpo=dpo, sft=sft, quantization=quantization)


class Written:
    """An artifact whose files are there already."""

    def save(self, folder: Path) -> None:
        """Nothing is left to save."""


@dataclass(frozen=True)
class Case:
    """A run whose base and data are done; ``folder`` holds the base in ``base-model``."""

    folder: Path

    @property
    def run(self) -> Run:
        return Run(self.folder / "run")

    def prepare(self) -> Case:
        """Make the base from a few steps, and the rows, as the steps before would."""
        from hubkit.models.chat import eos
        from hubkit_stages.recipes.tiny import model

        tokenizer = model.make_tokenizer()
        made = model._new_model(tokenizer)
        made.save_pretrained(self.folder / "base-model")
        tokenizer.save_pretrained(self.folder / "base-model")
        told = {
            "repo": str(self.folder / "base-model"),
            "commit": COMMIT,
            "end_of_turn": eos.find(tokenizer).to_json(),
            "pad_token": tokenizer.pad_token,
        }
        out = self.begin("base")
        write_json(out / "base.json", sample("base.json", **told))
        for name in ("chat_template.jinja", "training_template.jinja"):
            (out / name).write_text(tokenizer.chat_template)
        self.keep("base")
        out = self.begin("data")
        asked = [[{"role": "user", "content": f"What is number {n}?"}] for n in range(24)]
        said = [[{"role": "assistant", "content": f"It is {n}."}] for n in range(24)]
        pairs = [
            {"prompt": prompt, "chosen": answer, "rejected": other}
            for prompt, answer, other in zip(asked, said, said[1:] + said[:1], strict=True)
        ]
        chats = [{"prompt": prompt, "completion": answer} for prompt, answer in zip(asked, said, strict=True)]
        for name, rows in {"preferences": pairs, "repair": chats}.items():
            (out / "sets").mkdir(exist_ok=True)
            (out / "sets" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        write_json(out / "data.json", sample("data.json", stages={"dpo": {"max_length": 64}}))
        self.keep("data")
        return self

    def leave_rows(self, count: int) -> None:
        """Leave the first ``count`` rows of each entry of the data."""
        found = self.run.artifacts / "data"
        files = {path.relative_to(found): path.read_text() for path in found.rglob("*.json*")}
        out = self.begin("data")
        for name, text in files.items():
            if name == Path(MANIFEST):
                continue
            lines = text.splitlines(keepends=True)
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text("".join(lines[:count] if name.suffix == ".jsonl" else lines))
        self.keep("data")

    def begin(self, step: str) -> Path:
        """Begin ``step``; the folder of what it makes."""
        self.run.begin(step, "k")
        return self.run.out(step)

    def keep(self, step: str) -> None:
        """Keep what lies in the folder of ``step``."""
        self.run.keep(step, "k", StageResult(Written(), "made"), 0.0)

    def context(self, recipe: Recipe, step: str, key: str = "k") -> Context[Any, Any]:
        """What the stage of ``step`` is given; the step begins."""
        self.run.begin(step, key)
        made = {name: kept(found) for name in ("base", "data", "train[dpo]") if (found := self.run.find(name))}
        target = Target("http://127.0.0.1:1", self.folder / "hf", embedded=True)
        state = ReleaseState(recipe, self.folder, target, self.run, expand(recipe), made)
        return state.context(next(job for job in state.jobs if job.id == step))

    def train(self, stage: str, text: str | None = None, key: str = "k") -> Kept:
        """Train ``stage`` here and now, with the stage's own code."""
        from hubkit_stages import dpo, sft

        ctx = self.context(parse_recipe(text or recipe_text()), f"train[{stage}]", key)
        return perform({"dpo": dpo, "sft": sft}[stage], ctx, self.run, f"train[{stage}]", key)

    def launch(self, stage: str, text: str, report: Report = silent) -> Kept:
        """Train ``stage`` as a release does: in a worker, and in the processes of the recipe's ``launch``."""
        from hubkit.pipeline.worker import Worker

        recipe, step = parse_recipe(text), f"train[{stage}]"
        (self.run.path / "recipe.json").write_text(recipe.model_dump_json())
        target = Target("http://127.0.0.1:1", self.folder / "hf", embedded=True)
        state = ReleaseState(recipe, self.folder, target, self.run, expand(recipe))
        with Worker(state) as worker:
            worker.run(next(job for job in state.jobs if job.id == step), report)
        return kept(self.run.find(step))


if __name__ == "__main__":
    case = Case(Path(sys.argv[1]))
    (case.launch if "launch" in sys.argv[4:] else case.train)(sys.argv[2], sys.argv[3])
