"""Safetensors files written front to back: planned sizes, digests known when the last byte is written."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hubkit.core.files import Digests, os_error, write_json
from hubkit.models.tensors import DTYPE_BITS, INDEX, SINGLE

Planned = Mapping[str, tuple[str, tuple[int, ...], int]]
"""Tensor name to (safetensors dtype, shape, bytes), in the order of writing."""


def plan(tensors: Planned, max_bytes: int) -> list[tuple[str, Planned]]:
    """(file name, tensors) of each shard: filled in order (:func:`in_order`), up to ``max_bytes`` each.

    A tensor larger than that has a file of its own. Names are transformers': one file, or model-00001-of-00003 and so
    on.
    """
    shards: list[dict[str, tuple[str, tuple[int, ...], int]]] = [{}]
    filled = 0
    for name, planned in in_order(tensors).items():
        if shards[-1] and filled + planned[2] > max_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = planned
        filled += planned[2]
    if len(shards) == 1:
        return [(SINGLE, shards[0])]
    return [(f"model-{number:05}-of-{len(shards):05}.safetensors", shard) for number, shard in enumerate(shards, 1)]


def in_order(tensors: Planned) -> Planned:
    """Wider dtypes first, so that every tensor starts at a multiple of its own width."""
    return dict(sorted(tensors.items(), key=lambda item: -DTYPE_BITS[item[1][0]]))


def write_index(folder: Path, shards: Sequence[tuple[str, Planned]]) -> None:
    """The index that loaders read when there is more than one shard."""
    write_json(folder / INDEX, index_of(shards))


def index_of(shards: Sequence[tuple[str, Planned]]) -> dict[str, Any]:
    """The content of the index of ``shards``."""
    total = sum(size for _, tensors in shards for _, _, size in tensors.values())
    weights = {name: file for file, tensors in shards for name in tensors}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))}


def first_bytes(tensors: Planned) -> bytes:
    """What a file begins with, up to its first tensor: the header's length and the header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class ShardedWriter:
    """All shards of a model, one after the other.

    Each of ``ends`` is given every block in order, by a thread of its own; no block reaches beyond a shard. While a
    shard is written, the disk takes the ones before. ``finish`` at the end; ``close`` whatever happened.
    """

    def __init__(self, folder: Path, shards: Sequence[tuple[str, Planned]]) -> None:
        self.writers = [ShardWriter(folder / name, tensors) for name, tensors in shards]
        self.ends = [_End(self.writers, take) for take in (ShardWriter.hash, ShardWriter.hash_git, self._store)]
        self._syncing = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._synced: list[Future[None]] = []

    def _store(self, writer: ShardWriter, block: memoryview) -> None:
        writer.store(block)
        if writer.written == writer.size:
            self._synced.append(self._syncing.submit(writer.sync))

    def finish(self) -> dict[str, Digests]:
        """Wait for the disk; the digests by file name."""
        for synced in self._synced:
            synced.result()
        found = {}
        for writer in self.writers:
            writer.finish()
            if writer.digests is not None:
                found[writer.path.name] = writer.digests
        return found

    def close(self) -> None:
        """Close the files as they are."""
        self._syncing.shutdown(cancel_futures=True)
        for writer in self.writers:
            writer.close()


class _End:
    """Gives every block to the shard that it belongs to."""

    def __init__(self, writers: Sequence[ShardWriter], take: Callable[[ShardWriter, memoryview], None]) -> None:
        self._writers, self._take = iter(writers), take
        self._writer = next(self._writers)
        self._left = self._writer.data

    def __call__(self, block: memoryview) -> None:
        while not self._left:
            self._writer = next(self._writers)
            self._left = self._writer.data
        self._take(self._writer, block)
        self._left -= len(block)


class ShardWriter:
    """One safetensors file, written and hashed in one pass, front to back.

    ``write`` does both. Three threads may share the work instead, which call ``hash``, ``hash_git`` and ``store`` with
    the same blocks. Use it as a context, or call ``finish`` at the end; ``digests`` are known then. Raises HubkitError
    naming the path and the bytes when the disk is full.
    """

    def __init__(self, path: Path, tensors: Planned) -> None:
        first = first_bytes(tensors)
        place = sum(size for _, _, size in tensors.values())
        self.path = path
        self.data = place
        self.size = len(first) + place
        self.written = 0
        self.digests: Digests | None = None
        self._first = first
        self._file: io.RawIOBase | None = None
        self._sha256 = hashlib.sha256(first)
        self._git = hashlib.sha1(b"blob %d\0" % self.size + first, usedforsecurity=False)

    def write(self, block: bytes | memoryview) -> None:
        """Append ``block``, the next bytes of the tensors."""
        self.hash(block)
        self.hash_git(block)
        self.store(block)

    def hash(self, block: bytes | memoryview) -> None:
        """Take ``block`` into the sha256."""
        self._sha256.update(block)

    def hash_git(self, block: bytes | memoryview) -> None:
        """Take ``block`` into the git blob id."""
        self._git.update(block)

    def store(self, block: bytes | memoryview) -> None:
        """Append ``block`` to the file, which is created by the first call."""
        try:
            if self._file is None:
                self._file = self.path.open("xb", buffering=0)
                self._append(self._first)
            self._append(block)
        except OSError as error:
            raise os_error(error, self.path, self.size) from error

    def _append(self, block: bytes | memoryview) -> None:
        assert self._file is not None
        left = memoryview(block).cast("B")
        self.written += len(left)
        while left:
            left = left[self._file.write(left) :]

    def sync(self) -> None:
        """Wait until the disk has what was stored so far."""
        try:
            if self._file is not None:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise os_error(error, self.path, self.size) from error

    def finish(self) -> None:
        """Close the file, which must be as long as planned, once the disk has it; then the digests are known."""
        self.store(b"")
        if self.written != self.size:
            raise AssertionError(f"{self.path.name}: {self.written} bytes written of {self.size} planned")
        self.sync()
        self.close()
        self.digests = Digests(self.size, self._sha256.hexdigest(), self._git.hexdigest())

    def close(self) -> None:
        """Close the file as it is."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.close()
