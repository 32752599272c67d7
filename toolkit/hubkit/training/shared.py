"""What the training stages share: the model and its rows, and the training summary.

A stage builds TRL's own trainer between :func:`prepare` and :func:`finish`; see ``hubkit_stages/dpo.py``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core import numbers
from hubkit.core.errors import HubkitError
from hubkit.core.files import read_json
from hubkit.models import load
from hubkit.models.chat import trained
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.merging.merge import merge
from hubkit.models.merging.readable import adapter_for_all, peft_defaults
from hubkit.recipe.stage import StageResult
from hubkit.training import batch_size, batches, probe, tokenized
from hubkit.training.adapter import TrainedAdapter, TrainedOn
from hubkit.training.checkpoints import by_time, last_complete
from hubkit.training.contract import PROBED_TOKENS, TrainingContext
from hubkit.training.data.prepared import TrainingRows
from hubkit.training.data.tokens import Encoder
from hubkit.training.launching import ranks
from hubkit.training.rehearsal import Method
from hubkit.training.starting import model_to_train, save_weights, tokenizer_to_train
from hubkit.training.watching import stopping, trackers
from hubkit.training.watching.callback import CompleteError, watch
from hubkit.training.watching.curves import FILE, Curves
from hubkit.training.watching.probe import StopProbe
from hubkit.training.watching.spent import Spent
from hubkit.training.watching.watched import stop_rates

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    """Load the base (in 4 bits if the stage asks for it), its tokenizer, the rows, and what the stage continues.

    In a training of several processes each chooses its device first.
    """
    if ranks.is_main():  # it alone: it may remove the file that it reads
        stopping.refuse_again(ctx)
    ranks.join(ctx.settings.args.get("ddp_timeout") or ranks.TRAINING_WAIT)
    base = ctx.inputs.base
    ctx.report("loading the base", None)
    model, lora = model_to_train(base.source(ctx.target.endpoint), ctx.inputs.previous, ctx.settings)
    tokenizer = tokenizer_to_train(base, ctx.inputs.previous, ctx.target.endpoint)
    scratch, all_answers = ranks.own_folder(ctx.scratch), ctx.settings.train_on == "all"
    return Prepared(model, tokenizer, ctx.inputs.rows, lora, base.end_of_turn, scratch, all_answers)


def finish(ctx: TrainingContext, trainer: Any, prepared: Prepared, method: Method) -> StageResult[TrainedAdapter]:
    """Train (resuming from the last complete checkpoint, if there is one) and save the adapter, or the weights.

    Keeps the token ids that the trainer saw, too. Of several processes the main one alone writes. Raises RefusedError
    when the batches leave end-of-turn tokens out of the loss.
    """
    keep_precise(trainer.model)
    first = tokenized.first_rows(trainer.train_dataset, batches.ROWS, prepared.rows)
    batches.prove(trainer, prepared.tokenizer, prepared.end_of_turn, first, all_answers=prepared.all_answers)
    checkpoint = ranks.agreed(lambda: last_complete(ctx.scratch / "checkpoints"))
    if checkpoint:
        ctx.report(f"resuming from {checkpoint.name}", None)
    cut = probe.settle(ctx.settings, trainer, ctx.scratch, ctx.report)
    if batch_size.is_auto(ctx.settings.args):
        ctx.report(cut.in_words, None)
    spent = Spent.until(checkpoint)
    curves = _train(ctx, trainer, prepared, method, checkpoint, spent)
    total = spent.total()
    total["peak_memory_bytes"] = ranks.largest(total["peak_memory_bytes"])
    weights = gathered(trainer)
    if ranks.is_main():
        _save(ctx, trainer.model, weights)
        trained.save_seen(ctx.out, trained.seen(prepared.tokenizer, first))
        trackers.move(ctx.scratch / trackers.FOLDER, ctx.out)
    attention = getattr(trainer.model.config, "_attn_implementation", None)
    adapter = facts(ctx, trainer, method, total, checkpoint, curves)
    adapter = replace(adapter, batches=asdict(cut), attention=attention)
    if ranks.launched():
        adapter = replace(adapter, processes=ranks.count(), global_batch=cut.rows)
    last = next((point["loss"] for point in reversed(adapter.curve)), None)
    figure = f"{adapter.steps} steps" + (f"  loss {numbers.loss(last)}" if last is not None else "")
    figure += stop_rates(adapter.probes, adapter.steps or 0)
    return StageResult(adapter, figure, facts={"loss": last, "rows": adapter.rows})


def _train(
    ctx: TrainingContext, trainer: Any, prepared: Prepared, method: Method, checkpoint: Path | None, spent: Spent
) -> Curves:
    """Train from ``checkpoint`` on, watched: the curves are in ``scratch`` while it runs, and then in ``out``."""
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    curves = Curves.resumed(ctx.scratch / FILE, step, ctx.settings.name, method)
    asked, handler = _stop_probe(ctx, trainer, prepared, curves), trainer.callback_handler
    with trackers.kept_in(ctx.scratch / trackers.FOLDER, ctx.settings, handler.callbacks):
        trainer.add_callback(watch(ctx, spent, curves, asked, handler))
        trainer.add_callback(by_time(ctx.settings.checkpoint_minutes))
        _run(ctx, trainer, checkpoint)
    if ranks.is_main():
        curves.path = ctx.out / FILE
        curves.write()
    return curves


def _stop_probe(ctx: TrainingContext, trainer: Any, prepared: Prepared, curves: Curves) -> StopProbe | None:
    """What asks for the stop rate while it trains; None where that is not asked for, or cannot be."""
    settings = ctx.settings.probe
    if settings is None or not ranks.is_main():
        return None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        curves.off = "the weights are spread over several processes"
        return None
    return StopProbe.of(
        prepared.rows,
        prepared.tokenizer,
        prepared.end_of_turn,
        prompts=settings.prompts,
        max_new_tokens=settings.max_new_tokens or PROBED_TOKENS,
    )


def _run(ctx: TrainingContext, trainer: Any, checkpoint: Path | None) -> None:
    """Train; HubkitError when the memory does not suffice."""
    import torch

    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except CompleteError:
        trainer.is_in_train = False
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)  # trackers end their runs
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise HubkitError(
            f"Training {ctx.settings.name!r} ran out of memory at step {trainer.state.global_step + 1}.",
            hint=batch_size.after_out_of_memory(
                ctx.settings.args,
                ctx.settings.batch_size,
                ctx.scratch,
                batch_size.Batches.of(trainer.args),
                gpu=load.device() == "cuda",
            ),
        ) from error


def gathered(trainer: Any) -> dict[str, Any] | None:
    """The weights of ``trainer``'s model, brought together where each process has a part of them; else None.

    All the processes call it; those of the main one are whole.
    """
    from accelerate.utils import DistributedType

    if trainer.accelerator.distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return None
    sharded = trainer.model if trainer.accelerator.distributed_type == DistributedType.FSDP else trainer.model_wrapped
    return dict(trainer.accelerator.get_state_dict(sharded))


def _save(ctx: TrainingContext, model: Any, weights: Mapping[str, Any] | None) -> None:
    """Save what was trained. An adapter on the weights of an earlier stage is merged into them.

    ``weights`` are those of ``model`` where it has only a part of them itself.
    """
    base, settings, previous = ctx.inputs.base, ctx.settings, ctx.inputs.previous
    if settings.trains_all_weights:
        save_weights(model, ctx.out / "weights", previous, weights)
    elif previous is not None and previous.form == "weights":
        adapter = ctx.scratch / "adapter"
        shutil.rmtree(adapter, ignore_errors=True)
        save_adapter(model, adapter, base.repo, base.commit, weights)
        merge(previous.weights, adapter, ctx.out / "weights", dtype="float32", report=ctx.report)
    else:
        save_adapter(model, ctx.out / "adapter", base.repo, base.commit, weights)


def keep_precise(model: Any) -> None:
    """Train the adapter's weights (or all of them) in float32, whatever the base is in.

    TRL 1.16 turns them into bfloat16 on a 4-bit base. There an update of less than a 512th of a weight is lost, which
    at the small rates of DPO is most of them; and a resumed run loads them as float32, so that it would not be
    the same run.
    """
    for weight in model.parameters():
        if weight.requires_grad and weight.is_floating_point():
            weight.data = weight.data.float()


def save_adapter(model: Any, folder: Path, repo: str, commit: str, weights: Mapping[str, Any] | None = None) -> None:
    """Save the trained adapter alone, as safetensors, bound to the base's repo and commit.

    ``model`` is a PeftModel; the reference adapter that DPO may have added to it stays out. Equal trainings are equal
    bytes: PEFT keeps the names of modules as sets and writes them in whatever order they come. Settings at PEFT's
    defaults are left out, for older PEFT refuses a key that it does not know. ``weights`` are those of the model where
    it has only a part of them itself.
    """
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = repo, commit
    config.inference_mode = True
    given = {} if weights is None else {"state_dict": weights}
    model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False, **given)
    (folder / "README.md").unlink(missing_ok=True)
    settings = read_json(folder / "adapter_config.json")
    named = {key: sorted(value) for key, value in settings.items() if isinstance(getattr(config, key, None), set)}
    written = adapter_for_all({**settings, **named}, peft_defaults(type(config)))
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=2, sort_keys=True), "utf-8")
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


def counted_tokens(history: Sequence[Mapping[str, Any]], steps: int) -> tuple[int | None, int | None]:
    """The tokens trained on as TRL counted them: as they were last logged, and after the last of ``steps``, if known.

    The summary at the end of a training has them too, where the last step itself was not logged.
    """
    logged = [point for point in history if "num_tokens" in point]
    if not logged:
        return None, None
    known = int(logged[-1]["num_tokens"])
    return known, known if logged[-1].get("step") == steps else None


def facts(
    ctx: TrainingContext,
    trainer: Any,
    method: Method,
    total: Mapping[str, Any],
    checkpoint: Path | None,
    curves: Curves,
) -> TrainedAdapter:
    """What happened, for the card. ``total`` is :meth:`Spent.total`."""
    from importlib.metadata import version

    known, tokens = None, None
    if checkpoint is None:
        known, tokens = counted_tokens(trainer.state.log_history, trainer.state.global_step)
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
        tokens_per_second=round(known / total["seconds"], 1) if known is not None else None,
        tokens=tokens,
        peak_memory_bytes=total["peak_memory_bytes"],
        device=ranks.devices_in_words(),
        quantization=settings.quantization,
        lora=_shape(lora) if lora is not None else {},
        args=dict(settings.args),
        curve=tuple(
            {name: value for name, value in point.items() if isinstance(value, int | float)}
            for point in trainer.state.log_history
            if "loss" in point
        ),
        evaluation=tuple(
            {"step": point["step"], "loss": point["eval_loss"]}
            for point in trainer.state.log_history
            if "eval_loss" in point
        ),
        probes=tuple(curves.probes),
        trackers=tuple(curves.trackers),
        pairs=trainer.pairs_report() if hasattr(trainer, "pairs_report") else {},
        libraries={name: version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")},
        folder=ctx.out,
    )
