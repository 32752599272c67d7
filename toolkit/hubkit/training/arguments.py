"""The arguments of a training stage: TRL's and PEFT's own keys, checked against the installed classes.

Nothing of them is mirrored here. What a recipe may not set is in :data:`RESERVED_ARGS`, what hubkit sets in
:func:`defaults`. Values that only TRL's trainers check are rehearsed (:mod:`hubkit.training.rehearsal`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from hubkit.core.errors import RefusedError
from hubkit.models.load import bf16_supported, device
from hubkit.recipe.models import Training
from hubkit.training import batch_size
from hubkit.training.contract import Settings
from hubkit.training.rehearsal import Method
from hubkit.training.watching import trackers

if TYPE_CHECKING:
    from peft import LoraConfig

RESERVED_ARGS: Mapping[str, str] = {
    "output_dir": "hubkit keeps the checkpoints in the run",
    "seed": "write `seed` at the top of the recipe",
    "data_seed": "write `seed` at the top of the recipe",
    "resume_from_checkpoint": "run the same command again: it resumes by itself",
    "push_to_hub": "hubkit publishes, after the gates",
    "hub_model_id": "write `repo` at the top of the recipe",
    "hub_token": "a token does not belong in a recipe",
    "model_init_kwargs": "hubkit loads the base: see `base` and `quantization`",
    "trust_remote_code": "hubkit never runs code from a model repo",
    "chat_template_path": "write `chat.template`",
    "eos_token": "the end-of-turn token is derived from the chat template",
    "pad_token": "hubkit chooses one that is not the end-of-turn token",
    "assistant_only_loss": "the loss falls on the answers alone already",
    "dataset_text_field": "rows are conversations: see `mapping`",
    "dataset_kwargs": "rows are conversations: see `mapping`",
    "do_train": "the stage trains",
    "do_eval": "the evaluation is a step of its own",
    "do_predict": "the evaluation is a step of its own",
    "eval_strategy": "write `eval` at a source of `data`: the loss on its rows is measured, `eval_steps` says when",
    "load_best_model_at_end": "the adapter of the last step is kept",
    "fsdp": "write a config file of accelerate, and name it in `launch`",
    "fsdp_config": "write a config file of accelerate, and name it in `launch`",
    "parallelism_config": "hubkit trains each row in one process; `launch` starts several",
    "logging_nan_inf_filter": "hubkit stops at the first loss that is not finite",
}
"""Arguments of TRL that a recipe cannot set, with what to do instead."""
FORMER_ARGS: Mapping[str, str] = {
    "evaluation_strategy": "the evaluation is a step of its own",
    "force_use_ref_model": "the reference is the base, or the adapter that the stage continues",
    "generate_during_eval": "the evaluation is a step of its own",
    "group_by_length": "write `train_sampling_strategy: group_by_length`",
    "logging_dir": "the tracker that `report_to` names has a setting of its own",
    "max_completion_length": "write `max_length`, for prompt and answer together",
    "max_prompt_length": "write `max_length`, for prompt and answer together",
    "max_seq_length": "write `max_length`",
    "reference_free": "the reference is the base, or the adapter that the stage continues",
    "rpo_alpha": "write `loss_type: [sigmoid, sft]` with `loss_weights: [1.0, ALPHA]`",
    "warmup_ratio": "write `warmup_steps`; a number below 1 is a share of all steps",
}
"""Arguments that earlier versions of TRL and transformers had, with what to write instead."""


def config_class(method: Method) -> type:
    """TRL's own dataclass of arguments for ``method``, from the installed version."""
    import trl

    found: type = trl.DPOConfig if method == "dpo" else trl.SFTConfig
    return found


def defaults(folder: Path, seed: int) -> dict[str, Any]:
    """The few arguments that hubkit sets where TRL's own default would not do. A recipe may override the second half.

    TRL's bf16 and gradient checkpointing are meant for a GPU; on a CPU both only cost time.
    """
    gpu = device() == "cuda"
    ours: dict[str, Any] = {"output_dir": str(folder), "seed": seed, "logging_nan_inf_filter": False}
    ours |= {"report_to": "none", "save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 2}
    ours |= {"disable_tqdm": True, "dataloader_pin_memory": gpu}
    if not gpu:
        ours |= {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    elif not bf16_supported():  # TRL's default is bf16, which it then refuses
        ours |= {"bf16": False, "fp16": True}
    return ours


def effective(method: Method, args: Mapping[str, Any], name: str) -> Any:
    """The value of TRL's argument ``name`` when the recipe gives ``args``: theirs, else the installed default."""
    if name in args:
        return args[name]
    for item in fields(config_class(method)):
        if item.name == name:
            return item.default_factory() if item.default_factory is not MISSING else item.default
    raise KeyError(name)


def truncation(training: Training, name: str) -> tuple[int | None, str]:
    """At how many tokens the trainer of the stage ``name`` cuts a row, and which part it keeps.

    (None, ...) when it cuts none: packed rows are split, not cut. For a stage of another distribution only what its
    own ``args`` say under TRL's names is known.
    """
    args, uses = training.args, training.uses or name
    if args.get("packing"):
        return None, "keep_start"
    if uses == "dpo" or uses == "sft":
        method: Method = "dpo" if uses == "dpo" else "sft"
        return effective(method, args, "max_length"), effective(method, args, "truncation_mode")
    length = args.get("max_length")
    return length if isinstance(length, int) else None, str(args.get("truncation_mode", "keep_start"))


def key_problems(known: type, given: Mapping[str, Any], reserved: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with ``given`` as keyword arguments of the dataclass ``known``, a sentence each.

    A value is checked by the field's own annotation, so that ``learning_rate: fast`` is found before training.
    """
    hints = _hints(known)
    choices = {item.name: tuple(item.metadata.get("choices") or ()) for item in fields(known) if item.init}
    names = list(choices)
    for key, value in given.items():
        if key in reserved:
            yield f"{key}: cannot be set in a recipe; {reserved[key]}"
        elif key not in names and key in FORMER_ARGS:
            yield f"{key}: {known.__name__} has no such key any more; {FORMER_ARGS[key]}"
        elif key not in names:
            close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            yield f"{key}: {known.__name__} has no such key{meant}"
        elif problem := _value_problem(hints.get(key), value):
            yield f"{key}: {problem}, not {value!r}"
        elif choices[key] and value is not None and value not in choices[key]:
            yield f"{key}: must be {' or '.join(repr(item) for item in choices[key])}, not {value!r}"


def _hints(known: type) -> dict[str, Any]:
    try:
        return get_type_hints(known)
    except (NameError, TypeError):
        return {}


def _value_problem(hint: Any, value: Any) -> str | None:
    """Why ``value`` does not fit the annotation ``hint``; None when it does, or when that is unknown."""
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
    from pydantic.errors import PydanticUndefinedAnnotation

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, strict=True))
    except (PydanticUserError, PydanticUndefinedAnnotation, TypeError):
        return None
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        problems = [item for item in error.errors() if item["type"] not in {"is_instance_of", "enum"}] or error.errors()
        return str(problems[0]["msg"][0].lower() + problems[0]["msg"][1:])
    return None


def lora_class() -> type[LoraConfig]:
    """PEFT's own dataclass of an adapter's shape, from the installed version."""
    from peft import LoraConfig

    found: type[LoraConfig] = LoraConfig
    return found


def build(settings: Settings, method: Method, checkpoints: Path, *, evaluates: bool = False) -> Any:
    """TRL's arguments for this stage: the recipe's over hubkit's few. RefusedError when TRL does not accept them.

    With ``evaluates`` the trainer measures the loss of the rows that were held out for it, ten times by default.
    """
    given = defaults(checkpoints, settings.seed)
    cut, _ = batch_size.arguments_for(
        settings.args, settings.batch_size, checkpoints.parent, settings.name, gpu=device() == "cuda"
    )
    if evaluates:
        batch = cut.get("per_device_train_batch_size", settings.args.get("per_device_train_batch_size", 8))
        given |= {"eval_strategy": "steps", "eval_steps": 0.1, "per_device_eval_batch_size": batch}
    given |= {**trackers.defaults(settings), **settings.args, **cut}
    if batch_size.is_auto(settings.args):  # reference log-probabilities are computed before a batch is chosen
        given = {"precompute_ref_batch_size": batch_size.TRL_DEFAULT, **given} if method == "dpo" else given
    try:
        return config_class(method)(**given)
    except (TypeError, ValueError, ImportError) as error:
        raise RefusedError(
            f"TRL refuses these arguments: {str(error).rstrip('.')}", hint=f"Fix stages.{settings.name}.args."
        ) from error
