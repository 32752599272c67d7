"""The header of a GGUF file, read without the `gguf` library and without trust: nothing is believed beyond the file.

A file is its magic, version and counts, the keys with their values, the tensors' names, shapes, types and places, and
the tensors' bytes. Source: github.com/ggml-org/ggml, docs/gguf.md. The library's reader makes an object of each
element of an array, for as many as the file claims; here an array is passed over.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from hubkit.core.errors import RefusedError
from hubkit.core.numbers import count
from hubkit.models.gguf.layout import FILE_TYPES, Kind

MAX_HEADER = 128 * 1024 * 1024
"""Bytes before the tensors; a vocabulary of 262,000 tokens with its merges takes about 20 MB."""
MAX_KEYS, MAX_TENSORS, MAX_TEXT = 4096, 1_000_000, 64 * 1024
"""Published files have about 50 keys, under 10,000 tensors, and names of under 100 letters."""
_FORMATS: Mapping[int, str] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
"""How a value is packed, by the number of its type."""
_TEXT, _ARRAY = 8, 9
_KINDS: Mapping[int, Kind] = {number: kind for kind, number in FILE_TYPES.items()}
"""By the number in general.file_type."""
_ALIGNMENT = "general.alignment"
_BLOCK = 4 * 1024 * 1024


@dataclass(frozen=True)
class Key:
    """A key of the file: the number of its value's type, and from where to where the value is in the file."""

    type: int
    start: int
    stop: int


@dataclass(frozen=True)
class Place:
    """A tensor: its shape in the order of GGUF, the number of its type, and its bytes, padding among them."""

    shape: tuple[int, ...]
    type: int
    start: int
    stop: int


@dataclass(frozen=True)
class GgufHeader:
    """What the file ``path`` says about itself."""

    path: Path
    keys: Mapping[str, Key]
    tensors: Mapping[str, Place]

    @property
    def kind(self) -> Kind | None:
        """The type that the file says its matrices have; None for one that hubkit does not write."""
        number = self.number("general.file_type")
        return _KINDS.get(number) if number is not None else None

    def text(self, name: str) -> str | None:
        """The text of the key ``name``; None when there is none, or it is no text in UTF-8."""
        key = self.keys.get(name)
        if key is None or key.type != _TEXT:
            return None
        try:
            return self._bytes(key)[8:].decode()
        except UnicodeDecodeError:
            return None

    def number(self, name: str) -> int | None:
        """The whole number of the key ``name``; None when there is none, or it is something else."""
        key = self.keys.get(name)
        packed = _FORMATS.get(key.type) if key else None
        if key is None or packed is None:
            return None
        (value,) = struct.unpack(packed, self._bytes(key))
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def parts(self) -> Iterator[tuple[str, tuple[object, ...]]]:
        """Each key and tensor by name, with what tells whether it is equal in another file: types, shapes, sha256."""
        with self.path.open("rb") as file:
            for name, key in self.keys.items():
                yield f"key {name}", (key.type, _sha256(file, key.start, key.stop))
            for name, place in self.tensors.items():
                yield f"tensor {name}", (place.type, place.shape, _sha256(file, place.start, place.stop))

    def _bytes(self, key: Key) -> bytes:
        with self.path.open("rb") as file:
            file.seek(key.start)
            return file.read(key.stop - key.start)


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of ``path``, in time and memory that the file's own bytes bound.

    Raises RefusedError, naming the file, when it is no sound GGUF file of version 2 or 3 in little-endian order.
    """
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reading(content).header(path)
        except (ValueError, struct.error) as error:  # an empty file cannot be mapped
            raise RefusedError(
                f"{path.name} is not a sound GGUF file: {error}.", hint="Download or write it again."
            ) from None


class _Reading:
    """A walk through the header, whose ``place`` never leaves the file."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.place = content, 0
        self.end = min(len(content), MAX_HEADER)

    def header(self, path: Path) -> GgufHeader:
        if self.content[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        self.skip(4)
        version = self.value("<I")
        if version not in (2, 3):
            raise ValueError(f"its version is {count(version)}, not 2 or 3 in little-endian order")
        tensors, keys = self.counted("tensors", MAX_TENSORS), self.counted("keys", MAX_KEYS)
        found = dict(self.key() for _ in range(keys))
        shapes = dict(self.tensor() for _ in range(tensors))
        if len(found) != keys or len(shapes) != tensors:
            raise ValueError("a name appears twice")
        return GgufHeader(path, found, self.placed(shapes, found.get(_ALIGNMENT)))

    def placed(self, shapes: Mapping[str, tuple[tuple[int, ...], int, int]], alignment: Key | None) -> dict[str, Place]:
        """The tensors with their places in the file: each ends where the next one begins."""
        step = struct.unpack_from("<I", self.content, alignment.start)[0] if alignment and alignment.type == 4 else 32
        if not step:
            raise ValueError("its alignment is 0")
        begin, size = self.place + -self.place % step, len(self.content)
        starts = sorted({begin + offset for _, _, offset in shapes.values()})
        if starts and starts[-1] >= size:
            raise ValueError("a tensor begins beyond its end")
        ends = dict(zip(starts, [*starts[1:], size], strict=False))
        return {
            name: Place(shape, kind, begin + offset, ends[begin + offset])
            for name, (shape, kind, offset) in shapes.items()
        }

    def key(self) -> tuple[str, Key]:
        name, kind = self.text(), self.value("<I")
        start = self.place
        if kind == _ARRAY:
            inner, elements = self.value("<I"), self.value("<Q")
            self.skip_values(inner, elements)
        else:
            self.skip_values(kind, 1)
        return name, Key(kind, start, self.place)

    def tensor(self) -> tuple[str, tuple[tuple[int, ...], int, int]]:
        name, dimensions = self.text(), self.value("<I")
        if dimensions > 4:
            raise ValueError(f"a tensor has {count(dimensions)} dimensions")
        shape = tuple(self.value("<Q") for _ in range(dimensions))
        return name, (shape, self.value("<I"), self.value("<Q"))

    def skip_values(self, kind: int, number: int) -> None:
        """Go past ``number`` values of the type ``kind``."""
        if kind in _FORMATS:
            self.skip(struct.calcsize(_FORMATS[kind]) * number)
        elif kind == _TEXT:
            place, last, length_at = self.place, self.end - 8, struct.Struct("<Q").unpack_from
            for _ in range(number):
                if place > last:
                    self.refuse_end()
                place += 8 + length_at(self.content, place)[0]
            self.skip(place - self.place)
        else:
            raise ValueError(f"a value is of the unknown type {count(kind)}")

    def text(self) -> str:
        length = self.value("<Q")
        if length > MAX_TEXT:
            raise ValueError(f"a name has {count(length)} bytes")
        start = self.place
        self.skip(length)
        return self.content[start : self.place].decode(errors="backslashreplace")

    def counted(self, what: str, most: int) -> int:
        number = self.value("<Q")
        if number > most:
            raise ValueError(f"it claims {count(number)} {what}, more than {count(most)}")
        return number

    def value(self, packed: str) -> int:
        start = self.place
        self.skip(struct.calcsize(packed))
        return int(struct.unpack_from(packed, self.content, start)[0])

    def skip(self, length: int) -> None:
        if length > self.end - self.place:
            self.refuse_end()
        self.place += length

    def refuse_end(self) -> NoReturn:
        if self.end < len(self.content):
            raise ValueError(f"its header has more than {count(MAX_HEADER)} bytes")
        raise ValueError("it ends within its header")


def _sha256(file: IO[bytes], start: int, stop: int) -> str:
    digest = hashlib.sha256()
    file.seek(start)
    while start < stop and (block := file.read(min(_BLOCK, stop - start))):
        digest.update(block)
        start += len(block)
    return digest.hexdigest()
