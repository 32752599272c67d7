"""Run blocks of Python, one child each; a process of its own, which imports of hubkit only what children share.

It imports what the blocks will import once, and then forks: torch, transformers and peft take six seconds, a fork a
few milliseconds. Where a fork is not safe, each child is started anew: away from Linux, on a machine with a GPU (a
driver that the imports have woken does not survive a fork), and when an import has started threads.

Orders come as JSON lines on standard input, answers go as JSON lines to standard output. When the input ends, because
the starter is gone, everything that was started here is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import linecache
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from hubkit.core.processes.child import adopt_orphans, die_with_parent, set_limits
from hubkit.core.processes.parent import kill_children

_TAIL = 64 * 1024
"""Bytes of a child's output that are kept: the last ones."""
_TICK = 0.05
_LINUX = sys.platform == "linux"


class Gone(Exception):
    """The starter is gone."""


class Child(Exception):
    """Raised in a fork: unwinds to :func:`main`, which then runs ``job`` and nothing else."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job


class Orders:
    """Lines of standard input, read without a buffer that would hide them from select."""

    def __init__(self) -> None:
        self._held = b""

    def next(self) -> dict[str, Any]:
        """The next order; Gone at the end of the input."""
        while b"\n" not in self._held:
            self.read()
        line, _, self._held = self._held.partition(b"\n")
        return dict(json.loads(line))

    def read(self) -> None:
        """Take what is there, waiting for it; Gone at the end of the input."""
        if not (piece := os.read(0, 65536)):
            raise Gone
        self._held += piece


@dataclass
class Host:
    """What runs here."""

    orders: Orders
    replies: int
    forks: bool = False
    server: int | None = None
    ended: dict[int, int] = field(default_factory=dict)

    def import_all(self, modules: dict[str, list[str]]) -> dict[str, Any]:
        """Import modules and the names that are taken from them (transformers loads those when they are asked for)."""
        began = time.monotonic()
        for module, names in modules.items():
            with contextlib.suppress(BaseException):  # a block that imports it will say so itself
                loaded = importlib.import_module(module)
                for name in names:
                    with contextlib.suppress(AttributeError):
                        getattr(loaded, name)
        gc.freeze()  # the collector would write to every page that the forks share
        self.forks = _may_fork()
        return {"forks": self.forks, "seconds": time.monotonic() - began}

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run a block to its end, or to that of its time."""
        began = time.monotonic()
        reader, writer = os.pipe()
        try:
            child = self.start(job, writer)
        finally:
            os.close(writer)
        output, late, watched = b"", False, [0, reader]
        try:
            while self.code(child) is None:
                ready, _, _ = select.select(watched, [], [], _TICK)
                if 0 in ready:
                    self.orders.read()
                if reader in ready:
                    piece = os.read(reader, 65536)
                    output = (output + piece)[-_TAIL:]
                    if not piece:
                        watched = [0]  # it closed its output and goes on
                if time.monotonic() - began > job["seconds"]:
                    late = True
                    self.end(child)
            self.sweep()
            os.set_blocking(reader, False)
            with contextlib.suppress(BlockingIOError):
                while piece := os.read(reader, 65536):
                    output = (output + piece)[-_TAIL:]
        finally:
            os.close(reader)
        return {
            "code": self.code(child), "late": late, "seconds": time.monotonic() - began,
            "output": output.decode("utf-8", "replace"),
        }  # fmt: skip

    def start(self, job: dict[str, Any], output: int) -> int:
        """A child that runs ``job`` and writes to ``output``: its process id."""
        if self.forks:
            me = os.getpid()
            if child := os.fork():
                self.ended.pop(child, None)  # the system uses numbers again
                return child
            os.setsid()
            die_with_parent(me)
            os.close(self.replies)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for end, number in ((nothing, 0), (output, 1), (output, 2)):
                os.dup2(end, number)
            raise Child(job)
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, "child"],
            stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job).encode())
            process.stdin.close()
        self.ended.pop(process.pid, None)
        process.returncode = 0  # its end is waited for here, not by subprocess
        return process.pid

    def serve(self, job: dict[str, Any]) -> dict[str, Any]:
        """Start ``transformers serve``; its output goes to the file ``log``."""
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self.server = self.start(job, log)
        finally:
            os.close(log)
        return {}

    def served(self) -> dict[str, Any]:
        """Exit status of the server; None while it runs."""
        return {"code": self.code(self.server) if self.server else 0}

    def stop(self) -> dict[str, Any]:
        """End the server."""
        if self.server is not None:
            self.end(self.server)
            self.server = None
            self.sweep()
        return {}

    def code(self, child: int) -> int | None:
        """Exit status of ``child`` (negative: the signal that ended it); None while it runs."""
        if child not in self.ended:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                self.ended[child] = os.waitstatus_to_exitcode(status)
        return self.ended.get(child)

    def end(self, child: int) -> None:
        """Kill ``child`` and its session; returns when it is gone."""
        while self.code(child) is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)

    def sweep(self) -> None:
        """Kill what blocks have left running; the server and its children stay."""
        kept = {self.server} if self.server else set()
        with contextlib.suppress(psutil.Error):
            if self.server:
                kept |= {process.pid for process in psutil.Process(self.server).children(recursive=True)}
        kill_children(lambda process: process.pid not in kept, descendants=True)

    def answer(self, order: dict[str, Any]) -> None:
        """Carry out one order."""
        done = {
            "import": lambda: self.import_all(order["modules"]),
            "run": lambda: self.run(order),
            "serve": lambda: self.serve(order),
            "served": self.served,
            "stop": self.stop,
        }[order["do"]]()
        os.write(self.replies, json.dumps(done).encode() + b"\n")


def _may_fork() -> bool:
    gpu = Path("/dev/kfd").exists() or any(Path("/dev").glob("nvidia[0-9]*"))
    tasks = Path("/proc/self/task")
    threads = len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()
    return _LINUX and not gpu and threads == 1


# The child ---------------------------------------------------------------------------------------------------


def execute(job: dict[str, Any]) -> int:
    """Run the parts of ``job`` in one namespace, or the server: the exit status."""
    set_limits(data=job.get("memory"))  # the weights that are mapped from files do not count
    os.chdir(job["folder"])
    if "serve" in job:
        return _serve(job["serve"])
    name = job["name"]
    sys.argv = [name]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    lines: list[str] = []
    sources = []
    for part in job["parts"]:
        lines += ["\n"] * (part["line"] - 1 - len(lines)) + part["source"].splitlines(keepends=True)
        sources.append("\n" * (part["line"] - 1) + part["source"])
    linecache.cache[name] = (0, None, lines, name)
    try:
        for source in sources:
            exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, trace)
        return 1
    return 0


def _leave(code: int) -> None:
    """End a fork as a program ends, but for taking the modules apart, which takes seconds after importing torch."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)


def _serve(arguments: list[str]) -> int:
    from transformers.cli.transformers import app  # its main() would first ask PyPI for a newer version

    sys.argv = ["transformers", "serve", *arguments]
    app()
    return 0


def main() -> int:
    """Take orders until there are no more."""
    if sys.argv[1:] == ["child"]:
        job = json.load(sys.stdin)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        return execute(job)
    adopt_orphans()
    host = Host(Orders(), os.dup(1))
    os.dup2(2, 1)  # what libraries print while they are imported is no answer
    job = None
    try:
        while True:
            host.answer(host.orders.next())
    except Gone:
        host.server = None
        host.sweep()
    except Child as child:
        job = child.job
    if job is not None:  # here, so that a block's own errors follow from no other
        _leave(execute(job))
    return 0


if __name__ == "__main__":
    sys.exit(main())
