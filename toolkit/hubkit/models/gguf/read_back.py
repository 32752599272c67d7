"""A GGUF file read back by the library's reader, and compared with what was to be written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hubkit.core.errors import ConflictError
from hubkit.models.gguf.layout import Planned

_OWN = frozenset({"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"})
"""What the reader lists beside the keys of a file."""
_PART = 2**20
"""Bytes of a file that are read at once."""


def settings_of(path: Path) -> dict[str, Any]:
    """All keys of the file ``path`` with their values. ConflictError when the library cannot read it."""
    return {name: field.contents() for name, field in reader_of(path).fields.items() if name not in _OWN}


def reader_of(path: Path) -> Any:
    """The library's reader of ``path``, whose tensors are mapped. ConflictError when it cannot read the file."""
    import gguf

    try:
        return gguf.GGUFReader(path)
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise ConflictError(f"{path.name} cannot be read back: {error}.", hint="Write the file again.") from error


def compare(
    path: Path, settings: Mapping[str, Any], planned: Sequence[Planned], blake3: str | None, *, ordered: bool = True
) -> None:
    """ConflictError when ``path`` does not hold the keys ``settings`` (of the writer), the tensors ``planned``, and
    bytes with this ``blake3``; None: they are not known. ``ordered``: the tensors must come in this order."""
    if blake3 is not None and _blake3_of(path) != blake3:
        raise ConflictError(
            f"{path.name} does not hold the bytes that were written.",
            hint="Check the disk, and write the file again.",
        )
    reader = reader_of(path)
    for problem in _differences(reader, settings, planned, ordered=ordered):
        raise ConflictError(f"{path.name} does not hold what was written: {problem}.", hint="Write the file again.")


def _blake3_of(path: Path) -> str:
    """BLAKE3 of a file, which takes a quarter of the time of sha256."""
    from blake3 import blake3

    found, buffer = blake3(), memoryview(bytearray(_PART))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            found.update(buffer[:count])
    return found.hexdigest()


def _differences(
    reader: Any, settings: Mapping[str, Any], planned: Sequence[Planned], *, ordered: bool
) -> Iterator[str]:
    there = {name: field for name, field in reader.fields.items() if name not in _OWN}
    for name in sorted(there.keys() ^ settings.keys()):
        yield f"the key {name} is {'unknown' if name in there else 'missing'}"
    for name, field in there.items():
        if not _same(field.contents(), settings[name].value):
            yield f"the key {name} has another value"
    tensors = {item.name: item for item in reader.tensors}
    expected, found_names = [item.name for item in planned], [item.name for item in reader.tensors]
    if expected != found_names and (ordered or sorted(expected) != sorted(found_names)):
        yield "its tensors are others"
    for item in planned:
        found = tensors[item.name]
        if tuple(reversed(found.shape.tolist())) != item.shape or found.tensor_type.name != item.type:
            yield f"{item.name} has another shape or type"


def _same(found: Any, written: Any) -> bool:
    import numpy

    if isinstance(written, float):
        return bool(numpy.float32(written) == numpy.float32(found))
    if isinstance(written, (list, tuple)):
        if written and isinstance(written[0], float):
            return bool(numpy.array_equal(numpy.asarray(written, numpy.float32), numpy.asarray(found, numpy.float32)))
        return list(found) == list(written)
    return bool(found == written)
