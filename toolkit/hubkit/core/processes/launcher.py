"""The process between :class:`~hubkit.core.processes.app.App` and its app: ``python -P -m`` this module."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from hubkit.core.processes.child import adopt_orphans, set_limits
from hubkit.core.processes.confinement import Confined
from hubkit.core.processes.logs import Log, copy_lines
from hubkit.core.processes.parent import lives


def main() -> None:
    """The launcher: run what the first line of standard input orders; end with the app's own code."""
    orders: queue.SimpleQueue[float | None] = queue.SimpleQueue()
    order = json.loads(sys.stdin.buffer.readline())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: orders.put(1.0))
    adopt_orphans()
    log = Log(Path(order["log"]), order["hide"])
    try:
        confined = Confined(order["confinement"], order["command"], Path(order["folder"]))
        app = subprocess.Popen(
            confined.command, cwd=order["folder"], env=order["environment"], process_group=0,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8", errors="replace", **confined.arguments,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        log.write(f"{order['command'][0]} cannot be started: {getattr(error, 'strerror', None) or error}")
        sys.exit(127)
    assert app.stdout is not None
    pump = threading.Thread(target=copy_lines, args=(app.stdout, log), daemon=True)
    pump.start()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    threading.Thread(target=_await, args=(app, orders), daemon=True).start()
    grace = orders.get()
    _end(app, grace or 0.0, spare=app.pid if confined.way == "bubblewrap" else None)
    pump.join(5)
    if (code := app.wait()) < 0:
        set_limits()  # no core file: the app wrote its own
        with contextlib.suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _await(app: subprocess.Popen[str], orders: queue.SimpleQueue[float | None]) -> None:
    app.wait()
    orders.put(None)


def _listen(orders: queue.SimpleQueue[float | None]) -> None:
    """A line is the time that the app has to end; the end of the input leaves it none."""
    line = sys.stdin.buffer.readline()
    try:
        orders.put(float(line))
    except ValueError:
        orders.put(0.0)


def _end(app: subprocess.Popen[str], grace: float, spare: int | None) -> None:
    """End all descendants: asked first, when there is ``grace``, then killed.

    ``spare`` is not asked: bubblewrap would end at once, and the app with it.
    """
    me = psutil.Process()
    if grace:
        asked = me.children(recursive=True)
        _signal([process for process in asked if process.pid != spare], signal.SIGTERM)
        _wait(app, asked, grace)
    while left := [process for process in me.children(recursive=True) if lives(process)]:
        _signal(left, signal.SIGKILL)
        _wait(app, left, 1)
    with contextlib.suppress(OSError):
        os.killpg(app.pid, signal.SIGKILL)


def _wait(app: subprocess.Popen[str], processes: list[psutil.Process], seconds: float) -> None:
    """Wait for the end of all. The app's own is for Popen to see: whoever else sees it takes its code away."""
    deadline = time.monotonic() + seconds
    psutil.wait_procs([process for process in processes if process.pid != app.pid], timeout=seconds)
    with contextlib.suppress(subprocess.TimeoutExpired):
        app.wait(max(0.0, deadline - time.monotonic()))


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


if __name__ == "__main__":
    main()
