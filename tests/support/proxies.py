"""Reverse proxies that end TLS before a Hub: one of Python's own, and nginx and Caddy where they are installed.

The settings of those two are the blocks of docs/operations.md, with this machine's ports and certificate.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
PATIENCE = 20.0
PROXIES = ["Python", *(name for name in ("nginx", "caddy") if shutil.which(name))]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hub")])
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    paths = folder / "hub.crt", folder / "hub.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, form, encryption_algorithm=serialization.NoEncryption())
    )
    return paths


def documented(language: str) -> str:
    """The block of the documentation in a language."""
    match = re.search(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None, language
    return match[1]


@contextmanager
def tls_proxy(name: str, port: int, hub_port: int, folder: Path) -> Iterator[Path]:
    """``https://127.0.0.1:port`` leads to the Hub inside the block; the certificate to trust."""
    crt, key = certificate(folder)
    if name == "Python":
        with _forwarder(port, hub_port, crt, key):
            yield crt
        return
    text = documented(name).replace("127.0.0.1:8750", f"127.0.0.1:{hub_port}")
    settings = folder / "proxy.conf"
    if name == "nginx":
        text = text.replace("443", f"127.0.0.1:{port}").replace("/etc/ssl/hub", str(folder / "hub"))
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = (
            f"pid {folder}/pid; error_log {folder}/errors; events {{}}\nhttp {{ access_log off; {temporary}\n{text}}}"
        )
        command = ["nginx", "-c", str(settings), "-g", "daemon off; master_process off;", "-e", str(folder / "errors")]
    else:
        text = text.replace("hub.example.org {", f"https://127.0.0.1:{port} {{\n tls {crt} {key}")
        text = f"{{\n admin off\n auto_https disable_redirects\n}}\n{text}"
        command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(settings)]
    settings.write_text(text)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    with (folder / "output").open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _listens(port):
            assert child.poll() is None and time.monotonic() < deadline, (folder / "output").read_text()
            time.sleep(0.02)
        yield crt
    finally:
        child.terminate()
        child.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextmanager
def _forwarder(port: int, hub_port: int, crt: Path, key: Path) -> Iterator[None]:
    """TLS ends here; what is inside goes on as it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    server = socket.create_server(("127.0.0.1", port))

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(2**16):
                target.sendall(piece)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(plain: socket.socket) -> None:
        with (
            suppress(OSError),
            context.wrap_socket(plain, server_side=True) as outer,
            socket.create_connection(("127.0.0.1", hub_port)) as inner,
        ):
            back = threading.Thread(target=copy, args=(inner, outer), daemon=True)
            back.start()
            copy(outer, inner)
            back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        server.close()
