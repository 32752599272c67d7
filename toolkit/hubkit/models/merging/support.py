"""Which adapters can be merged, and how: streamed tensor by tensor, by PEFT itself, or not at all.

What is not known here is refused: a key of tomorrow's PEFT may change what the tensors of an adapter mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

Way = Literal["streamed", "peft", "cast"]
_TELLS_NOTHING = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "modules_to_tie",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "target_modules_to_tie",
        "task_type",
    }
)
"""Keys of adapter_config.json that do not change what the saved tensors mean."""
_STREAMED = frozenset(
    {
        "alpha_pattern",
        "bias",
        "ensure_weight_tying",
        "fan_in_fan_out",
        "init_lora_weights",
        "lora_alpha",
        "lora_bias",
        "modules_to_save",
        "peft_type",
        "r",
        "rank_pattern",
        "target_parameters",
        "trainable_token_indices",
        "use_dora",
        "use_rslora",
    }
)
BY_PEFT = ("monteclora_config", "use_bdlora", "velora_config")
"""Variants of LoRA whose merge is left to PEFT."""
_STARTS = frozenset({"True", "False", "gaussian", "eva", "orthogonal", "mica"})
"""``init_lora_weights`` that leave the base as it is."""
_CONVERTED = ("pissa", "corda", "olora", "lora_ga")
"""``init_lora_weights`` that move a part of the base into the adapter, and that PEFT converts to LoRA as it saves."""
_NEVER = {
    "alora_invocation_tokens": "it is used only after its invocation tokens (alora_invocation_tokens)",
    "arrow_config": "it chooses between adapters for each token (arrow_config)",
    "kasa_config": "KaSA changes the base's own weights (kasa_config)",
    "layer_replication": "it repeats layers of the base (layer_replication)",
    "use_qalora": "it pools the inputs of quantized layers (use_qalora)",
}


class _Module(Protocol):
    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]: ...


class Base(Protocol):
    """What must be known of the base's model: ``hubkit.models.facts.ModelFacts`` knows it."""

    @property
    def tied(self) -> Mapping[str, str]:
        """The other names of tied tensors, with the first one."""

    @property
    def modules(self) -> Mapping[str, Any]:
        """The modules that have parameters of their own; each has ``parameters``, their shapes by name."""

    @property
    def quantization(self) -> str | None:
        """The method in which the base's own files are quantized."""


class _Target(Protocol):
    @property
    def module(self) -> str: ...
    @property
    def parameter(self) -> str: ...
    @property
    def kind(self) -> str: ...


class Resolved(Protocol):
    """What PEFT makes of the settings on this base: ``hubkit.models.facts.AdapterFacts`` knows it."""

    @property
    def targets(self) -> Sequence[Any]:
        """The weights that get a LoRA pair, each with ``module``, ``parameter`` and ``kind``."""


def unmergeable(settings: Mapping[str, Any]) -> str | None:
    """Why an adapter with these ``settings`` (of adapter_config.json) cannot be merged here; None when it can.

    What depends on the base is found by :func:`merge_problem`.
    """
    if settings.get("peft_type") != "LORA":
        return f"it is a {settings.get('peft_type')} adapter, not LoRA"
    start = str(settings.get("init_lora_weights", True))
    if start not in _STARTS:
        return f"init_lora_weights: {start} changes the base's own weights"
    if settings.get("megatron_config"):
        return "it uses megatron_config"
    for key, reason in _NEVER.items():
        if settings.get(key):
            return reason
    known = _TELLS_NOTHING | _STREAMED | frozenset(BY_PEFT)
    unknown = sorted(key for key, value in settings.items() if value and key not in known)
    return f"it uses {unknown[0]}" if unknown else None


def next_action(settings: Mapping[str, Any]) -> str:
    """What to do about an adapter that :func:`unmergeable` refuses."""
    start = str(settings.get("init_lora_weights", True))
    if start.startswith(_CONVERTED):
        return (
            "Save it again with PEFT's save_pretrained(path_initial_model_for_weight_conversion=...), "
            "which makes an ordinary LoRA of twice the rank."
        )
    if start == "loftq":
        return "Train without this option: the adapter belongs to a base that LoftQ has quantized."
    return "Merge it with PEFT's merge_and_unload, or train without this option."


def merge_problem(settings: Mapping[str, Any], base: Base, resolved: Resolved | None = None) -> str | None:
    """Why an adapter with these ``settings`` cannot be merged into ``base``; None when it can.

    A clause that follows "this adapter cannot be merged: ". ``resolved`` are the targets as PEFT resolves them on this
    base; without them only the settings are judged.
    """
    if problem := unmergeable(settings):
        return problem
    if base.quantization:
        return f"the base's own files are quantized ({base.quantization})"
    targets = list(resolved.targets) if resolved else []
    if problem := tied_problem([f"{item.module}.{item.parameter}" for item in targets], base.tied):
        return problem
    if problem := _tokens_problem(settings.get("trainable_token_indices"), base.tied):
        return problem
    if settings.get("lora_bias"):
        for item in targets:
            module = base.modules.get(item.module)
            if module is not None and "bias" not in module.parameters:
                return f"lora_bias needs layers that have a bias, and {item.module} has none"
    return None


def _tokens_problem(indices: Any, tied: Mapping[str, str]) -> str | None:
    """Why these ``trainable_token_indices`` cannot be merged: PEFT ties those of tied embeddings only if they agree."""
    if not isinstance(indices, Mapping):
        return None
    modules = [name.removesuffix(".weight") for pair in tied.items() for name in pair]
    both = [key for key in indices if any(module == key or module.endswith(f".{key}") for module in modules)]
    if len({tuple(indices[key]) for key in both}) < 2:
        return None
    return f"it trains different tokens of {' and '.join(both)}, which are one tensor in this base (tied embeddings)"


def tied_problem(changed: Iterable[str], tied: Mapping[str, str]) -> str | None:
    """Why LoRA on the tensors ``changed`` cannot be merged into a model with these ``tied`` tensors.

    PEFT adapts one of the two uses of the tensor and merges into both, or both and merges twice: logits were off by
    up to 24 on small models, silently.
    """
    both = {**{other: first for first, other in tied.items()}, **tied}
    for name in changed:
        if name in both:
            return (
                f"it has LoRA on {name}, which is one tensor with {both[name]} in this base (tied embeddings), "
                "and PEFT's merge would change both"
            )
    return None


TIED_ACTION = "Leave the embeddings out of target_modules; modules_to_save or trainable_token_indices can train them."


def merge_way(settings: Mapping[str, Any], resolved: Resolved | None = None) -> Way:
    """How an adapter that has no :func:`merge_problem` is merged.

    ``peft`` loads the base and the adapter whole, in float32; ``streamed`` needs the memory of one tensor. An
    architecture whose checkpoints are laid out in a way of their own may still need PEFT: the merge says so.
    """
    if any(settings.get(key) for key in BY_PEFT):
        return "peft"
    if resolved and any(item.kind == "other" for item in resolved.targets):
        return "peft"
    return "streamed"
