"""Ports of this machine's loopback, for apps that are found under ``localhost``."""

from __future__ import annotations

import errno
import socket


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
    if (other := reserve_other_loopback(port)) is not None:
        other.close()
    return other is not None


def reserve_other_loopback(port: int) -> socket.socket | None:
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
