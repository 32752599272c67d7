"""The server process: ``python -m hubkit.server --data FOLDER [--port N]``. It logs to a file and prints nothing.

With ``--foreground`` it prints its address once it serves, logs to stderr too, and exits with the command line's codes.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import logging.handlers
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.errors import ConflictError, HubkitError, UsageError
from hubkit.core.files import read_json, write_json
from hubkit.core.printable import printable_lines
from hubkit.server.process import DEFAULT_PORT, EXIT_FOLDER_IN_USE, EXIT_PORT_IN_USE, Running
from hubkit.server.spaces.policy import MODES, Mode
from hubkit.server.storage.database import now
from hubkit.server.storage.folder import Folder, claim

if TYPE_CHECKING:
    from hubkit.server.http.protocol import Server
    from hubkit.server.hub import Hub

_BACKLOG = 256
"""Connections that may wait to be accepted."""


def bind(host: str, ports: Iterable[int]) -> socket.socket | None:
    """A socket that listens on the first of ``ports`` that is free; None when none is.

    It listens at once: two sockets that do not listen can be bound to one port, and one of two Hubs that start together
    would fail when it is too late to choose another. Clients that connect before the Hub is ready wait.
    """
    for port in ports:
        # The protocol is named because asyncio sends small answers without delay on sockets that name it only.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise
            continue
        sock.set_inheritable(False)
        return sock
    return None


def ports_to_try(folder: Folder, port: int | None) -> list[int]:
    """The ports to try: the given one, or the last one, the default one, any."""
    if port is not None:
        return [port]
    try:
        last = [int(read_json(folder.state)["port"])] if folder.state.exists() else []
    except (HubkitError, KeyError, TypeError, ValueError):
        last = []
    return [*(number for number in last if 0 < number < 65536), DEFAULT_PORT, 0]


def log_formatter() -> logging.Formatter:
    """How an entry of the log is written."""
    return _Plain("%(asctime)s %(levelname)s %(name)s %(message)s")


class _Plain(logging.Formatter):
    """Visible characters alone; only the first line of an entry begins at the margin, whatever a client sent."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record)).replace("\n", "\n  ")


def log_to(path: Path, *, console: bool = False) -> None:
    """Send everything that is logged to one file, rotated at 10 MB; with ``console`` to stderr too."""
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(path, maxBytes=10_000_000, backupCount=3, encoding="utf-8")
    ]
    handlers += [logging.StreamHandler()] if console else []
    for handler in handlers:
        handler.setFormatter(log_formatter())
    logging.basicConfig(level=logging.INFO, handlers=handlers)


def main() -> int:
    """Serve a data folder until SIGTERM. Exit code 0, or the code of the error."""
    parser = argparse.ArgumentParser(prog="python -m hubkit.server")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--spaces", choices=MODES)
    parser.add_argument("--foreground", choices=["text", "json"])
    options = parser.parse_args()
    os.umask(0o077)
    folder = Folder(options.data.resolve())
    try:
        folder.create()
    except HubkitError as error:
        sys.exit(str(error))
    log_to(folder.log, console=bool(options.foreground))
    try:
        lock = claim(folder)
    except HubkitError as error:
        logging.error("%s", error)
        return ConflictError.exit_code if options.foreground else EXIT_FOLDER_IN_USE
    ports = ports_to_try(folder, options.port)
    # Until now the file has the pid of an earlier server; `stop` must never signal a process that has that pid today.
    write_json(folder.state, {"pid": os.getpid(), "port": ports[0]})
    sock = bind(options.host, ports)
    if sock is None:
        logging.error("port %s is in use", options.port)
        return UsageError.exit_code if options.foreground else EXIT_PORT_IN_USE
    try:
        serve(folder, sock, options, options.spaces)
    finally:
        lock.release()
    return 0


def open_hub(folder: Folder) -> Hub:
    """The Hub of a folder, after what a killed server left there was removed or ended."""
    from hubkit.server.hub import Hub

    try:
        hub = Hub(folder.root)
    except sqlite3.OperationalError:  # no room, or another process holds it: nothing is wrong with the file
        raise
    except sqlite3.DatabaseError as error:
        sys.exit(f"{folder.database} is damaged ({error}): restore it from a backup")
    except HubkitError as error:
        sys.exit(str(error))
    folder.sweep(hub.store.uids())
    hub.lfs.sweep()
    hub.pushes.repair()
    hub.xet.sweep()
    hub.pulls.repair()
    return hub


def make_server(hub: Hub, *, faults: bool) -> Server:
    """The server of a Hub."""
    import uvicorn

    from hubkit.server.app import build
    from hubkit.server.http.protocol import PatientProtocol, Server, connections_allowed

    config = uvicorn.Config(
        build(hub, faults=faults), log_config=None, access_log=False, server_header=False, date_header=False,
        proxy_headers=False,
        lifespan="off", ws="none", timeout_keep_alive=30, timeout_graceful_shutdown=5, backlog=_BACKLOG,
        # h11 bounds the size of a request's head; both come with uvicorn itself
        http=PatientProtocol, loop="asyncio", limit_concurrency=connections_allowed(),
    )  # fmt: skip
    return Server(config, hub.spaces.end_soon)


def serve(folder: Folder, sock: socket.socket, options: argparse.Namespace, spaces: Mode | None) -> None:
    """Open the folder, write the state file, and serve."""
    hub = open_hub(folder)
    port, host = sock.getsockname()[1], options.host
    url_host = f"[{host}]" if ":" in host else host
    state = {"pid": os.getpid(), "port": port, "url": f"http://{url_host}:{port}", "started": now()}
    server = make_server(hub, faults=options.faults)
    # uvicorn raises the signal that ended it once more when it is done; before and after it, this is what happens.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    write_json(folder.state, state)
    logging.info("serving %s", json.dumps(state))
    try:
        hub.spaces.start(state["url"], spaces)
        hub.delivering.wake()  # what a killed server did not deliver
        if options.foreground:
            _print_address(hub, state, options.foreground)
        server.run(sockets=[sock])
    finally:
        hub.close()
        logging.info("stopped")


def _print_address(hub: Hub, state: dict[str, Any], form: str) -> None:
    """Print where the Hub is, as text or JSON; log what its user is to be warned of."""
    root, policy = hub.folder.root, hub.spaces.policy
    shown = {"url": state["url"], "pid": state["pid"], "data": str(root)}
    sys.stdout.write((json.dumps(shown) if form == "json" else state["url"]) + "\n")
    sys.stdout.flush()
    running = Running(state["url"], state["pid"], root, "", spaces=policy.mode, confinement=policy.way())
    if running.warning:
        logging.warning("%s", running.warning)


if __name__ == "__main__":
    sys.exit(main())
