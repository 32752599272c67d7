"""What the training stages share: the 4-bit base, the adapter, the watch over a run, its facts.

A stage builds TRL's own trainer between :func:`prepare` and :func:`finish`; see ``hubkit_stages/dpo.py``.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.errors import HubkitError
from hubkit.core.files import read_json, write_json
from hubkit.hub.errors import translated
from hubkit.models import chat
from hubkit.models.chat.eos import EndOfTurn
from hubkit.recipe.stage import Artifact, Context
from hubkit.training.arguments import Method, lora_class
from hubkit.training.checkpoints import last_complete, seal

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

_DIVERGED = 20.0
"""A logged loss this many times the first one, and above 10, is a run gone astray and not a bad batch."""

_SPENT = "hubkit_spent.json"


@dataclass(frozen=True)
class Prepared:
    """All that a trainer is made of. ``lora`` is None when ``model`` carries the adapter that goes on being trained."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: Dataset
    lora: LoraConfig | None
    end_of_turn: EndOfTurn

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of a TRL trainer."""
        return {
            "model": self.model,
            "train_dataset": self.rows,
            "processing_class": self.tokenizer,
            "peft_config": self.lora,
        }


def prepare(ctx: Context) -> Prepared:
    """Load the base (in 4 bits when the stage says so), its tokenizer, the rows, and the adapter that is continued."""
    base = ctx.input("base").json("base.json")
    training = ctx.training
    ctx.report("loading the base", None)
    with translated(ctx.target.endpoint, base["repo"], base["commit"]):
        model = load_base(base["repo"], base["commit"], quantization=training.quantization)
        tokenizer = load_tokenizer(base, ctx.input("base").path)
    lora = None
    if training.continues:
        from peft import PeftModel

        before = ctx.inputs[f"train[{training.continues}]"].path / "adapter"
        model = PeftModel.from_pretrained(model, before, is_trainable=True)
    else:
        lora = lora_class()(task_type="CAUSAL_LM", **training.lora)
    rows = load_rows(set_file(ctx.input("data").path, training.data))
    end_of_turn = EndOfTurn.from_json(base["end_of_turn"])
    return Prepared(model, tokenizer, rows, lora, end_of_turn)


def load_base(repo: str, commit: str, *, quantization: str) -> PreTrainedModel:
    """The base model on the GPU, or in float32 on the CPU; its big matrices in NF4 when ``quantization`` says so."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if gpu and torch.cuda.is_bf16_supported() else torch.float16 if gpu else torch.float32
    given: dict[str, Any] = {"revision": commit, "dtype": dtype}
    if gpu:
        given["device_map"] = {"": torch.cuda.current_device()}
    if quantization == "nf4":
        given["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model = AutoModelForCausalLM.from_pretrained(repo, **given)
    keep_differentiable(model)
    return model


def keep_differentiable(model: Any) -> int:
    """Keep bitsandbytes from repacking 4-bit layers for AVX512-BF16; returns how many layers there are.

    On such CPUs any forward in eval mode (a generation, say) repacks ``Linear4bit`` for good into a form whose
    backward is wrong: the adapter then learns noise, with only a warning. Measured with bitsandbytes 0.50.2.
    """
    import bitsandbytes as bnb

    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def load_tokenizer(base: Mapping[str, Any], folder: Path) -> PreTrainedTokenizerBase:
    """The base's tokenizer with the template and the padding token that the base step settled in ``folder``.

    The template is the one for training: it renders what the published one renders, and may mark the answers.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base["repo"], revision=base["commit"])
    tokenizer.chat_template = (folder / "training_template.jinja").read_text(encoding="utf-8")
    tokenizer.pad_token = base["pad_token"]
    return tokenizer


def set_file(folder: Path, name: str) -> Path:
    """Where the data artifact in ``folder`` keeps the rows of the set ``name``: apart from its own files."""
    return folder / "sets" / f"{name}.jsonl"


def load_rows(path: Path) -> Dataset:
    """The rows that the data step wrote, as a data set in memory."""
    from datasets import Dataset

    with path.open(encoding="utf-8") as lines:
        return Dataset.from_list([json.loads(line) for line in lines])


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
        found = read_json(checkpoint / _SPENT)
        return cls(float(found["seconds"]), int(found["peak_memory_bytes"]))

    def total(self) -> dict[str, Any]:
        """``seconds`` and ``peak_memory_bytes`` of all processes up to now."""
        seconds = self.seconds + time.monotonic() - self.began
        return {"seconds": round(seconds, 3), "peak_memory_bytes": max(self.peak, _peak_memory())}


def watch(ctx: Context, spent: Spent | None = None) -> TrainerCallback:
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
                raise _astray(ctx, state.global_step + 1, "a gradient is not finite")

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
            if "loss" not in (logs or {}):
                return
            loss = float(logs["loss"])
            self.first = loss if self.first is None else self.first
            if not math.isfinite(loss):
                raise _astray(ctx, state.global_step, f"the loss is {loss}")
            if loss > max(10.0, _DIVERGED * abs(self.first)):
                raise _astray(ctx, state.global_step, f"the loss went from {self.first:.3g} to {loss:.3g}")
            share = state.global_step / state.max_steps if state.max_steps else None
            ctx.report(f"step {state.global_step}/{state.max_steps}  loss {loss:.3f}", share)

        def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.is_world_process_zero:
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                if folder.is_dir():
                    write_json(folder / _SPENT, so_far.total())
                    seal(folder)

    return Watch()


def _astray(ctx: Context, step: int, what: str) -> HubkitError:
    kept = last_complete(ctx.scratch / "checkpoints")
    saved = f"The last good checkpoint is {kept.name}" if kept else "No checkpoint was saved before"
    return HubkitError(
        f"The training of {ctx.stage_name!r} was stopped at step {step}: {what}. {saved}; nothing was published.",
        hint="Lower learning_rate, or lengthen warmup_steps, in the stage's `args`.",
    )


def finish(ctx: Context, trainer: Any, prepared: Prepared, method: Method) -> Artifact:
    """Train (on from the last whole checkpoint, if there is one), save the adapter.

    Write ``training.json``, and ``seen/texts.json`` with the token ids that the trainer saw.
    """
    keep_precise(trainer.model)
    checkpoint = last_complete(ctx.scratch / "checkpoints")
    if checkpoint:
        ctx.report(f"going on from {checkpoint.name}", None)
    spent = Spent.until(checkpoint)
    trainer.add_callback(watch(ctx, spent))
    _run(ctx, trainer, checkpoint)
    total = spent.total()
    base = ctx.input("base").json("base.json")
    save_adapter(trainer.model, ctx.out / "adapter", base["repo"], base["commit"])
    told = facts(ctx, trainer, method, base, total, checkpoint)
    write_json(ctx.out / "training.json", told)
    write_json(ctx.out / chat.SEEN_FILE, chat.seen(prepared.tokenizer, trainer.train_dataset))
    last = next((point["loss"] for point in reversed(told["curve"])), None)
    figure = f"{told['steps']} steps" + (f"  loss {last:.3f}" if last is not None else "")
    return ctx.artifact(figure=figure, loss=last, rows=told["rows"])


def _run(ctx: Context, trainer: Any, checkpoint: Path | None) -> None:
    """Train; HubkitError when the memory does not suffice."""
    import torch

    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise HubkitError(
            f"The training of {ctx.stage_name!r} ran out of memory at step {trainer.state.global_step + 1}.",
            hint="Halve per_device_train_batch_size, double gradient_accumulation_steps, or lower max_length.",
        ) from error


def keep_precise(model: Any) -> None:
    """Train the adapter's weights in float32, whatever the base is in.

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


def facts(
    ctx: Context,
    trainer: Any,
    method: Method,
    base: Mapping[str, Any],
    total: Mapping[str, Any],
    checkpoint: Path | None,
) -> dict[str, Any]:
    """What happened, for the card: ``training.json``. ``total`` is :meth:`Spent.total`."""
    from importlib.metadata import version

    history = [point for point in trainer.state.log_history if "loss" in point]
    tokens = [int(point["num_tokens"]) for point in history if "num_tokens" in point]
    whole = checkpoint is None and tokens
    lora = trainer.model.peft_config["default"]
    training = ctx.training
    return {
        "stage": ctx.stage_name,
        "uses": training.uses or ctx.stage_name,
        "method": method,
        "base": {"repo": base["repo"], "commit": base["commit"]},
        "continues": training.continues,
        "rows": len(trainer.train_dataset),
        "epochs": trainer.state.epoch,
        "steps": trainer.state.global_step,
        "seconds": total["seconds"],
        "resumed_from": checkpoint.name if checkpoint else None,
        "tokens_per_second": round(tokens[-1] / total["seconds"], 1) if whole else None,
        "peak_memory_bytes": total["peak_memory_bytes"],
        "device": _device(),
        "quantization": training.quantization,
        "lora": {
            "r": lora.r,
            "lora_alpha": lora.lora_alpha,
            "lora_dropout": lora.lora_dropout,
            "target_modules": sorted({name.rsplit(".", 1)[-1] for name in lora.target_modules}),
        },
        "args": dict(training.args),
        "curve": [
            {name: value for name, value in point.items() if isinstance(value, int | float)} for point in history
        ],
        "libraries": {name: version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")},
        "truncation": ctx.input("data").json("data.json")["stages"].get(ctx.stage_name, {}),
    }


def _peak_memory() -> int:
    """The most bytes held at once: of the GPU when there is one, else of this process."""
    import resource

    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
