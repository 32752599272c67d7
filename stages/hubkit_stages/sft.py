"""Train an adapter on given answers (TRL's SFTTrainer), or go on training one: the repair of the turn end.

    stages:
      sft:
        data: repair
        continues: dpo                                   # the same adapter goes on being trained
        args: {learning_rate: 1e-3, max_steps: 40}       # keys of trl.SFTConfig

The loss falls on the last answer of each row alone, its turn end included. The learning rate decides whether the
turn end comes back: too small a one repairs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from hubkit.core.findings import Finding
from hubkit.recipe.stage import Artifact, Context
from hubkit.training import arguments, shared

VERSION = 2
SHAPED_BY = ("torch", "transformers", "trl", "peft", "bitsandbytes")


def check(ctx: Context) -> Iterator[Finding]:
    """The arguments, the adapter's shape and the quantization, against the installed libraries."""
    yield from arguments.check(ctx, "sft")


def run(ctx: Context) -> Artifact:
    """Make ``adapter/``, ``training.json`` and ``seen/texts.json``."""
    from trl import SFTTrainer

    prepared = shared.prepare(ctx)
    trainer = SFTTrainer(args=arguments.build(ctx, "sft"), **prepared.keywords())
    return shared.finish(ctx, trainer, prepared, "sft")
