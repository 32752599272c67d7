"""The server process: ``python -m hubkit.server --data FOLDER [--port N]``. It logs to a file and prints nothing."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import logging.handlers
import os
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from hubkit.core.errors import HubkitError
from hubkit.core.files import read_json, write_json
from hubkit.core.printable import printable_lines
from hubkit.server.process import DEFAULT_PORT, EXIT_FOLDER_IN_USE, EXIT_PORT_IN_USE
from hubkit.server.spaces.policy import MODES, Mode
from hubkit.server.storage.database import now
from hubkit.server.storage.folder import Folder, claim

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


def log_to(path: Path) -> None:
    """Send everything that is logged to one file, rotated at 10 MB."""
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=10_000_000, backupCount=3, encoding="utf-8")
    handler.setFormatter(log_formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def main() -> int:
    """Serve a data folder until SIGTERM. Exit code 0, or the code of the error."""
    parser = argparse.ArgumentParser(prog="python -m hubkit.server")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--spaces", choices=MODES)
    options = parser.parse_args()
    os.umask(0o077)
    folder = Folder(options.data.resolve())
    try:
        folder.create()
    except HubkitError as error:
        sys.exit(str(error))
    log_to(folder.log)
    try:
        lock = claim(folder)
    except HubkitError as error:
        logging.error("%s", error)
        return EXIT_FOLDER_IN_USE
    ports = ports_to_try(folder, options.port)
    # Until now the file has the pid of an earlier server; `stop` must never signal a process that has that pid today.
    write_json(folder.state, {"pid": os.getpid(), "port": ports[0]})
    sock = bind(options.host, ports)
    if sock is None:
        logging.error("port %s is in use", options.port)
        return EXIT_PORT_IN_USE
    try:
        serve(folder, sock, options.host, faults=options.faults, spaces=options.spaces)
    finally:
        lock.release()
    return 0


def serve(folder: Folder, sock: socket.socket, host: str, *, faults: bool, spaces: Mode | None = None) -> None:
    """Open the folder, remove what a killed server left, write the state file, and serve."""
    import uvicorn

    from hubkit.server.app import build
    from hubkit.server.http.protocol import PatientProtocol, Server, connections_allowed
    from hubkit.server.hub import Hub

    hub = Hub(folder.root)
    folder.sweep(hub.store.uids())
    hub.lfs.sweep()
    hub.pulls.repair()
    port = sock.getsockname()[1]
    url_host = f"[{host}]" if ":" in host else host
    state = {"pid": os.getpid(), "port": port, "url": f"http://{url_host}:{port}", "started": now()}
    config = uvicorn.Config(
        build(hub, faults=faults), log_config=None, access_log=False, server_header=False, date_header=False,
        proxy_headers=False,
        lifespan="off", ws="none", timeout_keep_alive=30, timeout_graceful_shutdown=5, backlog=_BACKLOG,
        # h11 bounds the size of a request's head; both come with uvicorn itself
        http=PatientProtocol, loop="asyncio", limit_concurrency=connections_allowed(),
    )  # fmt: skip
    # uvicorn raises the signal that ended it once more when it is done; before and after it, this is what happens.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    write_json(folder.state, state)
    logging.info("serving %s", json.dumps(state))
    try:
        hub.spaces.start(state["url"], spaces)
        Server(config, hub.spaces.end_soon).run(sockets=[sock])
    finally:
        hub.close()
        logging.info("stopped")


if __name__ == "__main__":
    sys.exit(main())
