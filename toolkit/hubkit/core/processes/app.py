"""Run an app (the ``app.py`` of a Space) as a child that has an environment of its own and dies with its parent.

Between the parent and the app stands :mod:`~hubkit.core.processes.launcher`, a process that reads what to run from its
standard input, writes the app's output to a log, and ends the app with all its descendants when it is told to or when
its input ends. The input ends when the parent does, however it does.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hubkit.core.errors import HubkitError
from hubkit.core.processes.confinement import Reach, Way, best_way
from hubkit.core.processes.parent import allowed_environment, kill_session
from hubkit.core.processes.ports import reserve_other_loopback

_LAUNCHER = ("PYTHONPATH", "PYTHONHOME")
"""Variables that the launcher needs besides the usual ones; the app does not get them."""
_FIXED = ("HOME", "PATH", "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS")
_LINE = 16_384
_SECRET = 4
"""Shorter texts are not hidden: they would black out words that have nothing to do with them."""
_ANSWER_SECONDS = 3.0
_LEFTOVER_SECONDS = 3.0


def environment(home: Path, port: int, more: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of an app whose home is ``home`` and which is to listen on ``port``.

    Of this process's variables only those that say how to find programs and how to write text are in it, so no token
    and no setting of the user's is. ``more`` is added, but cannot change HOME, PATH and where Gradio listens.
    """
    found = allowed_environment() | {
        "HOME": str(home), "TMPDIR": str(home / "tmp"), "XDG_CACHE_HOME": str(home / ".cache"),
        "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1",
        # Gradio would go on to the next port when this one is taken, where nobody looks for it.
        "GRADIO_NUM_PORTS": "1",
    }  # fmt: skip
    return found | {name: value for name, value in more.items() if name not in _FIXED}


class App:
    """A running app, as its starter knows it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, confinement: Way | None) -> None:
        self._process, self.port, self._swept = process, port, False
        self.confinement = confinement
        self._guard: socket.socket | None = None
        self.pid = process.pid
        self.url = f"http://localhost:{port}"

    @classmethod
    def start(
        cls, folder: Path, app_file: str, *, port: int, environment: Mapping[str, str], log: Path,
        python: Path | None = None, hide: Iterable[str] = (), reach: Reach | None = None,
        ways: Sequence[Way] | None = None,
    ) -> App:  # fmt: skip
        """Run ``app_file`` of ``folder`` there, with ``python`` or the interpreter that runs this.

        It is confined to ``folder``, its home and ``reach`` by the best of ``ways``
        (:mod:`~hubkit.core.processes.confinement`); ``confinement`` is the way, None when the system has none.

        ``log`` gets what the app writes, a line of :func:`log_line` each; it is kept below 4 MiB by dropping the older
        half, and the texts to ``hide`` are blacked out in it. HubkitError when the launcher cannot be started.
        """
        command = [str(python or sys.executable), app_file]
        return cls.run(
            command, folder=folder, port=port, environment=environment, log=log, hide=hide, reach=reach, ways=ways
        )

    @classmethod
    def run(
        cls, command: Sequence[str], *, folder: Path, port: int, environment: Mapping[str, str], log: Path,
        hide: Iterable[str] = (), reach: Reach | None = None, ways: Sequence[Way] | None = None,
    ) -> App:  # fmt: skip
        """Run any ``command`` in the way of :meth:`start`."""
        for place in (folder, log.parent, *(Path(environment[n]) for n in ("HOME", "TMPDIR") if n in environment)):
            place.mkdir(parents=True, exist_ok=True)
        reach = reach or Reach()
        # Not TMPDIR: it is the home's, where the app may have put a link.
        own = (folder, *(Path(environment[name]) for name in ("HOME",) if name in environment))
        reach = replace(reach, write=(*(path.resolve() for path in own), *reach.write))
        way = best_way(reach, ways)
        if way is None and reach.required:
            raise HubkitError("The app cannot be started: this system has no means to confine it.")
        order = {
            "command": list(command), "folder": str(folder), "environment": dict(environment), "log": str(log),
            "confinement": reach.order(way),
            "hide": [line for text in hide for line in text.splitlines() if len(line) >= _SECRET],
        }  # fmt: skip
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "hubkit.core.processes.launcher", str(folder)],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True, env=allowed_environment(_LAUNCHER),
            )  # fmt: skip
            assert process.stdin is not None
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            raise HubkitError(f"The app cannot be started: {error.strerror or error}.") from error
        return cls(process, port, way)

    @property
    def created(self) -> float:
        """When its launcher started, as the system counts: with the pid it names the process for good; 0.0 if gone."""
        import psutil

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
                kill_session(self.pid)  # it may be the launcher that was killed, and the app may live
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
            self._guard = reserve_other_loopback(self.port)
        return self._guard is not None or self._has_other_loopback()

    def _has_other_loopback(self) -> bool:
        """Whether it is the app itself that listens on its port of ``::1``, as one that listens everywhere does."""
        import psutil

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
            kill_session(self.pid)
            self._process.wait()
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self._guard:
            self._guard.close()
        self.code()


def end_leftover(pid: int, created: float) -> None:
    """Kill what is left of an app whose starter is gone; ``pid`` and ``created`` are those of its launcher.

    A process of that number which started at another time is somebody else's, and so is its session.
    """
    import psutil

    # The number stays taken as long as a process of that session lives.
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        launcher = psutil.Process(pid)
        if abs(launcher.create_time() - created) > 1:
            return
        launcher.wait(_LEFTOVER_SECONDS)  # it knows by now, and knows better what is to be ended
    kill_session(pid)
