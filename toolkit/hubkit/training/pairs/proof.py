"""Which way is the fastest whose log-probabilities are TRL's own: asked of the model itself, with the first rows.

What is known to differ is not tried. What remains is compared with TRL's padded forward pass, token by token; rounding
may move them as far as it moves TRL's own when the same rows are padded otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubkit.models.load import release_memory
from hubkit.training.pairs.forward import Rearranged, Way
from hubkit.training.pairs.reference import DROPS, part

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 4
"""Pairs that are compared."""
_EXACT, _ROUNDED = 1e-4, 2e-2
"""The largest difference of a log-probability that is rounding in any case: in float32, in half precision."""
_TIMES = 3.0
"""How many times as far as its own rounding moves TRL's numbers ours may be from them."""
_NO_MEMORY = "the memory does not suffice to compare the first rows"
_ATTENTIONS = frozenset({"sdpa", "eager", "flex_attention"})
CONFIG_KEYS = (*DROPS, "sliding_window", "attention_chunk_size", "use_sliding_window", "layer_types")
"""What of a model's config.json decides whether rows can share a prompt."""
_OVER_ALL_TOKENS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
_FLASH = ("flash_attention", "kernels-community/flash", "kernels-community/vllm-flash")


@dataclass(frozen=True)
class Decision:
    """The way to go, and why it is not a faster one (None: it is the fastest)."""

    way: Way
    reason: str | None = None


def decide(trainer: Any, rearranged: Rearranged, inputs: dict[str, Any], longest: int) -> Decision:
    """The fastest way that is proved equal on the padded batch ``inputs``. No row has more than ``longest`` tokens."""
    reason = unfit(trainer, longest)
    ways: list[Way] = ["head"] if reason else [*(_with_flash(trainer)), "shared", "head"]
    if needs_all(trainer):
        ways = []
    batch = part(inputs, range(min(ROWS, len(inputs["input_ids"]) // 2)))
    wanted, noise = _of_trl(trainer, rearranged, batch) if ways else ({}, 0.0)
    for way in ways:
        problem = _difference(trainer, rearranged, way, batch, wanted, noise) if wanted else _NO_MEMORY
        if _agreed(trainer, problem is None):
            return Decision(way, reason)
        if way != "varlen":
            reason = reason or problem or "another process found other log-probabilities"
    return Decision("plain", reason or needs_all(trainer))


def _of_trl(trainer: Any, rearranged: Rearranged, batch: dict[str, Any]) -> tuple[dict[str, Tensor], float]:
    """TRL's own numbers of ``batch``, and how far rounding moves them; no numbers where they do not fit."""
    import torch

    try:
        with rearranged.going("plain"):
            wanted = _log_probs(trainer, batch)
            return wanted, _noise(trainer, batch, wanted)
    except torch.OutOfMemoryError:
        release_memory()
        return {}, 0.0


def unfit(trainer: Any, longest: int) -> str | None:
    """Why rows cannot share a prompt with this model; None when nothing is known against it."""
    models = [trainer.model] if trainer.ref_model is None else [trainer.model, trainer.ref_model]
    if found := needs_all(trainer):
        return found
    if found := args_problem(vars(trainer.args)):
        return found
    return next((found for model in models if (found := _model(model, longest))), None)


def args_problem(args: Mapping[str, Any]) -> str | None:
    """Why rows cannot share a prompt with these ``args`` of TRL; None when nothing is known against it."""
    if args.get("neftune_noise_alpha"):
        return "the noise of neftune_noise_alpha depends on the length of the padded rows"
    return "a compiled model keeps its shapes" if args.get("torch_compile") else None


def needs_all(trainer: Any) -> str | None:
    """Why TRL's forward pass must stay as it is; None when only the model decides."""
    if trainer.aux_loss_enabled:
        return "the loss that balances experts counts each token of the padded rows"
    if trainer.args.torch_compile:
        return "a compiled model keeps its shapes"
    if trainer.accelerator.parallelism_config is not None:
        return "the rows are split over several devices"
    return None


def _model(model: Any, longest: int) -> str | None:
    import torch

    if getattr(model, "active_peft_config", None) is not None and model.active_peft_config.is_prompt_learning:
        return "this adapter puts tokens of its own before each row"
    base = inner(model)
    config = base.config.get_text_config()
    if any(isinstance(item, torch.nn.Dropout) and item.p > 0 for item in model.modules()):
        return "the model has dropout"
    if found := config_problem({name: getattr(config, name, None) for name in CONFIG_KEYS}, longest):
        return found
    if not _takes(base.base_model, "position_ids"):
        return "its tokens cannot be given positions"
    attention = base.config._attn_implementation
    if not base._can_set_attn_implementation() or not (attention in _ATTENTIONS or attention.startswith(_FLASH)):
        return f"its attention ({attention}) cannot be replaced"
    return None


def config_problem(config: Mapping[str, Any], longest: int) -> str | None:
    """Why rows of up to ``longest`` tokens cannot share a prompt in a model of this config.json (of its text part)."""
    if any(config.get(name) for name in DROPS):
        return "the attention of the model has dropout"
    for name in ("sliding_window", "attention_chunk_size"):
        window = config.get(name)
        if isinstance(window, int) and window < longest and config.get("use_sliding_window") is not False:
            return f"its attention reaches {window} tokens, and rows have up to {longest}"
    if kinds := {*(config.get("layer_types") or ())} - _OVER_ALL_TOKENS:
        return f"it has layers that are no attention over all tokens: {', '.join(sorted(kinds))}"
    return None


def inner(model: Any) -> Any:
    """The model of transformers within what PEFT made of it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _takes(module: Any, name: str) -> bool:
    import inspect

    return name in inspect.signature(module.forward).parameters


def _with_flash(trainer: Any) -> Iterator[Way]:
    """Flash attention over rows of any length: on a GPU of NVIDIA, in half precision."""
    if trainer.accelerator.device.type == "cuda" and _rounds(trainer):
        yield "varlen"


def _rounds(trainer: Any) -> bool:
    """Whether the model computes in half precision."""
    import torch

    half = {torch.bfloat16, torch.float16}
    return bool(trainer.args.bf16 or trainer.args.fp16 or inner(trainer.model).dtype in half)


def _log_probs(trainer: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
    """What TRL's loss and metrics take from a forward pass of the model that is trained."""
    import torch

    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
    with torch.random.fork_rng(), torch.no_grad(), trainer.accelerator.autocast(), _without_checkpointing(trainer):
        torch.manual_seed(0)  # where there is dropout, the same for each way
        output = trainer.model(**given, labels=labels, fused_lm_head=True)
    return {"log_probs": output.log_probs.float(), "mean_logits": output.mean_logits.float()}


def _without_checkpointing(trainer: Any) -> Any:
    if not trainer.args.gradient_checkpointing:
        return nullcontext()
    from trl.models.utils import disable_gradient_checkpointing

    return disable_gradient_checkpointing(trainer.model, trainer.args.gradient_checkpointing_kwargs)


def _noise(trainer: Any, batch: dict[str, Any], wanted: dict[str, Tensor]) -> float:
    """How far rounding alone moves TRL's numbers: the same pairs, each in a batch of its own."""
    total, most = len(batch["input_ids"]) // 2, 0.0
    for pair in range(total if _rounds(trainer) else 0):
        alone = _log_probs(trainer, part(batch, [pair]))["log_probs"]
        together = wanted["log_probs"][[pair, total + pair], : alone.shape[1]]
        most = max(most, float((alone - together).abs().max()))
    return most


def _difference(
    trainer: Any, rearranged: Rearranged, way: Way, batch: dict[str, Any], wanted: dict[str, Tensor], noise: float
) -> str | None:
    """Why ``way`` is not TRL's own; None when it is."""
    import torch

    limit = max(_ROUNDED if _rounds(trainer) else _EXACT, _TIMES * noise)
    try:
        with rearranged.going(way):
            found = _log_probs(trainer, batch)
    except torch.OutOfMemoryError:  # not raised: the other processes wait for this one's answer
        release_memory()
        return _NO_MEMORY
    except Exception as error:  # an attention that does not run here, or wants what it is not given
        return f"it does not run here ({' '.join(str(error).split())[:120].rstrip('. ')})"
    most = max(float((found[name] - wanted[name]).abs().nan_to_num(float("inf")).max()) for name in wanted)
    return None if most <= limit else f"log-probabilities differ by {most:.2g} from TRL's on the first rows"


def _agreed(trainer: Any, fine: bool) -> bool:
    """Whether it is fine in all processes: they must go the same way."""
    if trainer.accelerator.num_processes == 1:
        return fine
    import torch

    flags = trainer.accelerator.gather(torch.tensor([int(fine)], device=trainer.accelerator.device))
    return bool(flags.min().item())
