"""What is wrong with a training stage, found before anything is loaded: its part of the recipe, and this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hubkit.core.findings import Finding
from hubkit.core.libraries import installed
from hubkit.models.load import device
from hubkit.recipe.stage import CheckContext
from hubkit.training import batch_size, fit, launch_checks, rehearsal
from hubkit.training.arguments import RESERVED_ARGS, config_class, defaults, key_problems, lora_class
from hubkit.training.contract import Settings
from hubkit.training.rehearsal import Method, Refusal
from hubkit.training.watching import trackers

_POSITIVE = (
    "beta",
    "gradient_accumulation_steps",
    "learning_rate",
    "max_length",
    "num_train_epochs",
    "per_device_train_batch_size",
)


def check(ctx: CheckContext[Settings], method: Method) -> Iterator[Finding]:
    """What is wrong with the stage's ``args``, ``lora`` and ``quantization``, checked against the installed libraries.

    Mistakes of the recipe have exit code 2; what this machine lacks has 1.
    """
    where = f"stages.{ctx.settings.name}"
    for problem in batch_size.problems(ctx.settings.args, ctx.settings.batch_size):
        yield Finding("error", f"{where}.{problem}.", "Fix the recipe.", exit_code=2)
    training = replace(
        ctx.settings, args=batch_size.plain_args(ctx.settings.args, ctx.settings.batch_size), batch_size=None
    )
    wrong = [f"args.{problem}" for problem in key_problems(config_class(method), training.args, RESERVED_ARGS)]
    wrong += [f"lora.{problem}" for problem in key_problems(lora_class(), training.lora_keys, {})]
    for problem in wrong or list(_out_of_range(training)):
        yield Finding("error", f"{where}.{problem}.", "Fix the recipe.", exit_code=2)
    yield from _lora_findings(training, where)
    yield from probe_findings(training)
    if training.quantization == "nf4" and (reason := _quantization_problem()):
        hint = "Write `quantization: none`, or pip install 'hubkit[train]'."
        yield Finding("error", f"{where}.quantization: {reason}.", hint, exit_code=1)
    yield from launch_checks.check(ctx.settings)
    if wrong:
        return
    yield from fit.check(ctx, method)
    if training.args.get("max_steps", -1) > 0 and "num_train_epochs" in training.args:
        text = f"{where}.args.num_train_epochs: ignored, because `max_steps` is set."
        yield Finding("warning", text, "Remove one of the two.")
    refused = False
    for fault, refusal in _refused(training, method):
        refused = True
        yield _refused_finding(where, fault, training.args, refusal)
    for key in [] if refused else sorted(rehearsal.SKIPPED.keys() & training.args.keys()):
        yield Finding("warning", f"{where}.args.{key}: not checked before training: {rehearsal.SKIPPED[key]}.")


def probe_findings(training: Settings) -> Iterator[Finding]:
    """The probe of the stop rate that is asked for, where the processes of the training cannot ask."""
    if training.probe_asked_for and training.launch and training.launch.kind in ("FSDP", "DeepSpeed"):
        kind = training.launch.kind
        text = f"stages.{training.name}.probe: the stop rate cannot be probed with {kind}: no process has all weights."
        yield Finding("error", text, "Write `probe: none`.", exit_code=2)


def _out_of_range(training: Settings) -> Iterator[str]:
    """Numbers that no trainer can use; TRL says so late, or trains with them."""
    for key in _POSITIVE:
        value = training.args.get(key)
        if isinstance(value, int | float) and value <= 0:
            yield f"args.{key}: must be greater than 0, not {value!r}"
    steps = training.args.get("max_steps")
    if isinstance(steps, int) and (steps == 0 or steps < -1):
        yield f"args.max_steps: must be greater than 0, or -1 for whole epochs, not {steps!r}"


def _lora_findings(training: Settings, where: str) -> Iterator[Finding]:
    if training.continues and training.lora_keys and training.continued_form == "adapter":
        text = f"{where}.lora: this stage continues the adapter of {training.continues!r}; its LoRA config is fixed."
        yield Finding("error", text, "Remove `lora`.", exit_code=2)
    targets = training.lora_keys.get("target_modules") or ()
    if "lm_head" in ([targets] if isinstance(targets, str) else targets):
        text = f"{where}.lora.target_modules: TRL's trainers do not train an adapter on lm_head."
        yield Finding("error", text, "Remove it from the list.", exit_code=2)


def _refused(training: Settings, method: Method) -> Iterator[tuple[str | None, Refusal]]:
    """What TRL's config class and its trainer refuse: the key at fault (None: several together) and their words."""
    given = defaults(Path("checkpoints"), training.seed)
    for attempt in (_configured, _reported, partial(_trained, full=training.trains_all_weights)):
        if refusal := attempt(method, given | dict(training.args)):
            by_mention = sorted(training.args, key=lambda key: refusal.words.find(key) % (len(refusal.words) + 1))
            alone = (key for key in by_mention if not attempt(method, given | _without(training.args, key)))
            yield next(alone, None), refusal
            return


def _without(args: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in args.items() if name != key}


def _configured(method: Method, args: Mapping[str, Any]) -> Refusal | None:
    try:
        config_class(method)(**args)
    except Exception as error:  # also a package's own exception: DeepSpeed's, when it is not installed
        return rehearsal.refusal(error)
    return None


def _reported(method: Method, args: Mapping[str, Any]) -> Refusal | None:
    """Whether the trackers that ``report_to`` names are installed: transformers' own callbacks say so."""
    if args.get("report_to") in (None, "none"):
        return None
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        for callback in get_reporting_integration_callbacks(args["report_to"]):
            callback()
    except Exception as error:  # a tracker raises what it likes when its account or package is missing
        return rehearsal.refusal(error)
    if problem := trackers.problem(args["report_to"]):
        return Refusal(problem, package="pip install" in problem)
    return None


def _trained(method: Method, args: Mapping[str, Any], *, full: bool) -> Refusal | None:
    recipes = {key: value for key, value in args.items() if key not in defaults(Path(), 0)}
    return rehearsal.rehearse(method, args, full=full) if rehearsal.needed(recipes) else None


def _refused_finding(where: str, key: str | None, args: Mapping[str, Any], refusal: Refusal) -> Finding:
    place = f"{where}.args.{key}: TRL refuses {args[key]!r}" if key else f"{where}.args: TRL refuses these arguments"
    if refusal.package:
        wanted = trackers.missing(args.get("report_to")) if key == "report_to" else ()
        hint = f"pip install {' '.join(wanted)}, or write `report_to: none`." if wanted else "Install the package."
        return Finding("error", f"{place} on this machine: {refusal.words}.", hint, exit_code=1)
    return Finding("error", f"{place}: {refusal.words}.", "Fix the recipe.", exit_code=2)


def _quantization_problem() -> str | None:
    """Why no model can be quantized to NF4 here: one small matrix is, on the device on which the stage would train."""
    if installed("bitsandbytes") is None:
        return "nf4 needs bitsandbytes, which is not installed"
    import torch

    try:
        from bitsandbytes.functional import quantize_4bit

        quantize_4bit(torch.ones(64, 64, device=device()), quant_type="nf4")
    except Exception as error:  # the loader of its native library raises what it likes
        return f"bitsandbytes does not run on this machine: {rehearsal.refusal(error).words}"
    return None
