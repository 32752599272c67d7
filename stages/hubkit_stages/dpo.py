"""Train an adapter by direct preference optimization (TRL's DPOTrainer), by default on the base in 4 bits (QLoRA).

    stages:
      dpo:
        data: preferences
        lora: {r: 16, lora_alpha: 16, target_modules: all-linear}     # keys of peft.LoraConfig
        args: {learning_rate: 5e-5, beta: 0.1, max_length: 2048}      # keys of trl.DPOConfig

The reference of the preference is the base, or the adapter that the stage ``continues``, as it was when the stage
began. A killed run goes on from its last whole checkpoint.
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
    yield from arguments.check(ctx, "dpo")


def run(ctx: Context) -> Artifact:
    """Make ``adapter/``, ``training.json`` and ``seen/texts.json``."""
    from trl import DPOTrainer

    prepared = shared.prepare(ctx)
    trainer = DPOTrainer(args=arguments.build(ctx, "dpo"), **prepared.keywords())
    return shared.finish(ctx, trainer, prepared, "dpo")
