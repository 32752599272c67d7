"""Headers of safetensors files, read without torch and without trust.

A file is 8 bytes with the length of the header, the header (JSON), and the tensors' bytes without gaps.
Source: github.com/huggingface/safetensors, README, "Format". What breaks the format is refused before anything as
large as the file claims is allocated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hubkit.core.bounded_json import INDEX as INDEX_LIMITS
from hubkit.core.bounded_json import JsonError, load_json
from hubkit.core.errors import RefusedError
from hubkit.core.numbers import count, counted

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_HEADER = 16 * 1024 * 1024
"""Bytes; safetensors itself allows 100 MB, the largest published headers have about 7 MB."""
METADATA = "__metadata__"
"""The one member of a header that is no tensor."""
DTYPE_BITS: Mapping[str, int] = {
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of one number, by safetensors' name of the dtype."""
DTYPE_NAMES: Mapping[str, str] = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""torch's names of the dtypes in which models are published, with safetensors' names."""
_LONGEST = 4096
"""Letters of a tensor's name, and of a message about it; the longest real ones have about 150."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_BLANKS = frozenset(" \t\n\r")
_BLANK = re.compile(r"[ \t\n\r]*")
# Possessive: nothing is remembered to go back to, however long a word or an object is.
_WORD = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_FLAT = re.compile(r'\{(?:[^"{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+\}', re.DOTALL)

_NUMBER = "(?:0|[1-9][0-9]{0,18})"
_USUAL = re.compile(
    r'\{"dtype": ?"([A-Z0-9_]{1,16})", ?"shape": ?\[(|'
    + _NUMBER + "(?:, ?" + _NUMBER + r')*+)\], ?"data_offsets": ?\[('
    + _NUMBER + "), ?(" + _NUMBER + r")\]\}"
)  # fmt: skip
_USUAL_MEMBER = re.compile(r'"([ !#-\[\]-~]*+)": ?(\{[^"\\{}]*+(?:"[^"\\{}]*+"[^"\\{}]*+)*+\}), ?(?=")')
"""A tensor as safetensors and Python's json write it. Read by this, a header takes a third of the time."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: safetensors' dtype name, shape, and where its bytes are in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.end - self.start

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself; ``tensors`` in the order of their bytes."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def header_length(first: bytes, file_size: int, name: str) -> int:
    """The header's bytes, from a file's ``first`` 8 bytes; RefusedError when that cannot be."""
    length = int.from_bytes(first[:8], "little") if len(first) >= 8 else -1
    if length < 2 or length > file_size - 8:
        raise _unsound(name, "the length of its header is not within the file")
    if length > MAX_HEADER:
        raise _unsound(name, f"its header has {counted(length, 'byte')}, more than {count(MAX_HEADER)}")
    return length


def read_header(path: Path) -> Header:
    """The header of ``path``. Raises RefusedError, naming the file, when it is not sound."""
    with path.open("rb") as file:
        return open_header(file, path.name)


def open_header(file: IO[bytes], name: str) -> Header:
    """The header of an open ``file`` that errors call ``name``; see :func:`parse_header`."""
    size = file.seek(0, 2)
    file.seek(0)
    length = header_length(file.read(8), size, name)
    return parse_header(file.read(length), size, name)


def parse_header(text: bytes, file_size: int, name: str) -> Header:
    """The header ``text`` (without the 8 bytes of its length) of a file of ``file_size`` bytes called ``name``.

    Raises RefusedError for bad JSON, a name twice, an unknown dtype, a shape that does not fit the bytes, and
    bytes that overlap, leave a gap or lie outside the file.
    """
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] | None = None
    data = 8 + len(text)
    try:
        for key, value in _members(text.decode("latin-1")):
            if key in tensors or (key == METADATA and metadata is not None):
                raise ValueError("a name appears twice")
            if len(key) > _LONGEST:
                raise ValueError(f"a name of {count(len(key))} letters")
            if key == METADATA:
                metadata = _metadata(value, name)
            else:
                tensors[key] = _tensor(key, _value(value), data, name)
    except (ValueError, RecursionError) as error:
        raise _unsound(name, f"its header is not JSON as it must be ({str(error)[:120]})") from None
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)))
    place = data
    for key, tensor in ordered.items():
        if tensor.start != place:
            raise _unsound(name, f"the bytes of {key!r} overlap others or leave a gap")
        place = tensor.end
    if place != file_size:
        raise _unsound(name, f"its tensors end at byte {count(place)}, the file at {count(file_size)}")
    return Header(ordered, metadata or {})


def _members(text: str) -> Iterator[tuple[str, str]]:
    """(key, value as it is written) of each member of a JSON object of words and flat objects; else ValueError.

    json.loads would build the whole of a hostile header, at twenty times its size, before anybody can refuse it.
    ``text`` is bytes read as Latin-1: one byte a letter, and what is no UTF-8 fails where it is read.
    """
    place = _after(text, 0, "{")
    if text[place : place + 1] != "}":
        while True:
            while usual := _USUAL_MEMBER.match(text, place):
                yield usual[1], usual[2]
                place = usual.end()
            end = _end_of_word(text, place)
            word = text[place:end]
            plain = word.isascii() and word.isprintable() and "\\" not in word
            key = word[1:-1] if plain else json.loads(_as_written(word))
            start = _after(text, _skip(text, end), ":")
            end = _end_of_value(text, start)
            yield key, text[start:end]
            place = _skip(text, end)
            if text[place : place + 1] == "}":
                break
            place = _after(text, place, ",")
    if _skip(text, place + 1) != len(text):
        raise ValueError("more after its end")


def _skip(text: str, place: int) -> int:
    if text[place : place + 1] not in _BLANKS:
        return place
    found = _BLANK.match(text, place)
    return found.end() if found else place


def _after(text: str, place: int, sign: str) -> int:
    if text[place : place + 1] != sign:
        raise ValueError(f"no {sign} where one must be")
    return _skip(text, place + 1)


def _end_of_word(text: str, start: int) -> int:
    if found := _WORD.match(text, start):
        return found.end()
    raise ValueError("no word where one must be")


def _end_of_value(text: str, start: int) -> int:
    if text[start : start + 1] != "{":
        return _end_of_word(text, start)
    if found := _FLAT.match(text, start):
        return found.end()
    raise ValueError("an object that holds another, or has no end")


def _as_written(text: str) -> str:
    """``text`` as JSON; ValueError for half a character, which the safetensors library refuses."""
    text = text if text.isascii() else text.encode("latin-1").decode("utf-8")
    if _HALF.search(text):
        try:
            json.dumps(json.loads(text), ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half a character") from None
    return text


def _value(text: str) -> Any:
    if len(text) > _LONGEST:
        raise ValueError(f"a tensor described in {counted(len(text), 'byte')}")
    if usual := _USUAL.fullmatch(text):
        dtype, shape, start, end = usual.groups()
        sizes = [int(size) for size in shape.split(",")] if shape else []
        return {"dtype": dtype, "shape": sizes, "data_offsets": [int(start), int(end)]}
    return json.loads(_as_written(text), object_pairs_hook=_once)


def _metadata(text: str, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        for key, value in _members(text):
            if key in found or not value.startswith('"'):
                raise ValueError
            found[key] = json.loads(_as_written(value))
    except ValueError:
        raise _unsound(name, "its metadata are not texts, each with a name of its own") from None
    return found


def _tensor(key: str, value: Any, data: int, name: str) -> Tensor:
    try:
        dtype, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _unsound(name, f"{key!r} lacks its dtype, shape or place") from None
    numbers = [*shape, start, end] if isinstance(shape, list) else [None]
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise _unsound(name, f"the shape or place of {key!r} is not made of numbers that can be")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _unsound(name, f"{key!r} has the unknown dtype {str(dtype)[:20]!r}")
    if math.prod(shape) * DTYPE_BITS[dtype] != (end - start) * 8:
        raise _unsound(name, f"the shape {shape} of {key!r} in {dtype} is not {counted(end - start, 'byte')}")
    return Tensor(dtype, tuple(shape), data + start, data + end)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _unsound(name: str, problem: str) -> RefusedError:
    return RefusedError(f"{name} is not a valid safetensors file: {problem}.", hint="Download or save the file again.")


def shards_of(index: Mapping[str, Any]) -> dict[str, str]:
    """Tensor name to file name, from the JSON of an index. RefusedError when a file name is not a plain one."""
    found = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(found, dict) or not found:
        raise RefusedError(f"{INDEX} has no weight_map.", hint="Save the weights again with their index.")
    for file in found.values():
        if not isinstance(file, str) or "/" in file or "\\" in file or not file.endswith(".safetensors"):
            raise RefusedError(f"{INDEX} names {file!r}, which is not a safetensors file in the same folder.")
    return found


def read_weights(folder: Path) -> dict[Path, Header]:
    """The model's safetensors files in ``folder`` with their headers, in the order of their names.

    Raises RefusedError when there are none, or the index and the files do not name the same tensors.
    """
    if (folder / INDEX).is_file():
        try:
            named = shards_of(load_json((folder / INDEX).read_bytes(), INDEX_LIMITS))
        except JsonError as error:
            raise RefusedError(f"{INDEX} {error}.") from error
        missing = sorted({file for file in named.values() if not (folder / file).is_file()})
        if missing:
            raise RefusedError(f"{INDEX} names {missing[0]}, which does not exist.", hint="Download the model again.")
        found = {folder / file: read_header(folder / file) for file in sorted(set(named.values()))}
        there = {key: path.name for path, header in found.items() for key in header.tensors}
        if there != named or sum(len(header.tensors) for header in found.values()) != len(named):
            wrong = sorted(set(there.items()) ^ set(named.items()))[:1]
            raise RefusedError(f"{INDEX} and the files list different tensors, e.g. {wrong}.")
        return found
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: read_header(folder / SINGLE)}
    raise RefusedError(
        f"There are no safetensors weights in {folder.name or folder}.",
        hint="Convert *.bin weights to safetensors first.",
    )
