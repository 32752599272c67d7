"""Pickles by their content: whatever a file is called, what its loader would unpickle is refused.

No pickle is judged harmless. What is asked is only whether a file is one: pickle streams of any protocol, torch's
zip archives and its older tar archives, numpy arrays of objects, and zip archives at the end of another file, which
is where readers of zip look for them.
"""

from __future__ import annotations

import pickletools
import re
import struct
import tarfile
import warnings
from collections.abc import Iterator
from typing import IO

_HEAD = 64 * 1024
_TAIL = 64 * 1024 + 22
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_NAMES = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
_CALLS = frozenset({"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"})
_DOTTED = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*", re.ASCII)
_TORCH_MEMBERS = frozenset({"pickle", "sys_info", "storages", "tensors"})


def pickle_in(file: IO[bytes]) -> str | None:
    """What kind of pickle ``file`` (open for reading, of any size) is, as a clause; None when it is none."""
    file.seek(0)
    start = file.read(_HEAD)
    if start[:4] in _ZIP:
        return "is a zip archive, the format in which torch saves pickles"
    if _is_stream(start):
        return "contains pickle data, despite its file name"
    if start[:6] == b"\x93NUMPY" and b"|O" in start[:512]:
        return "is a numpy array of pickled objects"
    if _ends_in_zip(file):
        return "ends in a zip archive, which pickle loaders read"
    if _is_torch_tar(file, start):
        return "is a tar archive, the format in which old versions of torch save pickles"
    return None


def _is_stream(start: bytes) -> bool:
    """Whether an unpickler would get somewhere with what begins like this.

    Two bytes are not enough to tell: a safetensors file with a header of 640 bytes begins like protocol 2.
    """
    codes = named = 0
    marked = start[:1] == b"\x80"
    try:
        for code, argument, _ in _operations(start):
            codes += 1
            if code.name in {"GLOBAL", "INST"}:
                # Text may begin like this opcode too, but seldom with two names on two lines.
                if not _DOTTED.fullmatch(str(argument)):
                    return False
                named += 1
            named += code.name in _NAMES
            if named and code.name in _CALLS:
                return True
            if code.name == "STOP":
                return marked or bool(named)
    except (ValueError, IndexError, struct.error, OverflowError, UnicodeError):
        pass
    return marked and start[1:2] in {b"\x00", b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"} and codes > 3


def _operations(start: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, object, int | None]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of backslashes in what is no pickle
        yield from pickletools.genops(start)


def _ends_in_zip(file: IO[bytes]) -> bool:
    """Whether the end is that of a zip archive: the record of its end, and its list of members where that says."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < 22:
        return False
    members, length, comment = struct.unpack_from("<2xHI4xH", tail, place + 8)
    if comment > len(tail) - place - 22:
        return False
    if members == 0xFFFF or length == 0xFFFFFFFF:
        return tail.find(b"PK\x06\x07", max(0, place - 20), place) >= 0
    begin = size - len(tail) + place - length
    if members == 0 or begin < 0:
        return False
    file.seek(begin)
    return file.read(4) == b"PK\x01\x02"


def _is_torch_tar(file: IO[bytes], start: bytes) -> bool:
    if len(start) < 512 or not start[0]:
        return False
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for _, member in zip(range(64), archive, strict=False):
                if member.name in _TORCH_MEMBERS or member.name.endswith((".pkl", ".pickle", ".pt", ".pth")):
                    return True
    except (tarfile.TarError, ValueError, OSError, OverflowError):
        pass
    return False
