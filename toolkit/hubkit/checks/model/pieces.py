"""The pieces of a SentencePiece model (tokenizer.model, spiece.model): texts by id, read without the library.

The file is a protobuf message: field 1 of ``ModelProto`` is a piece, whose fields are 1 (text) and 3 (type). Source:
github.com/google/sentencepiece, src/sentencepiece_model.proto. A vocabulary needs no more of protobuf than this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MOST_BYTES = 16 * 1024 * 1024
"""Bytes of a model that is read; that of Gemma 3, with 262,000 pieces, has 5 MB."""
_MOST = 1_000_000
"""Fields of a message, and so pieces; the largest vocabularies that are published have 300,000."""
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class PiecesError(ValueError):
    """The bytes are no SentencePiece model."""


@dataclass(frozen=True)
class Pieces:
    """``count`` pieces, and the ids of those that are no part of ordinary text: control, user-defined and unknown."""

    count: int
    special: dict[str, int]


def read_pieces(data: bytes) -> Pieces:
    """The pieces of the SentencePiece model ``data``. PiecesError when it is none."""
    if len(data) > MOST_BYTES:
        raise PiecesError(f"it has more than {MOST_BYTES:,} bytes")
    special: dict[str, int] = {}
    count = 0
    for field, value in _fields(memoryview(data)):
        if field != 1:
            continue
        if not isinstance(value, memoryview):
            raise PiecesError("a piece is no message")
        text, kind = _piece(value)
        if kind in {_UNKNOWN, _CONTROL, _USER_DEFINED}:
            special.setdefault(text, count)
        count += 1
    if not count:
        raise PiecesError("it has no pieces")
    return Pieces(count, special)


def _piece(message: memoryview) -> tuple[str, int]:
    text, kind = "", _NORMAL
    for field, value in _fields(message):
        if field == 1 and isinstance(value, memoryview):
            text = bytes(value).decode("utf-8", "replace")
        elif field == 3 and isinstance(value, int):
            kind = value
    return text, kind


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of a protobuf message: number, and the bytes or the number that it holds."""
    place = fields = 0
    while place < len(data):
        fields += 1
        if fields > _MOST:
            raise PiecesError(f"a message has more than {_MOST:,} fields")
        key, place = _varint(data, place)
        kind = key & 7
        if kind == _VARINT:
            number, place = _varint(data, place)
            yield key >> 3, number
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            length, place = _varint(data, place)
        if length is None or place + length > len(data):
            raise PiecesError("it is no SentencePiece model")
        yield key >> 3, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return number, place
    raise PiecesError("it is no SentencePiece model")
