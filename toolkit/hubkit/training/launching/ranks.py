"""What one of the processes of a training knows of itself and of the others.

Their launcher (`accelerate launch`, torchrun) tells each its number by environment variables. In a training of one
process all of this does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hubkit.core.errors import UsageError
from hubkit.core.numbers import counted
from hubkit.models import load
from hubkit.models.chat.generation import Together

T = TypeVar("T")
LAUNCHER = "HUBKIT_LAUNCHER"
"""Variable with the pid of hubkit's launcher, for the processes that it starts."""
TRAINING_WAIT = 1800.0
"""Seconds that a process of a training waits for the others, as TRL's `ddp_timeout`; torch's own for GPUs is 600."""
MEASURING_WAIT = 6 * 3600.0
"""The same of a measurement: one process may have the long answers, or score alone what all have generated."""


def launched() -> bool:
    """Whether a launcher started this process."""
    return "LOCAL_RANK" in os.environ


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if launched() else 1


def number() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0")) if launched() else 0


def on_this_machine() -> int:
    """How many of the processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(count()))) if launched() else 1


def is_main() -> bool:
    """Whether this is the process that writes what the training makes, and reports on it."""
    return number() == 0


def shards_weights() -> bool:
    """Whether no process holds the whole model: FSDP."""
    return launched() and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def in_words() -> str:
    """This process for a message: 'process 1 of 4 on node-7'."""
    return f"process {number()} of {count()} on {socket.gethostname()}"


def join(timeout: float) -> None:
    """Meet the other processes and choose this one's device: before anything is loaded. Once is enough.

    ``timeout`` is how many seconds a process waits for the others, here and later. UsageError when another launcher
    than hubkit's started several: each would write the artifact.
    """
    if not launched():
        return
    if count() > 1 and LAUNCHER not in os.environ:
        raise UsageError(
            f"This training was started {count()} times, by torchrun or `accelerate launch` (this is {in_words()}).",
            hint=f"Run `hubkit release` once, with `launch: {{processes: {count()}}}` in the recipe: it starts them.",
        )
    from datetime import timedelta

    from accelerate import PartialState

    waits = timedelta(seconds=timeout)
    if load.device() == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
        PartialState(cpu=True, timeout=waits)
    else:
        PartialState(timeout=waits)


def leave() -> None:
    """End what :func:`join` began, once nothing is exchanged any more."""
    import torch

    if launched() and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def wait() -> None:
    """Go on when all the processes are here."""
    if count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def agreed(find: Callable[[], T]) -> T:
    """What ``find`` returns in the main process, for all of them; it is called in that one alone."""
    if count() == 1:
        return find()
    from accelerate.utils import broadcast_object_list

    found: list[Any] = [find() if is_main() else None]
    return broadcast_object_list(found, from_process=0)[0]  # type: ignore[no-any-return]


def together() -> Together | None:
    """The processes as those that share the prompts of a stop rate; None for one process."""
    if count() == 1:
        return None
    from accelerate.utils import gather_object

    return Together(number(), count(), gather_object)


def own_folder(folder: Path) -> Path:
    """A place below ``folder`` for what each process writes for itself: ``folder`` in the main one."""
    return folder if is_main() else folder / "processes" / str(number())


def largest(value: int) -> int:
    """The largest ``value`` of all the processes."""
    if count() == 1:
        return value
    from accelerate.utils import gather_object

    return max(int(item) for item in gather_object([value]))


def devices_in_words() -> str:
    """The devices of the training for a card: 'NVIDIA H200', '8 × NVIDIA H200', 'CPU, 2 processes of 1 thread'."""
    import torch

    if count() == 1:
        return load.device_name()
    if load.device() == "cuda":
        return f"{count()} × {load.device_name()}"
    return f"CPU, {counted(count(), 'process', 'processes')} of {counted(torch.get_num_threads(), 'thread')}"
