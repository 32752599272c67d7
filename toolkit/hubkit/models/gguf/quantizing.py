"""Types that llama.cpp's own quantizer writes, Q4_K_M and others: from a file in 16 bits, without an importance matrix.

It runs in a process of its own (``python -m hubkit.models.gguf.quantizing``): a failed assertion of llama.cpp ends the
process that it is in.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hubkit.core.errors import HubkitError
from hubkit.core.numbers import count, counted
from hubkit.core.processes.child import end_with_parent
from hubkit.models.gguf.blocks import Deviation, Piece, compare_rows, pieces
from hubkit.models.gguf.layout import FILE_TYPES, KINDS, Kind, Planned
from hubkit.models.gguf.library import runtime
from hubkit.models.gguf.read_back import compare, reader_of
from hubkit.models.merging.blocks import Block, Reader
from hubkit.models.merging.overlap import Overlap
from hubkit.models.tensors import read_weights

Report = Callable[[str, float], None]
Quantize = Callable[[Path, Path, Kind, int, Report | None], None]
_BUFFER = 256 * 1024 * 1024
"""Bytes of a tensor's rows that llama.cpp may hold at a time; its own default is 8 GiB."""
_PROGRESS = re.compile(r"\[ *(\d+)/ *(\d+)\]")
_ERROR_LEVEL = 4
"""GGML_LOG_LEVEL_ERROR in ggml.h."""
_ENDING_LINES = 3
_FILE_TYPE = "general.file_type"


def source_kind(model: Path) -> Kind:
    """The type in 16 bits that llama.cpp is to start from: BF16 where a tensor in ``model`` has it, otherwise F16."""
    types = {tensor.dtype for header in read_weights(model).values() for tensor in header.tensors.values()}
    return "bf16" if "BF16" in types else "f16"


def quantize(source: Path, out: Path, kind: Kind, threads: int, report: Report | None = None) -> None:
    """Have llama.cpp write the GGUF file ``source`` to ``out`` with matrices of ``kind``.

    HubkitError with llama.cpp's own words when it fails. UsageError when llama-cpp-python is not installed.
    """
    runtime()
    arguments = [str(source), str(out), str(FILE_TYPES[kind]), str(threads), str(os.getpid())]
    command = [sys.executable, "-P", "-m", __name__, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as child:
        assert child.stdout is not None
        words: list[str] = []
        try:
            for line in child.stdout:
                if at := _PROGRESS.match(line):
                    done, every = int(at[1]), int(at[2])
                    if report:
                        report(f"{count(done)} of {counted(every, 'tensor')}", done / max(1, every))
                elif line.strip():
                    words = [*words[1 - _ENDING_LINES :], line.strip()]
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        told = " ".join(words)[-300:] or f"it ended with {child.returncode}"
        raise HubkitError(
            f"llama.cpp cannot quantize to {kind.upper()}: {told}",
            hint=f"Check that the disk has room, or write one of {', '.join(KINDS)}.",
        )


def read_back(
    path: Path, settings: Mapping[str, Any], planned: Sequence[Planned], kind: Kind, workers: int
) -> tuple[str, list[Planned], dict[str, Deviation], str | None]:
    """Compare the quantized file ``path`` with what it was made from: ``settings`` of the writer and ``planned``.

    Its sha256, the tensors with the types that llama.cpp chose, how far the numbers of each are from the source's, and
    a note where rows were not of a length that ``kind`` needs. ConflictError when a key but the type is another.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    expected = dict(settings)
    expected[_FILE_TYPE] = replace(expected[_FILE_TYPE], value=FILE_TYPES[kind])
    found = {item.name: item for item in reader_of(path).tensors}
    chosen = [replace(item, type=found[item.name].tensor_type.name) if item.name in found else item for item in planned]
    compare(path, expected, chosen, None, ordered=False)
    return digest, chosen, _deviations(found, chosen, workers), _note(chosen, kind)


def _deviations(found: Mapping[str, Any], chosen: Sequence[Planned], workers: int) -> dict[str, Deviation]:
    """How far the numbers of each tensor are from the source's, by its name."""
    deviations = {item.name: Deviation() for item in chosen}
    paths = list(dict.fromkeys(rows.path for item in chosen for rows in item.rows))
    with Reader(paths) as reader, Overlap[tuple[str, Deviation]](workers, _BUFFER // 2) as overlap:
        consumer = overlap.consumer(lambda result: deviations[result[0]].add(result[1]))
        for item in chosen:
            if item.table is not None:
                continue
            packed = found[item.name].data
            packed, place = packed.reshape(-1, packed.shape[-1]) if item.rows[0].width > 1 else packed, 0
            for piece in pieces(item):
                rows = piece.rows.stop - piece.rows.start
                part, place = packed[place : place + rows], place + rows
                overlap.put(lambda piece=piece, part=part: _compared(reader, piece, part), [consumer], piece.memory)  # type: ignore[misc]
    return deviations


def _compared(reader: Reader, piece: Piece, part: Any) -> tuple[str, Deviation]:
    rows = piece.rows
    content = reader.read(Block(piece.of.name, rows.path, rows.tensor, rows.start, rows.stop, rows.width, {}))
    return piece.of.name, compare_rows(piece, content, part, piece.of.type)


def _note(chosen: Sequence[Planned], kind: Kind) -> str | None:
    """Which types llama.cpp chose for rows that cannot be cut into the blocks of ``kind``; None without such rows."""
    import gguf

    block = 256 if "_k" in kind or kind == "iq4_xs" else 32
    others = [item for item in chosen if len(item.shape) > 1 and item.shape[-1] % block and item.type != "F32"]
    if not others:
        return None
    types = Counter(item.type for item in others)
    bits = {name: 8 * width / size for name, (size, width) in _sizes(gguf).items()}
    shown = ", ".join(f"{count(number)} in {name} ({bits[name]:.1f} bits)" for name, number in types.most_common())
    return (
        f"{kind.upper()} cuts rows into blocks of {count(block)} numbers. {counted(len(others), 'tensor')} have rows of"
        f" another length, so llama.cpp stored them in other types, {shown}: the file is larger than usual."
    )


def _sizes(library: Any) -> dict[str, tuple[int, int]]:
    return {kind.name: (int(size[0]), int(size[1])) for kind, size in library.GGML_QUANT_SIZES.items()}


def _child(arguments: Sequence[str]) -> int:
    """``SOURCE OUT NUMBER THREADS PARENT``: quantize, and write llama.cpp's progress and errors to standard output."""
    source, out, number, threads, parent = arguments
    end_with_parent(int(parent))
    library = runtime()

    def log(level: int, text: bytes, _: object) -> None:
        line = text.decode(errors="replace")
        if level == _ERROR_LEVEL or _PROGRESS.match(line):
            sys.stdout.write(line if line.endswith("\n") else f"{line}\n")
            sys.stdout.flush()

    kept = library.llama_log_callback(log)
    library.llama_log_set(kept, None)
    settings = library.llama_model_quantize_default_params()
    settings.ftype, settings.nthread, settings.max_buf_size = int(number), int(threads), _BUFFER
    return int(library.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(settings)))


if __name__ == "__main__":
    sys.exit(_child(sys.argv[1:]))
