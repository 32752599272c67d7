"""Whether a release has room: the memory of this device and the disk of hubkit's home, compared with the estimate."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hubkit.core.findings import Finding
from hubkit.core.numbers import size
from hubkit.pipeline.costs.estimate import Estimate
from hubkit.pipeline.costs.steps import Cost

NEAR = 0.9
"""Of the memory or the disk: beyond that there is a warning."""


def room_findings(found: Estimate, home: Path) -> Iterator[Finding]:
    """What preflight says of the costs on this device: memory and disk beyond what is there, or near it."""
    yield from memory_findings(found)
    yield from _disk(found, home)


def memory_findings(found: Estimate) -> Iterator[Finding]:
    """Steps that need more memory than this device has (an error), or nearly as much (a warning).

    Refused is what batches of mean length do not fit, with half of the estimated activations, the least certain part.
    """
    if found.here is None:
        return
    device = found.device(found.here)
    worst: dict[str, tuple[str, Cost]] = {}
    for job, by_device in found.costs.items():
        kind, cost = found.kinds[job], by_device[found.here]
        if cost.memory is not None and (kind not in worst or cost.memory.total > _total(worst[kind][1])):
            worst[kind] = job, cost
    for job, cost in worst.values():
        if cost.memory is None or cost.typical is None:
            continue
        advice = _advice(job, found)
        if cost.typical.total - cost.typical.activations // 2 > device.memory:
            yield Finding(
                "error",
                f"{job} needs about {size(cost.typical.total)} of memory ({_parts(cost.typical)}); "
                f"this device ({device.name}) has {size(device.memory)}.",
                advice,
                exit_code=1,
            )
        elif cost.memory.total > NEAR * device.memory:
            yield Finding(
                "warning",
                f"{job} may need {size(cost.memory.total)} of memory ({_parts(cost.memory)}); "
                f"this device ({device.name}) has {size(device.memory)}.",
                advice,
            )


def _total(cost: Cost) -> int:
    return cost.memory.total if cost.memory else 0


def _parts(memory: Any) -> str:
    """The three largest parts: 'weights 14.5 GB, logits 2.1 GB'."""
    parts = {name: value for name, value in memory.to_json().items() if name != "total" and value}
    largest = sorted(parts.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {size(value)}" for name, value in largest)


def _advice(job: str, found: Estimate) -> str:
    """What to lower, by the keys of the recipe."""
    if job.startswith("train["):
        stage = job[6:-1]
        name = f"stages.{stage}"
        quantized = "" if stage in found.four_bit else f"set {name}.quantization: nf4, "
        if stage in found.full:
            quantized = f"train an adapter instead of all the weights (remove {name}.lora), "
        return f"Lower {name}.args.{found.lower[stage]}, {quantized}or use a larger device."
    if job.startswith(("evaluate", "base-scores")):
        return "Lower evaluate.batch_size, or use a larger device."
    if job.startswith(("stopping", "base-stopping", "loadback")):
        return "Lower gates.stop_rate.batch_size or max_new_tokens, or use a larger device."
    return "Use a larger device."


def _disk(found: Estimate, home: Path) -> Iterator[Finding]:
    free, needed = free_bytes(home), found.disk
    hint = "Free space there, or set HUBKIT_HOME to a folder on another disk."
    if needed > free:
        yield Finding("error", f"{home} has {size(free)} free; this run needs {size(needed)}.", hint, exit_code=1)
    elif needed > NEAR * free:
        yield Finding("warning", f"{home} has {size(free)} free; this run needs {size(needed)} of it.", hint)


def free_bytes(home: Path) -> int:
    """The bytes that are free on the disk of ``home``, which need not exist."""
    return shutil.disk_usage(next(path for path in (home, *home.parents) if path.is_dir())).free
