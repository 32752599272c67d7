"""Git as a child process: with limits, without the settings of anybody, and never through a shell's words.

The limits are set by ``/bin/sh``, which then becomes git, with less of the processor than the server has. Every word
of a command is an argument of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from hubkit.core.processes.parent import describe_end

CPU_SECONDS, MEMORY, SECONDS = 600, 2**31, 900.0
"""Limits of one child: seconds of processor time, bytes of address space, seconds of the clock."""
_LIMITS = 'ulimit -c 0; ulimit -t "$1"; ulimit -v "$2" 2>/dev/null; shift 2; exec nice -n 5 "$@"'
_SETTINGS = {
    "safe.directory": "*",  # the serving lock says that the folder is this server's
    "core.hooksPath": os.devnull,
    "core.fsync": "loose-object,pack,pack-metadata",
    "core.looseCompression": "1",
    "core.packedGitLimit": "512m",
    "core.packedGitWindowSize": "64m",
    "core.bigFileThreshold": "16m",
    "pack.threads": "1",
    "pack.windowMemory": "64m",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "uploadpack.allowFilter": "true",
    "uploadpack.allowAnySHA1InWant": "true",  # as every client of protocol 2 may: partial clones fetch blobs so
}
_ERRORS = 2000
_PROTOCOL = re.compile(r"version=[012]")


class GitMissingError(Exception):
    """Git is not installed on this machine."""


class GitFailedError(Exception):
    """A git child failed. ``errors`` is what it wrote about it."""

    def __init__(self, words: Iterable[str], code: int | None, errors: str) -> None:
        end = "took too long" if code is None else f"ended {describe_end(code)}"
        super().__init__(f"git {' '.join(words)} {end}: {errors}")
        self.code, self.errors = code, errors


def _program() -> str:
    if (path := shutil.which("git")) is None:
        raise GitMissingError
    return path


def environment(repo: Path, *, incoming: Path | None = None, alone: bool = False, protocol: str = "") -> dict[str, str]:
    """The variables of a git child that works on the bare ``repo``.

    It writes to the folder of objects ``incoming``, and reads those of the repo too, unless ``alone``. ``protocol`` is
    what a client asks for; anything but a version of the protocol is dropped.
    """
    values = {
        "PATH": os.environ.get("PATH", os.defpath), "HOME": os.devnull, "LC_ALL": "C", "GIT_DIR": str(repo),
        "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_REPLACE_OBJECTS": "1", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_COUNT": str(len(_SETTINGS)),
    }  # fmt: skip
    for number, (key, value) in enumerate(_SETTINGS.items()):
        values |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    if incoming is not None:
        values |= {"GIT_OBJECT_DIRECTORY": str(incoming), "GIT_QUARANTINE_PATH": str(incoming)}
        if not alone:
            values["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = str(repo / "objects")
    if _PROTOCOL.fullmatch(protocol):
        values["GIT_PROTOCOL"] = protocol
    return values


def _command(words: Iterable[str]) -> list[str]:
    return ["/bin/sh", "-c", _LIMITS, "git", str(CPU_SECONDS), str(MEMORY // 1024), _program(), *words]


def run(words: list[str], variables: Mapping[str, str], *, given: bytes | IO[bytes] = b"") -> bytes:
    """What git writes; ``given`` is its input: bytes, or an open file from where it is.

    GitFailedError, GitMissingError.
    """
    with tempfile.TemporaryFile(dir=_scratch(variables)) as source:
        if isinstance(given, bytes):
            source.write(given)
            source.seek(0)
        with reading(words, variables, source if isinstance(given, bytes) else given) as output:
            return output.read()


@contextmanager
def reading(words: list[str], variables: Mapping[str, str], given: IO[bytes]) -> Iterator[BinaryIO]:
    """What git writes, to be read to its end while it works. GitFailedError, GitMissingError."""
    with tempfile.TemporaryFile(dir=_scratch(variables)) as errors:
        child = subprocess.Popen(
            _command(words), env=dict(variables), cwd=variables["GIT_DIR"], start_new_session=True, stdin=given,
            stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        late = threading.Event()

        def expire() -> None:
            late.set()
            end_group(child.pid)

        clock = threading.Timer(SECONDS, expire)
        clock.daemon = True
        clock.start()
        assert child.stdout is not None
        try:
            with child.stdout:
                yield cast(BinaryIO, child.stdout)
            child.wait()
        except BaseException:
            end_group(child.pid)
            child.wait()
            raise
        finally:
            clock.cancel()
        if child.returncode:
            errors.seek(max(0, errors.tell() - _ERRORS))
            text = errors.read().decode("utf-8", "replace").strip()
            raise GitFailedError(words, None if late.is_set() else child.returncode, text)


def _scratch(variables: Mapping[str, str]) -> str | None:
    return variables.get("GIT_OBJECT_DIRECTORY")


async def start(words: list[str], variables: Mapping[str, str], given: IO[bytes]) -> asyncio.subprocess.Process:
    """A child that writes to a pipe while the event loop goes on. GitMissingError."""
    return await asyncio.create_subprocess_exec(
        *_command(words), env=dict(variables), cwd=variables["GIT_DIR"], start_new_session=True, stdin=given,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def end_group(pid: int) -> None:
    """Kill a child and all that it started; it must not have been waited for."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
