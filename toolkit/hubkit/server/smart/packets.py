"""Packets of git's protocol (``gitprotocol-common(5)``): reading what a push asks for, writing what it is answered."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import BinaryIO

FLUSH = b"0000"
CAPABILITIES = "report-status delete-refs side-band-64k quiet atomic ofs-delta object-format=sha1 agent=git/hubkit"
MOST_COMMANDS = 1000
_MOST_PACKETS = 20_000
_ZERO = "0" * 40
_MOST = 65520
_HEAD = 4
_COMMAND = re.compile(r"([0-9a-f]{40}) ([0-9a-f]{40}) (refs/[^\0\n]+)")
_LENGTH = re.compile(rb"[0-9a-f]{4}")


class ProtocolError(Exception):
    """What a client sent is not git's protocol. The message says where."""


@dataclass(frozen=True)
class Command:
    """What a push wants of one ref: ``old`` is where the client believes it to be, ``new`` where it shall be.

    Ids of 40 hexadecimal digits; None where the ref does not exist, or shall not.
    """

    ref: str
    old: str | None
    new: str | None


@dataclass
class PushRequest:
    """What a client sends before the pack: its commands and what it understands."""

    commands: list[Command] = field(default_factory=list)
    capabilities: frozenset[str] = frozenset()


def packet(content: str | bytes) -> bytes:
    """``content`` as one packet."""
    body = content.encode() if isinstance(content, str) else content
    return b"%04x" % (len(body) + _HEAD) + body


def band(number: int, content: bytes) -> bytes:
    """``content`` in packets of a side band: 1 is the answer itself, 2 is shown to the user after ``remote:``."""
    size = _MOST - _HEAD - 1
    return b"".join(packet(bytes([number]) + content[at : at + size]) for at in range(0, len(content), size))


def _read_packet(file: BinaryIO) -> bytes | None:
    """The next packet's content; None for a flush. ProtocolError."""
    head = file.read(_HEAD)
    if not _LENGTH.fullmatch(head):
        raise ProtocolError("a packet does not begin with its length")
    length = int(head, 16)
    if length == 0:
        return None
    body = file.read(length - _HEAD) if length >= _HEAD else b""
    if length < _HEAD or len(body) != length - _HEAD:
        raise ProtocolError("a packet is cut off")
    return body


def read_push(file: BinaryIO) -> PushRequest:
    """The commands at the start of a push; ``file`` is then at its pack, or at its end. ProtocolError."""
    request, first = PushRequest(), True
    for _ in range(_MOST_PACKETS):
        if (body := _read_packet(file)) is None:
            return request
        try:
            line = body.decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolError("the name of a ref is not UTF-8") from None
        if line.startswith("shallow "):  # where the client's history ends; ours does not
            continue
        if first:
            line, _, words = line.partition("\0")
            request.capabilities, first = frozenset(words.split()), False
        match = _COMMAND.fullmatch(line.rstrip("\n"))
        if match is None:
            raise ProtocolError("a command is not one of old id, new id and ref")
        old, new = (None if oid == _ZERO else oid for oid in (match[1], match[2]))
        request.commands.append(Command(match[3], old, new))
        if len(request.commands) > MOST_COMMANDS:
            raise ProtocolError(f"a push may change {MOST_COMMANDS:,} refs at most")
    raise ProtocolError("it has too many packets before its pack")


def advertisement(service: str, refs: list[tuple[str, str]]) -> bytes:
    """The refs that ``service`` tells to a client before a push."""
    named = [f"{oid} {name}" for name, oid in refs] or [f"{_ZERO} capabilities^{{}}"]
    named[0] += f"\0{CAPABILITIES}"
    lines = b"".join(packet(f"{line}\n") for line in named)
    return packet(f"# service={service}\n") + FLUSH + lines + FLUSH


def report(request: PushRequest, unpacked: str, refused: dict[str, str], messages: list[str]) -> bytes:
    """The answer to a push: what became of the pack and of each ref, and ``messages`` for the user."""
    lines = packet(f"unpack {unpacked}\n")
    for command in request.commands:
        reason = refused.get(command.ref)
        lines += packet(f"ok {command.ref}\n" if reason is None else f"ng {command.ref} {reason}\n")
    if "report-status" not in request.capabilities:
        lines = b""
    elif "side-band-64k" in request.capabilities:
        lines = band(1, lines + FLUSH)
    else:
        return lines + FLUSH
    text = "".join(f"{line}\n" for message in messages for line in message.splitlines())
    shown = band(2, text.encode("utf-8", "replace")) if "side-band-64k" in request.capabilities else b""
    return shown + lines + FLUSH
