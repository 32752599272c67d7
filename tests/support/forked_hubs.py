"""Fresh embedded Hubs for tests, forked from a process that has imported the server.

A Hub spends most of its start on imports: 0.6 s of processor time, and `make test` starts more than 700. A forked one
is
the same program in a process, a session and a data folder of its own, with the arguments and the environment of
`hubkit.server.process.start`; that function itself is tried in tests/server/test_process.py and by every command.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hubkit.server import process
from hubkit.server.process import Running

PATIENCE = 30.0
"""Seconds for one Hub to come up. It tells a hang from a busy machine."""


class ForkedHubs:
    """Starts Hubs by forking; the process that is forked ends with this one."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-P", __file__, "hubkit.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**process_environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )

    def start(self, data: Path) -> Running:
        """A fresh Hub with its files in ``data``, at any free port, with scripted faults allowed."""
        data = data.resolve()
        Path(data).mkdir(parents=True, exist_ok=True)
        order = {"data": str(data), "environment": process_environment()}
        assert self._parent.stdin and self._parent.stdout
        self._parent.stdin.write(f"{json.dumps(order)}\n".encode())
        self._parent.stdin.flush()
        self._parent.stdout.readline()  # it was forked
        deadline = time.monotonic() + PATIENCE
        while not (running := process.status(data)):
            assert time.monotonic() < deadline, (data / "process.log").read_text("utf-8", "replace")
            time.sleep(0.01)
        return running

    def end(self) -> None:
        """End the process that is forked. Hubs that it started go on until they are stopped."""
        assert self._parent.stdin
        self._parent.stdin.close()
        self._parent.wait()


def process_environment() -> dict[str, str]:
    """The environment that `process.start` gives to a Hub."""
    from hubkit.core.processes.parent import allowed_environment

    return allowed_environment(process._ENVIRONMENT)


def _serve(order: dict[str, Any]) -> None:
    """In the forked process: become the Hub of ``order``."""
    from hubkit.server.__main__ import main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    nothing, log = os.open(os.devnull, os.O_RDONLY), Path(order["data"], "process.log")
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for target, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(output)
    os.chdir(order["data"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["hubkit.server", "--data", order["data"], "--host", "127.0.0.1", "--port", "0", "--faults"]
    sys.exit(main())


def _wait_for_orders() -> None:
    """Import the server, then fork a Hub for each line of the standard input."""
    import uvicorn  # noqa: F401

    import hubkit.server.app
    import hubkit.server.http.protocol
    import hubkit.server.hub  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Hubs that ended are not waited for
    while line := os.read(0, 2**16):
        if os.fork() == 0:
            _serve(json.loads(line))
        os.write(1, b"forked\n")


if __name__ == "__main__":
    _wait_for_orders()
