"""Load models and tokenizers: the one place for revision, dtype, quantization and device, and for freeing their memory.

    with memory_released():
        model = load_model(PinnedRepo("them/base", commit, endpoint), dtype="bfloat16")
        model = load_adapter(model, Path("run/adapter"))

Errors of the Hub come out as :class:`~hubkit.core.errors.HubkitError`. torch and transformers are imported on use.
"""

from __future__ import annotations

import gc
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubkit.core.memory import peak_memory as peak_memory_of_process
from hubkit.core.numbers import counted
from hubkit.hub.errors import translated

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Quantization = Literal["none", "nf4"]


@dataclass(frozen=True)
class PinnedRepo:
    """A model repo of the Hub at ``endpoint``, at one ``revision``: a commit, so that it cannot change.

    ``cache`` is a folder for its files, where it is not to be the usual cache.
    """

    name: str
    revision: str
    endpoint: str
    cache: Path | None = None

    def options(self) -> dict[str, Any]:
        """What every ``from_pretrained`` is given besides the name."""
        return {"revision": self.revision} | ({"cache_dir": self.cache} if self.cache else {})


Source = PinnedRepo | Path
"""Where files are loaded from: a repo at a commit, or a folder."""


def load_config(source: Source) -> PretrainedConfig:
    """The model's ``config.json``."""
    from transformers import AutoConfig

    name, options = _named(source)
    with _hub_errors(source):
        return AutoConfig.from_pretrained(name, **options)


def load_tokenizer(
    source: Source, *, chat_template: str | None = None, pad_token: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer, with another ``chat_template`` or ``pad_token`` than its own where one is given."""
    from transformers import AutoTokenizer

    name, options = _named(source)
    with _hub_errors(source):
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    if pad_token is not None:
        tokenizer.pad_token = pad_token
    return tokenizer


def load_model(
    source: Source,
    *,
    dtype: str | torch.dtype = "auto",
    quantization: Quantization = "none",
    attention: str | None = None,
    sharded: bool = False,
) -> Any:
    """A causal language model (a base, or merged weights) on the GPU when there is one, else on the CPU.

    ``dtype`` is one of PyTorch's, by name or itself; "auto" takes that of the files. With ``quantization`` "nf4" the
    large matrices are in 4 bits (NF4, double quantization) and are computed in ``dtype``. ``attention`` is one of
    transformers' implementations; None, or one that the model does not have: its default, PyTorch's SDPA where it can.
    ``sharded``: FSDP will spread the weights over devices, so they are left where transformers puts them, and those in
    4 bits are stored in ``dtype``.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    name, options = _named(source)
    options["dtype"] = dtype
    if torch.cuda.is_available() and not sharded:
        options["device_map"] = {"": torch.cuda.current_device()}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            **({"bnb_4bit_quant_storage": dtype} if sharded else {}),
        )
    with _hub_errors(source):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(name, **options)
    if attention is not None:
        with suppress(ValueError, ImportError):  # the model has no such implementation
            model.set_attn_implementation(attention)
    keep_differentiable(model)
    return model


def load_adapter(model: Any, source: Source, *, subfolder: str | None = None, trainable: bool = False) -> Any:
    """``model`` with the LoRA adapter in ``source`` (or its ``subfolder``) attached, as a ``peft.PeftModel``."""
    from peft import PeftModel

    name, options = _named(source)
    if subfolder:
        options["subfolder"] = subfolder
    with _hub_errors(source):
        return PeftModel.from_pretrained(model, name, is_trainable=trainable, **options)


def keep_differentiable(model: Any) -> int:
    """Keep bitsandbytes from repacking 4-bit layers for AVX512-BF16; returns how many layers there are.

    On such CPUs any forward in eval mode (a generation, say) repacks ``Linear4bit`` for good into a form whose
    backward is wrong: the adapter then learns noise, with only a warning. Measured with bitsandbytes 0.50.2.
    """
    if (bitsandbytes := sys.modules.get("bitsandbytes")) is None:  # no such layer can exist
        return 0
    layers = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


# --- devices


def device() -> Literal["cuda", "cpu"]:
    """Where models are trained, merged and asked: the GPU when there is one that PyTorch's CUDA (or ROCm) can use."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def benchmark_device() -> tuple[str, str]:
    """Where lm-eval runs a model, by PyTorch's name; and the kind of device, which moves the last digits of a score."""
    import torch

    if torch.cuda.is_available():
        return "cuda", f"cuda {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return "mps", f"mps {platform.machine()}"
    return "cpu", f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def device_names() -> list[str]:
    """The GPUs of this machine by name; empty when there is none."""
    import torch

    return [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]


def device_name() -> str:
    """The device in words, for a card: 'NVIDIA H200', or 'CPU, 4 threads'."""
    import torch

    if device() == "cuda":
        return str(torch.cuda.get_device_name())
    return f"CPU, {counted(torch.get_num_threads(), 'thread')}"


def training_dtype() -> torch.dtype:
    """The dtype to train in: bfloat16 on a GPU that has it, float16 on another, float32 on a CPU."""
    import torch

    if device() == "cpu":
        return torch.float32
    return torch.bfloat16 if bf16_supported() else torch.float16


def training_attention() -> str | None:
    """The attention to train with: flash attention where its package is installed and the GPU computes in 16 bits.

    None: transformers' own choice. hubkit's tests do not run flash attention: they have no machine for it.
    """
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if device() == "cuda" and is_flash_attn_2_available() else None


def bf16_supported() -> bool:
    """Whether the GPU computes in bfloat16; False without a GPU."""
    import torch

    return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported())


# --- memory


@contextmanager
def memory_released() -> Iterator[None]:
    """Free the memory of the models that were loaded in the block, once it ends.

    No variable outside may still hold one: load and use a model in a function that is called in the block. What existed
    before is put out of the collector's way meanwhile, which otherwise takes a third of a second to go through it.
    """
    gc.freeze()
    try:
        yield
    finally:
        release_memory()
        gc.unfreeze()


def release_memory() -> None:
    """Free the memory of all models that no variable holds any more: models hold themselves in circles."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory() -> int:
    """The most bytes that this process held at once: on the GPU when there is one, else in main memory."""
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else peak_memory_of_process()


def _named(source: Source) -> tuple[str, dict[str, Any]]:
    """The first argument of ``from_pretrained``, and its options."""
    return (str(source), {}) if isinstance(source, Path) else (source.name, source.options())


def _hub_errors(source: Source) -> AbstractContextManager[None]:
    if isinstance(source, Path):
        return nullcontext()
    return translated(source.endpoint, source.name, source.revision)
