"""Train an adapter on given answers (TRL's SFTTrainer), or continue training one: the repair of the end-of-turn token.

    stages:
      sft:
        data: repair
        continues: dpo                                   # keep training the same adapter
        args: {learning_rate: 1e-3, max_steps: 40}       # keys of trl.SFTConfig

The loss is computed on the last answer of each row alone, its end-of-turn token included; with `train_on: all` on
every answer of a conversation. The learning rate decides whether the model learns to emit that token again: too small
a one repairs nothing. With ``lora: none`` all the weights are trained.
"""

from __future__ import annotations

from collections.abc import Iterator

from hubkit.core.findings import Finding
from hubkit.recipe.stage import CheckContext, Context, StageResult
from hubkit.training import arguments, checks, shared
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.contract import Inputs, Settings
from hubkit.training.last_batch import dividing

VERSION = 3
SHAPED_BY = ("torch", "transformers", "trl", "peft", "bitsandbytes")
Output = TrainedAdapter

__all__ = ["SHAPED_BY", "VERSION", "Inputs", "Output", "Settings", "check", "run"]


def check(ctx: CheckContext[Settings]) -> Iterator[Finding]:
    """The arguments, the adapter and the quantization, against the installed libraries and the base."""
    yield from checks.check(ctx, "sft")


def run(ctx: Context[Settings, Inputs]) -> StageResult[TrainedAdapter]:
    """Write ``adapter/`` (or ``weights/``), ``training.json`` and ``seen/texts.json``."""
    from trl import SFTTrainer

    prepared = shared.prepare(ctx)
    args = arguments.build(ctx.settings, "sft", ctx.scratch / "checkpoints", evaluates=prepared.evaluates)
    trainer = dividing(SFTTrainer, "tokens")(**prepared.keywords(args, "sft"))
    return shared.finish(ctx, trainer, prepared, "sft")
