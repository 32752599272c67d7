"""Write a model folder as a GGUF file: streamed in bounded memory, read back, and the same bytes at every time.

    report = write_gguf(Path("merged"), Path("model-Q8_0.gguf"), "q8_0", name="my-model")

Nothing but the model's files, the type and ``name`` counts for the bytes: no time, path, thread or shard does. For a
type that llama.cpp's quantizer writes, its build counts, too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.files import fsync_folder, os_error
from hubkit.core.numbers import size
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.gguf.blocks import Deviation, Piece, convert, pieces
from hubkit.models.gguf.layout import FILE_TYPES, KINDS, Kind, Planned, plan
from hubkit.models.gguf.library import gguf_library, runtime
from hubkit.models.gguf.model import Described, describe
from hubkit.models.gguf.quantizing import Quantize, quantize, read_back, source_kind
from hubkit.models.gguf.read_back import compare
from hubkit.models.gguf.settings import write_settings
from hubkit.models.merging.blocks import Block, Reader
from hubkit.models.merging.overlap import Overlap, cores

Report = Callable[[str, float], None]
MEMORY = 192 * 1024 * 1024
"""Bytes of blocks that may be under way at a time."""


@dataclass(frozen=True)
class WrittenTensor:
    """A tensor of the file: its type, and how far its numbers are from the source's.

    ``relative_error`` is the root mean square of the differences, in terms of that of the numbers.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    largest_error: float
    relative_error: float


@dataclass(frozen=True)
class GgufReport:
    """What was written: the ``file`` of ``bytes`` and ``sha256``, its tensors, and at which tokens answers end."""

    file: Path
    kind: Kind
    architecture: str
    bytes: int
    sha256: str
    seconds: float
    tensors: tuple[WrittenTensor, ...]
    end_of_turn: str | None
    stops: Mapping[str, int]
    template: bool
    notes: tuple[str, ...]

    def end_of_turn_of(self) -> EndOfTurn:
        """The end-of-turn token with its id; RefusedError when the model has no chat template, hence none."""
        if self.end_of_turn is None:
            raise RefusedError(
                "The model has no chat template, so the end of an answer is undefined.",
                hint="Measure a model with a chat template.",
            )
        return EndOfTurn(self.end_of_turn, self.stops[self.end_of_turn])

    @property
    def worst(self) -> WrittenTensor:
        """The tensor with the largest relative error."""
        return max(self.tensors, key=lambda item: item.relative_error)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values; errors with six significant digits."""
        tensors = [
            {
                "name": item.name,
                "shape": list(item.shape),
                "type": item.type,
                "largest_error": float(f"{item.largest_error:.6g}"),
                "relative_error": float(f"{item.relative_error:.6g}"),
            }
            for item in self.tensors
        ]
        return {
            **vars(self),
            "file": str(self.file),
            "stops": dict(self.stops),
            "notes": list(self.notes),
            "tensors": tensors,
        }


def file_name(name: str, kind: Kind) -> str:
    """The usual name of a file of the model ``name``: ``name-Q8_0.gguf``."""
    return f"{name}-{kind.upper()}.gguf"


def write_gguf(
    model: Path,
    out: Path,
    kind: Kind,
    *,
    name: str | None = None,
    report: Report | None = None,
    workers: int | None = None,
    quantizer: Quantize | None = None,
) -> GgufReport:
    """Write the model in the folder ``model`` to the new file ``out``.

    ``name`` is ``general.name`` of the file. ``quantizer`` writes the types that are not of KINDS; default:
    llama.cpp's, from a file in 16 bits that lies beside ``out`` meanwhile. UsageError when ``out`` exists or a library
    is missing, RefusedError for a model that would be computed differently by llama.cpp; then there is no file.
    """
    gguf_library()
    if kind not in FILE_TYPES:
        raise UsageError(f"{kind!r} is no type that is written.", hint=f"Types: {', '.join(FILE_TYPES)}.")
    if kind not in KINDS and quantizer is None:
        runtime()
    if out.exists():
        raise UsageError(f"{out} exists already.", hint="Delete it, or name another file with -o.")
    began, workers = time.monotonic(), workers or cores()
    described, writer, planned = _begun(model, kind if kind in KINDS else source_kind(model), name)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _unfinished(out) as path:
            if kind in KINDS:
                digest, blake3, tensors = _write(writer, planned, path, report, workers)
                compare(path, writer.kv_data[0], planned, blake3)
            else:
                digest, tensors, note = _quantized(writer, planned, path, kind, report, workers, quantizer or quantize)
                described = replace(described, notes=(*described.notes, *([note] if note else [])))
            written = _report(described, kind, out, path.stat().st_size, digest, tensors, began)
    except OSError as error:
        raise os_error(error, out) from error
    return written


def read_quantized(model: Path, file: Path, kind: Kind, *, name: str | None = None) -> list[WrittenTensor]:
    """The tensors of ``file``, which llama.cpp's quantizer wrote as ``kind``, with their errors against ``model``.

    ConflictError when it does not have the keys and tensors of the model in the folder ``model``, with this ``name``.
    """
    gguf_library()
    _, writer, planned = _begun(model, source_kind(model), name)
    _, chosen, deviations, _ = read_back(file, writer.kv_data[0], planned, kind, cores())
    return _tensors(chosen, deviations)


def _begun(model: Path, kind: Kind, name: str | None) -> tuple[Described, Any, list[Planned]]:
    """The model, a writer with all keys of its file, and the tensors to write."""
    described = describe(model)
    writer = gguf_library().GGUFWriter(None, described.family.name)
    tables = write_settings(writer, described, kind, name)
    rows = len(described.vocabulary.tokens)
    return described, writer, plan(model, described.family, described.config, kind, tables, rows)


def _report(
    described: Described,
    kind: Kind,
    out: Path,
    length: int,
    digest: str,
    tensors: Sequence[WrittenTensor],
    began: float,
) -> GgufReport:
    end = described.stops.end_of_turn
    return GgufReport(
        file=out,
        kind=kind,
        architecture=described.family.name,
        bytes=length,
        sha256=digest,
        seconds=round(time.monotonic() - began, 3),
        tensors=tuple(tensors),
        end_of_turn=end.token if end else None,
        stops={described.vocabulary.tokens[number]: number for number in described.stops.every},
        template=described.template is not None,
        notes=described.notes,
    )


@contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """The hidden file to write, which becomes ``out`` at the end, and is removed if anything fails.

    What a killed process has left there is written over. UsageError when another process is writing it.
    """
    path = out.with_name(f".{out.name}.partial")
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Another process is writing {out}.", hint="Wait until it has ended, or name another file with -o."
            ) from None
        try:
            yield path
            if out.exists():
                raise UsageError(f"{out} exists now.", hint="Delete it, or name another file with -o.")
            path.replace(out)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    fsync_folder(out.parent)


def _write(
    writer: Any, planned: Sequence[Planned], path: Path, report: Report | None, workers: int
) -> tuple[str, str, list[WrittenTensor]]:
    """Write the file; its sha256, its BLAKE3, and what was written of each tensor."""
    from blake3 import blake3

    file = _write_header(writer, planned, path)
    digest, faster = hashlib.sha256(path.read_bytes()), blake3(path.read_bytes())
    deviations = {item.name: Deviation() for item in planned}
    whole, written = sum(_bytes(item) for item in planned) or 1, 0

    def keep(result: tuple[Planned, bytes, Deviation]) -> None:
        nonlocal written
        item, content, deviation = result
        file.write(content)
        deviations[item.name].add(deviation)
        written += len(content)
        if report:
            report(f"{size(written)} of {size(whole)}", min(1.0, written / whole))

    def check(result: tuple[Planned, bytes, Deviation]) -> None:
        faster.update(result[1])

    paths = list(dict.fromkeys(rows.path for item in planned for rows in item.rows))
    try:
        with Reader(paths) as reader, Overlap[tuple[Planned, bytes, Deviation]](workers, MEMORY) as overlap:
            consumers = [
                overlap.consumer(keep),
                overlap.consumer(lambda result: digest.update(result[1])),
                overlap.consumer(check),
            ]
            for item in planned:
                for compute, memory in _work(reader, item, writer.data_alignment):
                    overlap.put(compute, consumers, memory)
        file.flush()
        os.fsync(file.fileno())
    finally:
        writer.close()
    return digest.hexdigest(), faster.hexdigest(), _tensors(planned, deviations)


def _tensors(planned: Sequence[Planned], deviations: Mapping[str, Deviation]) -> list[WrittenTensor]:
    return [
        WrittenTensor(item.name, item.shape, item.type, deviations[item.name].largest, deviations[item.name].relative)
        for item in planned
    ]


def _quantized(
    writer: Any,
    planned: Sequence[Planned],
    path: Path,
    kind: Kind,
    report: Report | None,
    workers: int,
    quantizer: Quantize,
) -> tuple[str, list[WrittenTensor], str | None]:
    """Write ``planned`` in 16 bits beside ``path``, and have it quantized to ``path``.

    The sha256 of the file, its tensors, and what is to be told of it.
    """
    source = path.with_suffix(".source")
    first = partial(_half, report, 0.0) if report else None
    second = partial(_half, report, 0.5) if report else None
    try:
        _, blake3, _ = _write(writer, planned, source, first, workers)
        compare(source, writer.kv_data[0], planned, blake3)
        quantizer(source, path, kind, workers, second)
    finally:
        source.unlink(missing_ok=True)
    digest, chosen, deviations, note = read_back(path, writer.kv_data[0], planned, kind, workers)
    return digest, _tensors(chosen, deviations), note


def _half(report: Report, start: float, figure: str, done: float) -> None:
    """Report ``done`` as a share of one half of the work."""
    report(figure, start + done / 2)


def _write_header(writer: Any, planned: Sequence[Planned], path: Path) -> Any:
    """Write everything before the tensors' bytes; the open file."""
    import gguf

    for item in planned:
        number = getattr(gguf.GGMLQuantizationType, item.type)
        writer.add_tensor_info(item.name, item.shape, _numpy_type(), _bytes(item), raw_dtype=number)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    file.flush()
    return file


def _work(
    reader: Reader, item: Planned, alignment: int
) -> Iterator[tuple[Callable[[], tuple[Planned, bytes, Deviation]], int]]:
    """What computes the bytes of ``item``, one block after another, and the memory that each takes."""
    padding = bytes(-_bytes(item) % alignment)
    if item.table is not None:
        content = item.table.tobytes() + padding
        yield lambda: (item, content, Deviation()), len(content)
        return

    def work(piece: Piece, after: bytes) -> tuple[Planned, bytes, Deviation]:
        rows = piece.rows
        read = reader.read(Block(item.name, rows.path, rows.tensor, rows.start, rows.stop, rows.width, {}))
        content, deviation = convert(piece, read)
        return item, content + after, deviation

    parts = list(pieces(item))
    for piece in parts:
        yield partial(work, piece, padding if piece is parts[-1] else b""), piece.memory


def _numpy_type() -> Any:
    """The dtype that the library is told: with bytes it would take the shape, which is of numbers, as one of bytes."""
    import numpy

    return numpy.dtype(numpy.float32)


def _bytes(item: Planned) -> int:
    """The bytes of ``item`` in the file."""
    import gguf

    block, width = gguf.GGML_QUANT_SIZES[getattr(gguf.GGMLQuantizationType, item.type)]
    return prod(item.shape) // int(block) * int(width)
