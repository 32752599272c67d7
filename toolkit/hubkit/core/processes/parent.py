"""What a parent does about its child processes: start them apart from itself, exchange JSON with them, end them all.

Every child gets an environment that names its variables one by one, and a session of its own: a Ctrl-C at the terminal
reaches the parent alone, and the child can be ended together with all that it started.
"""

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hubkit.core.errors import HubkitError
from hubkit.core.processes import child

if TYPE_CHECKING:
    import psutil

PASSED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
"""Variables that say how to find programs and how to write text: every child gets them. None holds a secret."""
_TRIES = 500
"""How often processes are killed again, 10 ms apart: those of another user cannot be."""


def allowed_environment(more: Iterable[str] = ()) -> dict[str, str]:
    """This process's variables ``PASSED`` and ``more``, as far as they are set; all others stay behind."""
    return {name: os.environ[name] for name in (*PASSED, *more) if name in os.environ}


def describe_end(code: int) -> str:
    """How a process ended, for a sentence: 'by signal 9', 'with status 1'."""
    return f"by signal {-code}" if code < 0 else f"with status {code}"


# --- jobs


class JobFailed(Exception):
    """A job was ended by a limit, or broke off. ``errors`` is the end of its standard error."""

    def __init__(self, code: int | None, errors: str) -> None:
        super().__init__(f"it passed its time limit ({errors})" if code is None else f"it ended {describe_end(code)}")
        self.code, self.errors = code, errors


def run_job(script: Path, job: Any, *, memory: int, cpu_seconds: int, timeout: float) -> Any:
    """What ``answer(job)`` of the Python file ``script`` returns, both plain JSON, computed in a child with limits.

    ``memory`` is in bytes of address space, ``cpu_seconds`` of CPU time, ``timeout`` seconds of the clock. The child's
    environment is empty, and it imports only what is installed. JobFailed when a limit ends it, or an exception does.
    """
    command = [sys.executable, "-I", "-X", "utf8", str(child.__file__), str(script)]
    command += [str(memory), str(cpu_seconds), str(os.getpid())]
    try:
        done = subprocess.run(
            command, input=json.dumps(job).encode(), capture_output=True, timeout=timeout, env={}, check=False,
            start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise JobFailed(None, _end_of(error.stderr or b"")) from error
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise JobFailed(done.returncode, _end_of(done.stderr)) from error


def ask_module(module: str, question: Any, *, timeout: float, environment: Mapping[str, str]) -> Any:
    """What the installed ``module``, run in a child of this Python, answers to ``question``; both plain JSON.

    The module calls :func:`hubkit.core.processes.child.answer_question`. It is for libraries that this process shall
    not import, so the child gets all of this process's variables, and ``environment``. JobFailed when it breaks off or
    takes more than ``timeout`` seconds.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", module], input=json.dumps(question).encode(), capture_output=True,
            timeout=timeout, env={**os.environ, **environment}, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise JobFailed(None, _end_of(error.stderr or b"")) from error
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise JobFailed(done.returncode, _end_of(done.stderr)) from error


def _end_of(output: bytes) -> str:
    return output[-500:].decode("utf-8", "replace")


# --- children that stay


class JsonChild:
    """A child that takes orders as JSON lines on its standard input and answers likewise on its standard output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid = process, process.pid
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    @classmethod
    def start(
        cls, command: Sequence[str], *, environment: Mapping[str, str], folder: Path | None = None,
        errors: int | IO[bytes] = subprocess.DEVNULL,
    ) -> JsonChild:  # fmt: skip
        """Start ``command`` in ``folder``, in a session of its own; ``errors`` gets its standard error.

        HubkitError when the system refuses.
        """
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=dict(environment),
                cwd=folder, text=True, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise HubkitError(f"The process {command[0]} cannot be started: {error.strerror or error}.") from error
        return cls(process)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:  # closed here: another thread would have to wait for what holds the pipe
            for line in lines:
                self._answers.put(line)
        self._answers.put("")

    def send(self, order: Mapping[str, Any]) -> None:
        """Give an order. That the child has ended is seen by :meth:`receive`."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()

    def receive(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next answer; None when the child has ended, or gave none within ``timeout`` seconds."""
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            return None
        if not line:
            self._answers.put("")  # for whoever asks again
            return None
        return dict(json.loads(line))

    def end(self, grace: float = 0.0) -> int:
        """End the child and all that it started; returns its exit status.

        Its input is closed first, and it has ``grace`` seconds to end by itself.
        """
        with contextlib.suppress(OSError):
            self.process.stdin.close() if self.process.stdin else None
        deadline = time.monotonic() + grace
        while not self._has_ended() and time.monotonic() < deadline:
            time.sleep(0.01)
        if self.process.returncode is None:
            kill_tree(self.pid)
        else:  # others of its group may live
            kill_group(self.pid)
        return self.process.wait()

    def _has_ended(self) -> bool:
        """Whether the child itself has ended; its number stays taken until it is waited for."""
        if self.process.returncode is not None:
            return True
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        return ended is not None and ended.si_pid == self.pid


# --- ending processes


def kill_group(pid: int) -> None:
    """Kill what is left of the process group of ``pid``."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill_tree(pid: int) -> None:
    """Kill the child ``pid``, its process group, and all of its descendants."""
    import psutil

    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        descendants = psutil.Process(pid).children(recursive=True)
    kill_group(pid)
    for process in descendants:
        with contextlib.suppress(psutil.Error):
            process.kill()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_session(leader: int) -> None:
    """Kill everything that runs in the session of the process ``leader``, which may have ended."""
    import psutil

    def members() -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _session(process.pid) == leader and lives(process)]

    _kill_until_none(members, reap=False)  # the exit code of a child is for who started it


def kill_children(wanted: Callable[[psutil.Process], bool], *, descendants: bool = False) -> None:
    """Kill the children of this process (or all ``descendants``) that are ``wanted``, until there are none.

    Their exit codes are taken: this is for orphans that the process has adopted.
    """
    import psutil

    me = psutil.Process()
    _kill_until_none(lambda: [item for item in me.children(recursive=descendants) if wanted(item)], reap=True)


def _kill_until_none(find: Callable[[], list[psutil.Process]], *, reap: bool) -> None:
    import psutil

    for _ in range(_TRIES):
        left = find()
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.01)
        for process in left if reap else ():  # one whose parent is killed becomes a child of this process
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def lives(process: psutil.Process) -> bool:
    """Whether ``process`` runs: it is neither gone nor a zombie."""
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None
