"""Requests whose bytes were made before, over connections that stay open: what a client costs is not in the figure."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

from hubkit.server.process import Running


def prepared(hub: Running, path: str, body: bytes) -> bytes:
    """The bytes of a POST by the Hub's owner."""
    lines = [
        f"POST {path} HTTP/1.1", f"Host: {urlsplit(hub.url).netloc}", f"Authorization: Bearer {hub.token}",
        "Content-Type: application/x-ndjson", f"Content-Length: {len(body)}",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def send_all(hub: Running, several: Sequence[Sequence[bytes]]) -> None:
    """Send the requests of each list one after the other, all lists at once, each over one connection.

    AssertionError for an answer other than 200.
    """
    failures: list[BaseException] = []

    def guarded(requests: Sequence[bytes]) -> None:
        try:
            _send(hub, requests)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=[requests]) for requests in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _send(hub: Running, requests: Sequence[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(hub.url).port or 0), timeout=600) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in requests:
            connection.sendall(request)
            head = _answer(connection)
            assert head.startswith(b"HTTP/1.1 200 "), head


def _answer(connection: socket.socket) -> bytes:
    """Read one answer with a Content-Length; its head."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < int(length.partition(b":")[2]):
        body += _more(connection)
    return head


def _more(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    assert piece, "the Hub closed the connection"
    return piece
