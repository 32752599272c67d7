"""The process that starts the processes of a training on one machine, by `accelerate launch`, and reports their ends.

``python -P -m`` this module, with the folder in which :mod:`hubkit.pipeline.launched` left its order. With several
machines one runs on each of them, and the scheduler says which machine this is.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hubkit.core.files import read_json, write_json
from hubkit.training.launching.ranks import LAUNCHER

ORDER, REQUEST = "order.json", "request.json"
_MACHINE = ("HUBKIT_MACHINE_RANK", "SLURM_NODEID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
"""Variables in which this machine's number is looked for: ours, and those of schedulers that start one task on each."""


def main() -> None:
    """Start them and wait; exit status 1 when one of them failed, which ``machine-N.json`` then names."""
    folder = Path(sys.argv[1])
    order, machine = read_json(folder / ORDER), _machine()
    if machine is None and order["machines"] > 1:
        text = "the number of this machine is unknown"
        write_json(folder / f"machine-{os.getpid()}.json", {"host": socket.gethostname(), "problem": text})
        sys.exit(1)
    import torch
    from accelerate.commands import launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ |= {"PYTHONSAFEPATH": "1", LAUNCHER: str(os.getpid())}
    if not torch.cuda.is_available():
        # Told of several GPUs, accelerate starts several processes; told of CPUs it starts one, in silence.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    sys.argv = ["accelerate launch", *order["arguments"]]
    if order["machines"] > 1:
        sys.argv[1:1] = ["--machine_rank", str(machine)]
        threading.Thread(target=_end_with_others, args=(folder, f"machine-{machine}.json"), daemon=True).start()
    try:
        launch.main()
    except ChildFailedError as error:
        ends = list(_ends(error.failures.items()))
        write_json(folder / f"machine-{machine or 0}.json", {"host": socket.gethostname(), "ends": ends})
        sys.exit(1)


def _end_with_others(folder: Path, own: str) -> None:
    """End this machine's processes when those of another one failed: a collective on GPUs would wait half an hour."""
    while not any(file.name != own for file in folder.glob("machine-*.json")):
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)  # the launcher then ends its processes


def _machine() -> int | None:
    return next((int(os.environ[name]) for name in _MACHINE if os.environ.get(name, "").isdigit()), None)


def _ends(failures: Iterable[tuple[int, Any]]) -> Iterable[dict[str, Any]]:
    """How processes ended: the number of each, its exit status, and when (seconds since 1970)."""
    for number, failure in failures:
        yield {"number": number, "code": failure.exitcode, "time": failure.timestamp}


if __name__ == "__main__":
    main()
