"""What is wrong with the ``launch`` of a training stage, found before anything starts."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from hubkit.core.findings import Finding
from hubkit.core.libraries import installed
from hubkit.core.numbers import counted
from hubkit.models.load import device_names
from hubkit.training.batch_size import PER_DEVICE, rows_a_step
from hubkit.training.contract import Settings
from hubkit.training.launching.launch import Launching

_ONE_MODEL = ("tp_size", "cp_size", "sp_size")
"""Of accelerate's ``parallelism_config``: how many processes work on the same rows."""


def check(settings: Settings) -> Iterator[Finding]:
    """Mistakes of the recipe and of the config file have exit code 2; what this machine lacks has 1."""
    if (launching := settings.launch) is None:
        yield from _several_gpus()
        return
    for problem, advice in _mistakes(settings, launching):
        yield Finding("error", f"stages.{settings.name}.launch: {problem}.", advice, exit_code=2)
    for problem, advice in _missing(launching):
        yield Finding("error", f"stages.{settings.name}.launch: {problem}.", advice, exit_code=1)


def _several_gpus() -> Iterator[Finding]:
    """TRL refuses to train in one process that sees several GPUs, after the base was loaded."""
    if (visible := len(device_names())) > 1:
        text = f"{counted(visible, 'GPU')} are visible, and TRL's trainers use one in each process."
        hint = (
            f"Write `launch: {{processes: {visible}}}` to train on all of them, or set CUDA_VISIBLE_DEVICES=0, or the "
            "number of another one, and run the same command again."
        )
        yield Finding("error", text, hint, exit_code=1)


def _mistakes(settings: Settings, launching: Launching) -> Iterator[tuple[str, str]]:
    if launching.problem is not None:
        yield launching.problem, "Fix the file, or write another one with `accelerate config --config_file FILE`."
        return
    if launching.processes is None:
        yield f"{launching.name} has no num_processes", "Write `processes` beside `config`."
    elif launching.count % launching.machines:
        spread = f"{counted(launching.count, 'process', 'processes')} cannot be spread evenly over"
        yield f"{spread} {counted(launching.machines, 'machine')}", "Change `processes` or `machines`."
    if launching.command and launching.machines == 1:
        yield "`command` is for several machines", "Remove it, or write `machines`."
    if launching.kind is None:
        words = f"{launching.name} has distributed_type {launching.distributed_type}"
        yield f"{words}, and hubkit starts MULTI_GPU (DDP), FSDP and DEEPSPEED", "Write one of them."
    elif problem := _wrong_config(launching):
        yield problem, f"Fix {launching.name}."
    yield from _shared(settings, launching)


def _wrong_config(launching: Launching) -> str | None:
    """What accelerate itself refuses in the config file, in its own words, and what a training here cannot use."""
    if not launching.settings:
        return None
    if str(launching.settings.get("compute_environment", "LOCAL_MACHINE")) != "LOCAL_MACHINE":
        return f"{launching.name} is for another compute_environment than LOCAL_MACHINE"
    parallel = launching.part("parallelism_config")
    for name in _ONE_MODEL:
        value = next((parallel[key] for key in parallel if key.endswith(name)), 1)
        if isinstance(value, int) and value > 1:
            return f"{name} {value} in {launching.name}: hubkit trains each row in one process"
    for file in launching.beside:
        if not file.exists:
            return f"deepspeed_config_file of {launching.name}: there is no file {file.path.name!r} beside the recipe"
    return _refused(launching.settings)


def _refused(settings: Mapping[str, Any]) -> str | None:
    from accelerate.commands.config.config_args import ClusterConfig

    given = ClusterConfig.process_config({"distributed_type": "MULTI_GPU", **settings})
    if unknown := sorted(set(given) - set(ClusterConfig.__dataclass_fields__)):
        return f"accelerate knows no {', '.join(unknown)}"
    try:
        ClusterConfig(**given)
    except (TypeError, ValueError) as error:
        return f"accelerate refuses this config: {str(error).rstrip('.')}"
    return None


def _shared(settings: Settings, launching: Launching) -> Iterator[tuple[str, str]]:
    """What FSDP and DeepSpeed cannot do with this stage."""
    if launching.kind == "FSDP":
        fsdp = launching.part("fsdp_config")
        if fsdp.get("fsdp_version", 1) != 2:
            what = "with FSDP 1 the base and the adapter would need one dtype, which loses small updates"
            yield what, f"Write `fsdp_version: 2` under fsdp_config of {launching.name}."
        if settings.quantization == "nf4" and fsdp.get("fsdp_offload_params"):
            yield "bitsandbytes cannot offload a base in NF4 with FSDP", "Write `fsdp_offload_params: false`."
        if fsdp.get("fsdp_state_dict_type") == "SHARDED_STATE_DICT" and not settings.trains_all_weights:
            what = "with SHARDED_STATE_DICT a checkpoint has no adapter that PEFT can load"
            yield what, "Write `fsdp_state_dict_type: FULL_STATE_DICT`."
    if launching.kind == "DeepSpeed" and settings.quantization == "nf4" and _zero_stage(launching) == 3:
        yield "a base in NF4 cannot be split by DeepSpeed's ZeRO 3", "Use `zero_stage: 2`, or `quantization: none`."
    if launching.kind == "DeepSpeed" and settings.args.get("deepspeed"):
        yield "DeepSpeed is configured in args.deepspeed, too", "Remove args.deepspeed."
    if settings.args.get("auto_find_batch_size") and launching.count > 1:
        yield "args.auto_find_batch_size would change the batch of one process alone", f"Write {PER_DEVICE}."
    rows = rows_a_step(settings.args, settings.batch_size)
    if rows is not None and rows % launching.count:
        shared = f"{rows} rows of a step cannot be shared evenly by {launching.count} processes"
        yield shared, f"Set stages.{settings.name}.batch_size to a multiple of {launching.count}."


def _zero_stage(launching: Launching) -> Any:
    return launching.part("deepspeed_config").get("zero_stage", 2)


def _missing(launching: Launching) -> Iterator[tuple[str, str]]:
    """What this machine lacks."""
    gpus = device_names()
    if launching.kind == "DeepSpeed" and installed("deepspeed") is None:
        yield f"{launching.name} asks for DeepSpeed, which is not installed", "pip install deepspeed"
    if launching.kind in ("FSDP", "DeepSpeed") and not gpus:
        yield f"accelerate runs {launching.kind} on GPUs, and this machine has none", "Use a config file for MULTI_GPU."
    elif gpus and launching.here > len(gpus):
        has = f"this machine has {counted(len(gpus), 'GPU')} for {counted(launching.here, 'process', 'processes')}"
        yield has, "Lower `processes`, or start hubkit where there are as many GPUs."
    if launching.machines > 1 and launching.command is None:
        what = "several machines need a `command` that starts a program on each of them"
        yield what, "Write one, such as `srun --ntasks-per-node=1 --kill-on-bad-exit=1`."
    elif launching.machines > 1 and launching.command and shutil.which(shlex.split(launching.command)[0]) is None:
        yield f"there is no program {shlex.split(launching.command)[0]!r} here", "Run hubkit where the scheduler is."
