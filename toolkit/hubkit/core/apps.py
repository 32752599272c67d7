"""Runs an app (the ``app.py`` of a Space) as a child that has an environment of its own and dies with its starter.

Between the starter and the app stands a launcher, ``python -P -m hubkit.core.apps``: it reads what to run from its
standard input, writes the app's output to a log, and ends the app with all its descendants when it is told to or when
its input ends. The input ends when the starter dies, however it dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import logging.handlers
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import psutil

from hubkit.core.errors import HubkitError

_PASSED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
_LAUNCHER = (*_PASSED, "PYTHONPATH", "PYTHONHOME")
_FIXED = ("HOME", "PATH", "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS")
_LOG_HALF = 2 * 2**20
_LINE = 16_384
_SECRET = 4
"""Shorter texts are not hidden: they would black out words that have nothing to do with them."""
_ANSWER_SECONDS = 3.0
_LEFTOVER_SECONDS = 3.0
_SET_CHILD_SUBREAPER = 36
"""Of Linux's prctl(2): orphans among the descendants become children of this process, so that none is lost."""


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether an app could listen on ``port`` of the loopback, and would be found there under ``localhost``."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
    except OSError:
        return False
    if (other := _other_loopback(port)) is not None:
        other.close()
    return other is not None


def _other_loopback(port: int) -> socket.socket | None:
    """A socket that takes ``port`` of ``::1`` and listens to nobody; None when another program has it.

    Browsers look for ``localhost`` at ``::1`` first: who listens there is taken for the app. On a machine without
    ``::1`` the socket is at no address.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        found = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError:
        return sock
    sock.close()
    try:
        found.bind(("::1", port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            found.close()
            return None
    return found


def environment(home: Path, port: int, more: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of an app whose home is ``home`` and which is to listen on ``port``.

    Of this process's variables only those that say how to find programs and how to write text are in it, so no token
    and no setting of the user's is. ``more`` is added, but cannot change HOME, PATH and where Gradio listens.
    """
    found = {name: os.environ[name] for name in _PASSED if name in os.environ}
    found |= {
        "HOME": str(home), "TMPDIR": str(home / "tmp"), "XDG_CACHE_HOME": str(home / ".cache"),
        "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1",
        # Gradio would go on to the next port when this one is taken, where nobody looks for it.
        "GRADIO_NUM_PORTS": "1",
    }  # fmt: skip
    return found | {name: value for name, value in more.items() if name not in _FIXED}


def log_line(text: str) -> str:
    """One line of a log: JSON with ``timestamp`` (UTC, ``Z``) and ``data``, which ends in a newline."""
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    return json.dumps({"timestamp": moment, "data": text.rstrip("\n") + "\n"})


def log_tail(log: Path, lines: int = 100) -> list[str]:
    """The last ``lines`` that an app wrote, without their newlines; empty when there is no log yet."""
    found: list[str] = []
    for path in (older(log), log):
        with contextlib.suppress(FileNotFoundError):
            found += path.read_text(encoding="utf-8", errors="replace").splitlines()
    said = []
    for line in found[-lines:]:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said.append(str(json.loads(line)["data"]).rstrip("\n"))
    return said


def older(log: Path) -> Path:
    """Where the older half of a log lies, once there is one."""
    return log.with_name(log.name + ".1")


class App:
    """A running app, as its starter knows it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process, self.port, self._swept = process, port, False
        self._guard: socket.socket | None = None
        self.pid = process.pid
        self.url = f"http://localhost:{port}"

    @classmethod
    def start(
        cls, folder: Path, app_file: str, *, port: int, environment: Mapping[str, str], log: Path,
        python: Path | None = None, hide: Iterable[str] = (),
    ) -> App:  # fmt: skip
        """Run ``app_file`` of ``folder`` there, with ``python`` or the interpreter that runs this.

        ``log`` gets what the app writes, a line of :func:`log_line` each; it is kept below 4 MiB by dropping the older
        half, and the texts to ``hide`` are blacked out in it. HubkitError when the launcher cannot be started.
        """
        command = [str(python or sys.executable), app_file]
        return cls.run(command, folder=folder, port=port, environment=environment, log=log, hide=hide)

    @classmethod
    def run(
        cls, command: Sequence[str], *, folder: Path, port: int, environment: Mapping[str, str], log: Path,
        hide: Iterable[str] = (),
    ) -> App:  # fmt: skip
        """Run any ``command`` in the way of :meth:`start`."""
        for place in (folder, log.parent, *(Path(environment[n]) for n in ("HOME", "TMPDIR") if n in environment)):
            place.mkdir(parents=True, exist_ok=True)
        order = {
            "command": list(command), "folder": str(folder), "environment": dict(environment), "log": str(log),
            "hide": [line for text in hide for line in text.splitlines() if len(line) >= _SECRET],
        }  # fmt: skip
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "hubkit.core.apps", str(folder)],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True, env={name: os.environ[name] for name in _LAUNCHER if name in os.environ},
            )  # fmt: skip
            assert process.stdin is not None
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            raise HubkitError(f"The app cannot be started: {error.strerror or error}.") from error
        return cls(process, port)

    @property
    def created(self) -> float:
        """When its launcher started, as the system counts: with the pid it names the process for good; 0.0 if gone."""
        try:
            return float(psutil.Process(self.pid).create_time())
        except psutil.NoSuchProcess:
            return 0.0

    def code(self) -> int | None:
        """Exit status of the app (negative: the signal that ended it), None while it runs."""
        code = self._process.poll()
        if code is not None and not self._swept:
            self._swept = True  # once: the number may be another process's from now on
            if code < 0:
                end_session(self.pid)  # it may be the launcher that was killed, and the app may live
        return code

    def answers(self) -> bool:
        """Whether a GET of ``/`` on its port is answered below 500, within three seconds."""
        deadline = time.monotonic() + _ANSWER_SECONDS
        request = f"GET / HTTP/1.1\r\nHost: localhost:{self.port}\r\nConnection: close\r\n\r\n".encode()
        received = b""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=_ANSWER_SECONDS) as sock:
                sock.sendall(request)
                while b"\r\n" not in received and len(received) < _LINE:
                    if (left := deadline - time.monotonic()) <= 0:
                        return False
                    sock.settimeout(left)
                    if not (piece := sock.recv(4096)):
                        break
                    received += piece
        except OSError:
            return False
        words = received.split(b"\r\n")[0].split()
        return len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() and int(words[1]) < 500

    def guard(self) -> bool:
        """Keep strangers from the app's port of ``::1`` until it is stopped. False when one listens there."""
        if self._guard is None:
            self._guard = _other_loopback(self.port)
        return self._guard is not None or self._has_other_loopback()

    def _has_other_loopback(self) -> bool:
        """Whether it is the app itself that listens on its port of ``::1``, as one that listens everywhere does."""
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.pid).children(recursive=True):
                for at in process.net_connections("tcp6"):
                    if at.laddr and at.laddr.port == self.port and at.status == psutil.CONN_LISTEN:
                        return True
        return False

    def stop(self, timeout: float = 5.0) -> None:
        """Ask the app to end, kill what is left after ``timeout`` seconds; returns when all are gone."""
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(OSError):
                self._process.stdin.write(f"{timeout}\n".encode())
                self._process.stdin.flush()
        try:
            self._process.wait(timeout + 5)
        except subprocess.TimeoutExpired:
            end_session(self.pid)
            self._process.wait()
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self._guard:
            self._guard.close()
        self.code()


def end_session(pid: int) -> None:
    """Kill a launcher and all that runs in its session: for a launcher that could not do it itself."""
    for _ in range(500):
        members = [process for process in psutil.process_iter() if _session(process.pid) == pid and _lives(process)]
        if not members:
            return
        for process in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.01)  # no psutil.wait: it would take the exit code of a child from who started it


def end_leftover(pid: int, created: float) -> None:
    """Kill what is left of an app whose starter is gone; ``pid`` and ``created`` are those of its launcher.

    A process of that number which started at another time is somebody else's, and so is its session.
    """
    # The number stays taken as long as a process of that session lives.
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        launcher = psutil.Process(pid)
        if abs(launcher.create_time() - created) > 1:
            return
        launcher.wait(_LEFTOVER_SECONDS)  # it knows by now, and knows better what is to be ended
    end_session(pid)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# The launcher ------------------------------------------------------------------------------------------------


def main() -> None:
    """The launcher: run what the first line of standard input orders; end with the app's own code."""
    orders: queue.SimpleQueue[float | None] = queue.SimpleQueue()
    order = json.loads(sys.stdin.buffer.readline())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: orders.put(1.0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    log = _Log(Path(order["log"]), order["hide"])
    try:
        app = subprocess.Popen(
            order["command"], cwd=order["folder"], env=order["environment"], process_group=0,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except OSError as error:
        log.write(f"{order['command'][0]} cannot be started: {error.strerror or error}")
        sys.exit(127)
    assert app.stdout is not None
    pump = threading.Thread(target=_pump, args=(app.stdout, log), daemon=True)
    pump.start()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    threading.Thread(target=_await, args=(app, orders), daemon=True).start()
    grace = orders.get()
    _end(app, grace or 0.0)
    pump.join(5)
    if (code := app.wait()) < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
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


def _end(app: subprocess.Popen[str], grace: float) -> None:
    """End all descendants: asked first, when there is ``grace``, then killed."""
    me = psutil.Process()
    if grace:
        asked = me.children(recursive=True)
        _signal(asked, signal.SIGTERM)
        _wait(app, asked, grace)
    while left := [process for process in me.children(recursive=True) if _lives(process)]:
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


class _Log:
    """A log that drops its older half when it is full."""

    def __init__(self, path: Path, hide: Iterable[str]) -> None:
        self._hide = sorted(hide, key=len, reverse=True)
        self._handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=_LOG_HALF, backupCount=1, encoding="utf-8"
        )  # fmt: skip

    def write(self, text: str) -> None:
        """Add one line, without the texts to hide."""
        for hidden in self._hide:
            text = text.replace(hidden, "***")
        self._handler.emit(logging.makeLogRecord({"msg": log_line(text)}))


def _pump(output: IO[str], log: _Log) -> None:
    """Each line into the log. A progress bar's carriage returns end lines too; an endless line is cut."""
    while line := output.readline(_LINE):
        log.write(line)


if __name__ == "__main__":
    main()
