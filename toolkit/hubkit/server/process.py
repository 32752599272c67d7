"""Start, find and stop the process of the embedded Hub. Whether it runs is decided by a request to it, not by its pid.

The command line asks for the status at the start of most commands, so modules that only some calls need are imported
in them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hubkit.core.errors import ConflictError, HubkitError, RemoteError, UsageError
from hubkit.core.files import read_json
from hubkit.server.storage.folder import Folder, Lock, held, proof

if TYPE_CHECKING:
    from subprocess import Popen

DEFAULT_PORT = 8750
EXIT_FOLDER_IN_USE = 97
EXIT_PORT_IN_USE = 98
_ANSWER_LIMIT = 65_536
_ROOM = 2**20
# What a server needs of its starter's environment. Tokens and Hub settings are not in it.
_ENVIRONMENT_NAMES = """
HOME USER TMPDIR VIRTUAL_ENV PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE COVERAGE_PROCESS_START SYSTEMROOT
HUBKIT_CONFINEMENT HUBKIT_PUBLIC_URL
"""
_ENVIRONMENT = _ENVIRONMENT_NAMES.split()
_children: list[Popen[bytes]] = []


@dataclass(frozen=True)
class Running:
    """A running server: its address, its pid, the folder that it serves, and the owner's token."""

    url: str
    pid: int
    data: Path
    token: str = field(repr=False)
    faults: bool = False
    spaces: str = "always"
    """Whether it runs Spaces: ``always``, ``confined`` or ``never``."""
    confinement: str | None = None
    """What confines their apps; None when this system has no means to."""

    @property
    def warning(self) -> str | None:
        """What its user must know about the Spaces that it runs; None when they are confined, or not run."""
        if self.spaces != "always" or self.confinement:
            return None
        return (
            "Nothing on this system confines Spaces: their code can read and change whatever you can, the Hub's token "
            "included. Run only Spaces that you trust, or refuse them: hubkit hub start --spaces confined."
        )


def start(
    data: Path, *, host: str = "127.0.0.1", port: int | None = None, timeout: float = 20.0, faults: bool = False,
    spaces: str | None = None,
) -> Running:  # fmt: skip
    """The server of ``data``: the running one, or a new one in a session of its own.

    ``port`` None takes the port of the last start, else 8750, else any free one; 0 takes any free one.
    ``faults`` lets tests script failures. ``spaces`` says whether it runs Spaces (``spaces.policy.MODES``), from now
    on; None: as the last time.
    Raises UsageError when ``port`` is in use by another program, RemoteError when the server does not come up
    within ``timeout`` seconds, ConflictError when one uses the folder and does not answer in that time.
    """
    _require_loopback(host)
    folder = Folder(Path(data).resolve())
    folder.create()
    with Lock(folder.starting_lock):
        if running := _serving(folder, timeout):
            if port and not running.url.endswith(f":{port}"):
                raise UsageError(f"This Hub already runs at {running.url}.", hint="Stop it first: hubkit hub stop")
            if spaces and running.spaces != spaces:
                raise UsageError(
                    f"This Hub already runs at {running.url}, with --spaces {running.spaces}.",
                    hint="Stop it first: hubkit hub stop",
                )
            return running
        return _launch(folder, host, port, timeout, faults, spaces)


def run_here(
    data: Path, *, host: str = "127.0.0.1", port: int | None = None, spaces: str | None = None, as_json: bool = False
) -> NoReturn:
    """Become the server of ``data``: this process is replaced, and ends when the server ends.

    It prints the address to stdout once it serves, and its log to stderr. Its exit code is one of the command line's.
    """
    from hubkit.core.processes.parent import allowed_environment

    _require_loopback(host)
    folder = Folder(Path(data).resolve())
    folder.create()
    command = [*_command(folder, host, port, spaces), "--foreground", "json" if as_json else "text"]
    os.chdir(folder.root)
    os.execve(sys.executable, command, allowed_environment(_ENVIRONMENT))


def _require_loopback(host: str) -> None:
    if host not in {"127.0.0.1", "localhost", "::1"}:
        raise UsageError(f"The embedded Hub listens on loopback only, not on {host}.", hint="Do not give a host.")


def _command(folder: Folder, host: str, port: int | None, spaces: str | None) -> list[str]:
    # The server starts in the data folder; nothing in it may be imported in place of the libraries.
    command = [sys.executable, "-P", "-m", "hubkit.server", "--data", str(folder.root), "--host", host]
    command += ["--port", str(port)] if port is not None else []
    return command + (["--spaces", spaces] if spaces else [])


def _serving(folder: Folder, timeout: float) -> Running | None:
    """The server that uses the folder, given time to answer; None when none does."""
    deadline = time.monotonic() + timeout
    while held(folder.serving_lock):
        if running := status(folder.root):
            return running
        if time.monotonic() > deadline:
            raise _failure(folder, EXIT_FOLDER_IN_USE, None)
        time.sleep(0.05)
    return None


def _launch(folder: Folder, host: str, port: int | None, timeout: float, faults: bool, spaces: str | None) -> Running:
    import subprocess

    from hubkit.core.processes.parent import allowed_environment

    command = _command(folder, host, port, spaces) + (["--faults"] if faults else [])
    environment = allowed_environment(_ENVIRONMENT)
    with folder.log.with_name("process.log").open("wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            cwd=folder.root, env=environment,
        )  # fmt: skip
    _children.append(child)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if running := status(folder.root):
            return running
        try:
            code = child.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        raise _failure(folder, code, port)
    child.kill()
    child.wait()
    raise RemoteError(f"The embedded Hub did not answer within {timeout:g} s.", hint=f"Its log is {folder.log}.")


def _failure(folder: Folder, code: int, port: int | None) -> HubkitError:
    if code == EXIT_PORT_IN_USE:
        return UsageError(f"Port {port} is in use by another program.", hint="Choose another one with --port.")
    if code == EXIT_FOLDER_IN_USE:
        return ConflictError(
            f"Another server uses {folder.root} but does not answer.",
            hint="Stop it with hubkit hub stop, then run the command again.",
        )
    if shutil.disk_usage(folder.root).free < _ROOM:
        return HubkitError(
            f"The embedded Hub did not start: the disk of {folder.root} is full.",
            hint="Make room, then run the command again.",
        )
    tail = folder.log.with_name("process.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    last_line = f": {tail[0]}" if tail else ""
    return RemoteError(f"The embedded Hub exited with code {code}{last_line}.", hint=f"Its log is {folder.log}.")


def status(data: Path) -> Running | None:
    """The server of ``data`` when it answers, else None.

    Another program may listen on the port where the server was, and would be sent the owner's token: so whoever
    answers must prove that it can read the data folder.
    """
    folder = Folder(Path(data).resolve())
    try:
        if not held(folder.serving_lock):
            return None
        import hmac
        import json
        import secrets
        import urllib.parse
        import urllib.request

        url = str(read_json(folder.state)["url"])
        token = folder.owner_token.read_text(encoding="utf-8").strip()
        # Not through a proxy that the environment names: the server is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        nonce = secrets.token_hex(16)
        expected = proof(_secret(folder), urllib.parse.urlsplit(url).port or 80, nonce)
        with opener.open(f"{url}/api/hubkit/status?nonce={nonce}", timeout=3) as answer:
            reply = json.loads(answer.read(_ANSWER_LIMIT))
        if hmac.compare_digest(str(reply["proof"]).encode(), expected.encode()):
            spaces = reply.get("spaces", {})
            return Running(
                url, int(reply["pid"]), folder.root, token, bool(reply.get("faults")),
                str(spaces.get("run", "always")), spaces.get("confinement"),
            )  # fmt: skip
    except (OSError, HubkitError, ValueError, KeyError, TypeError):
        pass
    return None


def _secret(folder: Folder) -> str:
    import sqlite3

    connection = sqlite3.connect(f"{folder.database.as_uri()}?mode=ro", uri=True, timeout=5)
    try:
        row = connection.execute("SELECT value FROM meta WHERE key = 'secret'").fetchone()
    except sqlite3.Error as error:
        raise ConflictError(f"{folder.database} cannot be read: {error}.") from error
    finally:
        connection.close()
    if row is None:
        raise ConflictError(f"{folder.database} is not the database of an embedded Hub.")
    return str(row[0])


def stop(data: Path, timeout: float = 10.0) -> bool:
    """Stop the server of ``data``; kill it after ``timeout`` seconds. False when none ran."""
    folder = Folder(Path(data).resolve())
    if not held(folder.serving_lock):
        return False
    running = status(folder.root)
    pid = running.pid if running else _recorded_pid(folder)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if _until(lambda: not held(folder.serving_lock) and _ended(pid), timeout):
            return True
    raise RemoteError(f"The embedded Hub (process {pid}) does not exit.", hint=f"Kill it: kill -9 {pid}")


def _ended(pid: int) -> bool:
    """Whether the process has exited: it releases its lock before its last files and its working folder."""
    import psutil

    for child in _children:
        child.poll()
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _recorded_pid(folder: Folder) -> int:
    """The pid in the state file, of a server that uses the folder but does not answer."""
    try:
        return int(read_json(folder.state)["pid"])
    except (OSError, HubkitError, KeyError, TypeError, ValueError) as error:
        raise ConflictError(
            f"{folder.root} is in use by a process that did not write its pid to {folder.state.name}."
        ) from error


def _until(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
