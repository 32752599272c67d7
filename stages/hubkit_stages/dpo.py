"""Train an adapter by direct preference optimization (TRL's DPOTrainer), by default on the base in 4 bits (QLoRA).

    stages:
      dpo:
        data: preferences
        lora: {r: 16, lora_alpha: 16, target_modules: all-linear}     # keys of peft.LoraConfig
        args: {learning_rate: 5e-5, beta: 0.1, max_length: 2048}      # keys of trl.DPOConfig

The reference of the preference is the base, or what the stage ``continues``, as it was when the stage began. With
``lora: none`` all the weights are trained. A killed run resumes from its last complete checkpoint. Of each pair the
prompt is computed once, and nothing is padded, where that is proved equal to TRL (``speedups: none`` turns it off).
"""

from __future__ import annotations

from collections.abc import Iterator

from hubkit.core.findings import Finding
from hubkit.recipe.stage import CheckContext, Context, StageResult
from hubkit.training import arguments, checks, shared
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.contract import Inputs, Settings
from hubkit.training.pairs.trainer import trainer_class
from hubkit.training.starting import reference_of

VERSION = 4
SHAPED_BY = ("torch", "transformers", "trl", "peft", "bitsandbytes")
Output = TrainedAdapter

__all__ = ["SHAPED_BY", "VERSION", "Inputs", "Output", "Settings", "check", "run"]


def check(ctx: CheckContext[Settings]) -> Iterator[Finding]:
    """The arguments, the adapter and the quantization, against the installed libraries and the base."""
    yield from checks.check(ctx, "dpo")


def run(ctx: Context[Settings, Inputs]) -> StageResult[TrainedAdapter]:
    """Write ``adapter/`` (or ``weights/``), ``training.json`` and ``seen/texts.json``."""
    prepared = shared.prepare(ctx)
    args = arguments.build(ctx.settings, "dpo", ctx.scratch / "checkpoints", evaluates=prepared.evaluates)
    reference = reference_of(prepared.model, ctx.settings)
    kind = trainer_class(ctx, args, prepared.model, prepared.tokenizer)
    trainer = kind(ref_model=reference, **prepared.keywords(args, "dpo"))
    return shared.finish(ctx, trainer, prepared, "dpo")
