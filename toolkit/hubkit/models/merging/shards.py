"""Safetensors files written front to back: planned sizes, digests known when the last byte is written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hubkit.core.files import Digests, os_error, write_json
from hubkit.models.tensors import DTYPE_BITS, INDEX, SINGLE

Planned = Mapping[str, tuple[str, tuple[int, ...], int]]
"""Tensor name to (safetensors dtype, shape, bytes), in the order of writing."""


def plan(tensors: Planned, max_bytes: int) -> list[tuple[str, Planned]]:
    """(file name, tensors) of each shard: filled in the order given, up to ``max_bytes`` each.

    A tensor larger than that has a file of its own. Names are transformers': one file, or model-00001-of-00003 and so
    on.
    """
    shards: list[dict[str, tuple[str, tuple[int, ...], int]]] = [{}]
    filled = 0
    for name, planned in tensors.items():
        if shards[-1] and filled + planned[2] > max_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = planned
        filled += planned[2]
    if len(shards) == 1:
        return [(SINGLE, _aligned(shards[0]))]
    return [
        (f"model-{number:05}-of-{len(shards):05}.safetensors", _aligned(shard))
        for number, shard in enumerate(shards, 1)
    ]


def _aligned(tensors: Planned) -> Planned:
    """Wider dtypes first, so that every tensor starts at a multiple of its own width."""
    return dict(sorted(tensors.items(), key=lambda item: -DTYPE_BITS[item[1][0]]))


def write_index(folder: Path, shards: Sequence[tuple[str, Planned]]) -> None:
    """The index that loaders read when there is more than one shard."""
    total = sum(size for _, tensors in shards for _, _, size in tensors.values())
    weights = {name: file for file, tensors in shards for name in tensors}
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))})


class ShardWriter:
    """One safetensors file, written in one pass. Use as a context; ``digests`` are known afterwards.

    Raises HubkitError naming the path and the bytes when the disk is full.
    """

    def __init__(self, path: Path, tensors: Planned) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        place = 0
        for name, (dtype, shape, size) in tensors.items():
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + size]}
            place += size
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self.path = path
        self.size = 8 + len(text) + place
        self.written = 0
        self.digests: Digests | None = None
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        self._first = len(text).to_bytes(8, "little") + text

    def __enter__(self) -> ShardWriter:
        try:
            self._file = self.path.open("xb", buffering=0)
        except OSError as error:
            raise os_error(error, self.path, self.size) from error
        self.write(self._first)
        return self

    def write(self, block: bytes | memoryview) -> None:
        """Append ``block``, the next bytes of the tensors."""
        left = memoryview(block).cast("B")
        self._sha256.update(left)
        self._git.update(left)
        self.written += len(left)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise os_error(error, self.path, self.size) from error

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                if self.written != self.size:
                    raise AssertionError(f"{self.path.name}: {self.written} bytes written of {self.size} planned")
                os.fsync(self._file.fileno())
                self.digests = Digests(self.size, self._sha256.hexdigest(), self._git.hexdigest())
        except OSError as error:
            raise os_error(error, self.path, self.size) from error
        finally:
            self._file.close()
