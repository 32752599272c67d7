"""A training whose processes `accelerate launch` starts: the worker starts it, passes on what it says, and ends it.

    work/train[dpo]/launch/
      request.json  order.json  accelerate.yaml   what to do, how to start it, accelerate's config file
      failed-1.json                               a process that raised an exception: its number, host and words
      machine-0.json                              how the processes of one machine ended, when one failed

The main process keeps the artifact itself. All of it ends when one process does, when the launcher does, and when the
worker does.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from hubkit.core.errors import HubkitError, UsageError
from hubkit.core.files import write_atomic, write_json
from hubkit.core.processes.child import die_with_parent
from hubkit.pipeline.launch_failure import failure_of
from hubkit.pipeline.launcher import ORDER, REQUEST
from hubkit.pipeline.runs import Run
from hubkit.recipe.stage import Report
from hubkit.training.launching.launch import Launching

_RANK = "hubkit.pipeline.rank"
_OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")


def refuse_by_hand() -> None:
    """Raise UsageError when torchrun or `accelerate launch` started this command several times."""
    count, number = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    if "LOCAL_RANK" in os.environ and count != "1":
        raise UsageError(
            f"hubkit was started {count} times, by torchrun or `accelerate launch` (this is process {number}).",
            hint=f"Start it once, and write `launch: {{processes: {count}}}` in the recipe: it starts them itself.",
        )


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without what a launcher tells the processes that it starts."""
    return {name: value for name, value in environment.items() if name not in _OF_A_LAUNCHER}


def run(launching: Launching, request: Mapping[str, Any], report: Report) -> None:
    """Run the training of ``request`` in the processes of ``launching`` to its end. HubkitError when one fails."""
    folder = Run(Path(request["run"])).unfinished(request["job"]) / "launch"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / REQUEST, dict(request))
    arguments = ["--module", *_arguments(launching, folder), _RANK, str(folder)]
    write_json(folder / ORDER, {"machines": launching.machines, "arguments": arguments})
    command = [sys.executable, "-P", "-m", "hubkit.pipeline.launcher", str(folder)]
    if launching.machines > 1 and launching.command:
        command = [*shlex.split(launching.command), *command]
    code = _follow(command, launching, report)
    if code:
        raise failure_of(folder, request, launching.count, code)


def _follow(command: Sequence[str], launching: Launching, report: Report) -> int:
    """Run ``command``, pass on what its main process reports, and return its exit status."""
    environment = dict(os.environ)
    if launching.machines == 1 and sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, text=True,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )  # fmt: skip
    except OSError as error:
        raise HubkitError(
            f"{command[0]!r} cannot be started: {error.strerror or error}.", hint="Fix `launch.command` in the recipe."
        ) from error
    listener = threading.Thread(target=_listen, args=(process, report), daemon=True)
    listener.start()
    code = process.wait()
    listener.join(5)
    return code


def _listen(process: subprocess.Popen[str], report: Report) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            event = json.loads(line)
            report(event["figure"], event["share"])
        except (ValueError, TypeError, KeyError):
            sys.stdout.write(line)  # into the log


def _arguments(launching: Launching, folder: Path) -> Iterator[str]:
    """Arguments of `accelerate launch`; what it takes from a file is written to ``folder``.

    A file is always named: accelerate would take the one in the user's home else.
    """
    file = folder / "accelerate.yaml"
    write_atomic(file, yaml.safe_dump(_accelerate_config(launching), sort_keys=True))
    yield from ("--config_file", str(file))
    yield from ("--num_processes", str(launching.count), "--num_machines", str(launching.machines))
    if launching.machines == 1:
        yield from ("--main_process_port", "0")  # a free one
    else:
        address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
        yield from ("--main_process_ip", address or socket.gethostname(), "--main_process_port", port or _free_port())


def _accelerate_config(launching: Launching) -> dict[str, Any]:
    """The user's config file, with the processes of the recipe; files that it names get their whole path."""
    config = {**launching.settings, "compute_environment": "LOCAL_MACHINE", "use_cpu": False}
    config |= {"num_processes": launching.count, "num_machines": launching.machines}
    for name in ("machine_rank", "main_process_ip", "main_process_port"):
        config.pop(name, None)
    if launching.kind == "DDP":
        config["distributed_type"] = "MULTI_GPU"
    if launching.beside:
        config["deepspeed_config"] = {
            **launching.part("deepspeed_config"), "deepspeed_config_file": str(launching.beside[0].path)
        }  # fmt: skip
    return config


def _free_port() -> str:
    with socket.socket() as found:
        found.bind(("", 0))
        return str(found.getsockname()[1])
