"""What the training stages share: the model and its rows, a callback that stops diverging runs, and the training
summary.

A stage builds TRL's own trainer between :func:`prepare` and :func:`finish`; see ``hubkit_stages/dpo.py``.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core import numbers
from hubkit.core.errors import HubkitError
from hubkit.core.files import read_json, write_json
from hubkit.models import load
from hubkit.models.chat import trained
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.merging.merge import merge
from hubkit.recipe.stage import Context, StageResult
from hubkit.training import batches, tokenized
from hubkit.training.adapter import TrainedAdapter, TrainedOn
from hubkit.training.checkpoints import SPENT, last_complete, seal
from hubkit.training.contract import Inputs, Settings
from hubkit.training.data.prepared import TrainingRows
from hubkit.training.data.tokens import Encoder
from hubkit.training.rehearsal import Method
from hubkit.training.starting import model_to_train, save_weights, tokenizer_to_train

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

TrainingContext = Context[Settings, Inputs]
"""What a training stage is given."""

_DIVERGED = 20.0
"""A logged loss this many times the first one, and above 10, is a diverged run and not a bad batch."""


@dataclass(frozen=True)
class Prepared:
    """All that a trainer is made of.

    ``lora`` is None when ``model`` carries the adapter that is trained further, or when all its weights are trained.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: TrainingRows
    lora: LoraConfig | None
    end_of_turn: EndOfTurn
    scratch: Path
    all_answers: bool = False

    @property
    def evaluates(self) -> bool:
        """Whether there are rows for the evaluation loss."""
        return self.rows.evaluation_tokens(self.tokenizer) is not None

    def keywords(self, args: Any, method: Method) -> dict[str, Any]:
        """Keyword arguments of TRL's trainer of ``method`` with ``args``, which are told what is prepared already."""
        encoder = Encoder(self.tokenizer, self.end_of_turn, {}, self.all_answers)
        trained, evaluated = tokenized.datasets_for(self.rows, self.tokenizer, method, args, self.scratch, encoder)
        return {
            "model": self.model,
            "args": args,
            "train_dataset": trained,
            "eval_dataset": evaluated,
            "processing_class": self.tokenizer,
            "peft_config": self.lora,
        }


def prepare(ctx: TrainingContext) -> Prepared:
    """Load the base (in 4 bits if the stage asks for it), its tokenizer, the rows, and what the stage continues."""
    base = ctx.inputs.base
    ctx.report("loading the base", None)
    model, lora = model_to_train(base.source(ctx.target.endpoint), ctx.inputs.previous, ctx.settings)
    tokenizer = tokenizer_to_train(base, ctx.inputs.previous, ctx.target.endpoint)
    return Prepared(
        model, tokenizer, ctx.inputs.rows, lora, base.end_of_turn, ctx.scratch, ctx.settings.train_on == "all"
    )


@dataclass(frozen=True)
class Spent:
    """What a training took before this process, and when this one began (``time.monotonic``, seconds).

    Each checkpoint carries its own, so that it counts what led to it, and not what a kill threw away after it.
    """

    seconds: float = 0.0
    peak: int = 0
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def until(cls, checkpoint: Path | None) -> Spent:
        """What it took to come to ``checkpoint``; nothing for None."""
        if checkpoint is None:
            return cls()
        found = read_json(checkpoint / SPENT)
        return cls(float(found["seconds"]), int(found["peak_memory_bytes"]))

    def total(self) -> dict[str, Any]:
        """``seconds`` and ``peak_memory_bytes`` of all processes up to now."""
        seconds = self.seconds + time.monotonic() - self.began
        return {"seconds": round(seconds, 3), "peak_memory_bytes": max(self.peak, load.peak_memory())}


def watch(ctx: TrainingContext, spent: Spent | None = None) -> TrainerCallback:
    """A callback that reports the loss, seals checkpoints, and stops a run whose numbers are no longer finite.

    A gradient that is not finite is caught before the optimizer uses it, so the weights of that step stay good.
    With a gradient scaler (fp16) it is not looked for: there the first scales overflow as a rule, and the scaler
    leaves such a step out itself. ``spent`` is written into each checkpoint.
    """
    import math

    import torch
    from transformers import TrainerCallback

    so_far = spent or Spent()

    class Watch(TrainerCallback):  # type: ignore[misc]
        first: float | None = None

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if getattr(given.get("optimizer"), "scaler", None) is not None:
                return
            gradients = [weight.grad for weight in given["model"].parameters() if weight.grad is not None]
            if gradients and not torch.stack([item.isfinite().all() for item in gradients]).all().item():
                raise _diverged(ctx, state.global_step + 1, "a gradient is not finite")

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
            if "loss" not in (logs or {}):
                return
            loss = float(logs["loss"])
            self.first = loss if self.first is None else self.first
            if not math.isfinite(loss):
                raise _diverged(ctx, state.global_step, f"the loss is {loss}")
            if loss > max(10.0, _DIVERGED * abs(self.first)):
                raise _diverged(
                    ctx, state.global_step, f"the loss went from {numbers.short(self.first)} to {numbers.short(loss)}"
                )
            share = state.global_step / state.max_steps if state.max_steps else None
            ctx.report(f"step {state.global_step}/{state.max_steps}  loss {numbers.loss(loss)}", share)

        def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.is_world_process_zero:
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                if folder.is_dir():
                    write_json(folder / SPENT, so_far.total())
                    seal(folder)

    return Watch()


def _diverged(ctx: TrainingContext, step: int, what: str) -> HubkitError:
    kept = last_complete(ctx.scratch / "checkpoints")
    saved = kept.name if kept else "none"
    return HubkitError(
        f"Training {ctx.settings.name!r} diverged at step {step}: {what}. Last good checkpoint: {saved}.",
        hint="Lower learning_rate or raise warmup_steps in the stage's `args`.",
    )


def finish(ctx: TrainingContext, trainer: Any, prepared: Prepared, method: Method) -> StageResult[TrainedAdapter]:
    """Train (resuming from the last complete checkpoint, if there is one) and save the adapter, or the weights.

    Keeps the token ids that the trainer saw, too. Raises RefusedError when its batches leave end-of-turn tokens out of
    the loss.
    """
    keep_precise(trainer.model)
    first = tokenized.first_rows(trainer.train_dataset, batches.ROWS, prepared.rows)
    batches.prove(trainer, prepared.tokenizer, prepared.end_of_turn, first, all_answers=prepared.all_answers)
    checkpoint = last_complete(ctx.scratch / "checkpoints")
    if checkpoint:
        ctx.report(f"resuming from {checkpoint.name}", None)
    spent = Spent.until(checkpoint)
    trainer.add_callback(watch(ctx, spent))
    _run(ctx, trainer, checkpoint)
    total = spent.total()
    _save(ctx, trainer.model)
    adapter = facts(ctx, trainer, method, total, checkpoint)
    trained.save_seen(ctx.out, trained.seen(prepared.tokenizer, first))
    last = next((point["loss"] for point in reversed(adapter.curve)), None)
    figure = f"{adapter.steps} steps" + (f"  loss {numbers.loss(last)}" if last is not None else "")
    return StageResult(adapter, figure, facts={"loss": last, "rows": adapter.rows})


def _run(ctx: TrainingContext, trainer: Any, checkpoint: Path | None) -> None:
    """Train; HubkitError when the memory does not suffice."""
    import torch

    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise HubkitError(
            f"Training {ctx.settings.name!r} ran out of memory at step {trainer.state.global_step + 1}.",
            hint="Halve per_device_train_batch_size, double gradient_accumulation_steps, or lower max_length.",
        ) from error


def _save(ctx: TrainingContext, model: Any) -> None:
    """Save what was trained. An adapter on the weights of an earlier stage is merged into them."""
    base, settings, previous = ctx.inputs.base, ctx.settings, ctx.inputs.previous
    if settings.trains_all_weights:
        save_weights(model, ctx.out / "weights", previous)
    elif previous is not None and previous.form == "weights":
        adapter = ctx.scratch / "adapter"
        shutil.rmtree(adapter, ignore_errors=True)
        save_adapter(model, adapter, base.repo, base.commit)
        merge(previous.weights, adapter, ctx.out / "weights", dtype="float32", report=ctx.report)
    else:
        save_adapter(model, ctx.out / "adapter", base.repo, base.commit)


def keep_precise(model: Any) -> None:
    """Train the adapter's weights (or all of them) in float32, whatever the base is in.

    TRL 1.16 turns them into bfloat16 on a 4-bit base. There an update of less than a 512th of a weight is lost, which
    at the small rates of DPO is most of them; and a resumed run loads them as float32, so that it would not be
    the same run.
    """
    for weight in model.parameters():
        if weight.requires_grad and weight.is_floating_point():
            weight.data = weight.data.float()


def save_adapter(model: Any, folder: Path, repo: str, commit: str) -> None:
    """Save the trained adapter alone, as safetensors, bound to the base's repo and commit.

    ``model`` is a PeftModel; the reference adapter that DPO may have added to it stays out.
    """
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = repo, commit
    config.inference_mode = True
    model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    for extra in [item for item in folder.iterdir() if item.is_dir()]:
        shutil.rmtree(extra)


def _targets(lora: Any) -> list[str]:
    """The last names of what the adapter ``lora`` (of PEFT) changes: modules, and fused weights of experts."""
    modules = lora.target_modules or ()
    names = [modules] if isinstance(modules, str) else [*modules, *(getattr(lora, "target_parameters", None) or ())]
    return sorted({name.rsplit(".", 1)[-1] for name in names})


def _shape(lora: Any) -> dict[str, Any]:
    """What the card tells of the adapter ``lora`` (of PEFT)."""
    return {
        "r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": _targets(lora),
    }


def facts(
    ctx: TrainingContext, trainer: Any, method: Method, total: Mapping[str, Any], checkpoint: Path | None
) -> TrainedAdapter:
    """What happened, for the card. ``total`` is :meth:`Spent.total`."""
    from importlib.metadata import version

    history = [point for point in trainer.state.log_history if "loss" in point]
    tokens = [int(point["num_tokens"]) for point in history if "num_tokens" in point]
    uninterrupted = checkpoint is None and tokens
    settings, base = ctx.settings, ctx.inputs.base
    lora = None if settings.trains_all_weights else trainer.model.peft_config["default"]
    return TrainedAdapter(
        stage=settings.name,
        form=settings.form,
        uses=settings.uses,
        method=method,
        base=TrainedOn(base.repo, base.commit),
        continues=settings.continues,
        rows=len(trainer.train_dataset),
        epochs=trainer.state.epoch,
        steps=trainer.state.global_step,
        seconds=total["seconds"],
        resumed_from=checkpoint.name if checkpoint else None,
        tokens_per_second=round(tokens[-1] / total["seconds"], 1) if uninterrupted else None,
        peak_memory_bytes=total["peak_memory_bytes"],
        device=load.device_name(),
        quantization=settings.quantization,
        lora=_shape(lora) if lora is not None else {},
        args=dict(settings.args),
        curve=tuple(
            {name: value for name, value in point.items() if isinstance(value, int | float)} for point in history
        ),
        evaluation=tuple(
            {"step": point["step"], "loss": point["eval_loss"]}
            for point in trainer.state.log_history
            if "eval_loss" in point
        ),
        libraries={name: version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")},
        folder=ctx.out,
    )
