"""One training step of a toy model with a stage's own arguments: what TRL refuses only when it trains.

TRL's config classes check few of their values. A loss type that does not exist, an optimizer whose package is missing,
or options that exclude each other are found by its trainers, after the base was loaded and the rows were tokenized.
So the installed trainer itself is asked here, with a model of some hundred weights, two rows and one step. It takes a
second, and no list of TRL's values has to be kept.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubkit.training.counted import WITHOUT_EFFECT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Method = Literal["dpo", "sft"]

PLAIN = frozenset(
    {
        "activation_checkpointing",
        "beta",
        "bf16",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "learning_rate",
        "max_grad_norm",
        "max_length",
        "max_steps",
        "num_train_epochs",
        "per_device_train_batch_size",
        "warmup_steps",
        "weight_decay",
    }
)
"""Arguments whose values the config class checks, or :mod:`hubkit.training.arguments`; other than these a stage is
rehearsed. Importing the trainers takes six seconds."""
_PLAIN_SCHEDULES = frozenset({"linear", "cosine", "constant", "constant_with_warmup"})
SKIPPED: Mapping[str, str] = {
    "deepspeed": "DeepSpeed needs its launcher",
    "torch_compile": "compiling takes minutes",
    "torch_compile_backend": "compiling takes minutes",
    "torch_compile_mode": "compiling takes minutes",
}
"""Arguments that one step of a toy model does not show, with the reason."""
_TOY: Mapping[str, Any] = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "report_to": "none",
    "logging_steps": 1,
    "disable_tqdm": True,
    "dataset_num_proc": None,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": None,
    "dataloader_persistent_workers": False,
    "router_aux_loss_coef": None,
}
"""What a rehearsal sets otherwise: the size of the training, and what needs the base's own architecture."""
_PRECOMPUTES = "precompute_ref_log_probs"
_LENGTH = 64
_LONGEST = 360
_WEIGHT_FREE = "{% for m in messages %}{{ m['role'][0] }} {{ m['content'] }}<e>{% endfor %}"
_TEMPLATE = _WEIGHT_FREE + "{% if add_generation_prompt %}a {% endif %}"


@dataclass(frozen=True)
class Refusal:
    """Why a trainer does not train with the arguments. ``package``: because something is not installed."""

    words: str
    package: bool = False


def needed(args: Mapping[str, Any]) -> bool:
    """Whether ``args`` hold something that only the trainer checks."""
    known = PLAIN | SKIPPED.keys() | WITHOUT_EFFECT.keys() | {"lr_scheduler_type"}
    return args.get("lr_scheduler_type", "linear") not in _PLAIN_SCHEDULES or not args.keys() <= known


def rehearse(method: Method, args: Mapping[str, Any], *, full: bool = False) -> Refusal | None:
    """Why the trainer of ``method`` refuses ``args``, all that its config class is given; None when it trains.

    ``full``: without an adapter.
    """
    return _rehearsed(method, json.dumps(dict(args), sort_keys=True, default=str), full)


@lru_cache(256)
def _rehearsed(method: Method, args: str, full: bool) -> Refusal | None:
    try:
        _train(method, json.loads(args), full)
    except Exception as error:  # the trainers raise what they like
        return refusal(error)
    return None


def refusal(error: BaseException) -> Refusal:
    """What ``error`` of TRL, transformers or a package that they need says, on one line."""
    words = _short(str(error.args[0] if isinstance(error, PackageNotFoundError) and error.args else error))
    package = isinstance(error, ImportError) or "to be installed" in words or "pip install" in words
    known = isinstance(error, ValueError | ImportError | NotImplementedError) or package
    kind = "" if known else f"{type(error).__name__}: "
    return Refusal(f"{kind}{words}" if words else type(error).__name__, package)


def _short(message: str) -> str:
    """``message`` on one line without a stop at its end: of a long one the first sentences, some 300 characters."""
    line = " ".join(message.split())
    if len(line) > _LONGEST:
        start = line[:_LONGEST]
        line = start.rpartition(". ")[0] or f"{start.rpartition(', ')[0] or start}, and more"
    return line.rstrip(". ")


def _train(method: Method, args: Mapping[str, Any], full: bool) -> None:
    """One step on the CPU or the GPU, as the stage would run."""
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback

    trainer_class = trl.DPOTrainer if method == "dpo" else trl.SFTTrainer
    config_class = trl.DPOConfig if method == "dpo" else trl.SFTConfig
    with tempfile.TemporaryDirectory(prefix="hubkit-") as folder, _apart():
        given = {key: value for key, value in args.items() if key not in SKIPPED}
        given |= {key: value for key, value in _TOY.items() if key in config_class.__dataclass_fields__}
        if isinstance(given.get("max_length"), int):
            given["max_length"] = _LENGTH
        reference = {"ref_model": _model()} if full and method == "dpo" and not given.get(_PRECOMPUTES) else {}
        lora = None if full else LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
        trainer = trainer_class(
            model=_model(),
            args=config_class(**{**given, "output_dir": str(Path(folder) / "checkpoints")}),
            train_dataset=Dataset.from_list(_rows(method)),
            processing_class=_tokenizer(),
            peft_config=lora,
            **reference,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def _rows(method: Method) -> list[dict[str, Any]]:
    question, answer, other = (
        [{"role": role, "content": text}] for role, text in (("user", "u"), ("assistant", "a a"), ("assistant", "a"))
    )
    if method == "dpo":
        return [{"prompt": question, "chosen": answer, "rejected": other}] * 2
    return [{"prompt": question, "completion": answer}] * 2


def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    widths = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=8, max_position_embeddings=_LENGTH, **widths))


def _tokenizer() -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    letters = {letter: place for place, letter in enumerate(("<e>", "<p>", "u", "a", " "))}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(letters, [], unk_token="u")),
        eos_token="<e>",
        pad_token="<p>",
        unk_token="u",
        chat_template=_TEMPLATE,
    )


@contextmanager
def _apart() -> Iterator[None]:
    """Leave this process as it was: accelerate keeps the first trainer's device and precision for all later ones."""
    import torch
    from accelerate.state import AcceleratorState

    random = torch.get_rng_state()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        torch.set_rng_state(random)
        AcceleratorState._reset_state(reset_partial_state=True)
