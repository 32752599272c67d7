"""Weights screened: shards and their index, the dtype and size that config.json promises, numbers, architecture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from hubkit.checks.rules import ARCHITECTURE, DTYPE, NOT_FINITE, SHARDS, SIZE
from hubkit.checks.screening import architecture, not_finite
from hubkit.core.bounded_json import INDEX as INDEX_LIMITS
from hubkit.core.bounded_json import JsonError, load_json, too_large
from hubkit.core.errors import RefusedError
from hubkit.core.findings import Finding
from hubkit.models.tensors import DTYPE_BITS, DTYPE_NAMES, INDEX, Header, open_header, shards_of

CONFIG = "config.json"
_FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
_TOLERANCE = 1.02
"""How much larger weights may be than parameters times dtype: some norms and routers are kept in float32."""


def find(files: Mapping[str, Path], known_finite: Collection[str], *, fits: bool) -> Iterator[Finding]:
    """What is wrong with the weights among ``files`` (path in the repo -> regular local file).

    The numbers of files in ``known_finite`` are not read. ``fits``: compare the root's tensors with config.json.
    Files with a damaged header are skipped: screening the file finds them.
    """
    headers: dict[str, Header] = {}
    for path, local in files.items():
        if path.endswith(".safetensors"):
            try:
                with local.open("rb") as file:
                    headers[path] = open_header(file, path)
            except RefusedError:
                continue
            if path not in known_finite:
                yield from numbers(path, local)
    root = {path: header for path, header in headers.items() if "/" not in path and not path.startswith("adapter_")}
    broken = {path for path in files if path.endswith(".safetensors") and path not in headers}
    index_findings = list(_index(files, root, broken))
    yield from index_findings
    config = _json(files.get(CONFIG))
    if root and isinstance(config, dict) and not broken:
        yield from declared(config, root)
        if fits and not index_findings:
            yield from _architecture(files, root)


def numbers(path: str, local: Path) -> Iterator[Finding]:
    """Whether a tensor of the sound safetensors file ``local`` holds a NaN or an infinite number. Needs numpy."""
    if path.endswith(".safetensors") and not_finite.is_available():
        with local.open("rb") as file:
            if (bad := not_finite.first_not_finite(file, open_header(file, path))) is not None:
                yield NOT_FINITE.finding(f"The tensor {bad!r} holds a NaN or an infinite number.", file=path)


def _index(files: Mapping[str, Path], root: Mapping[str, Header], broken: Collection[str]) -> Iterator[Finding]:
    """Whether index and shards name the same tensors, and the bytes that there are."""
    there = {path for path in (*root, *broken) if "/" not in path and not path.startswith("adapter_")}
    if INDEX not in files:
        if len(there) > 1:
            yield SHARDS.finding("There are several weight files and no index.", file=INDEX)
        return
    try:
        index = _json(files[INDEX])
        named = shards_of(index)
    except RefusedError as error:
        yield SHARDS.finding(error.message, file=INDEX)
        return
    shards = set(named.values())
    for shard in sorted(shards - there):
        yield SHARDS.finding(f"The index names {shard!r}, which does not exist.", file=INDEX)
    for shard in sorted(there - shards):
        yield SHARDS.finding(f"{INDEX} does not name this file.", file=shard)
    held: dict[str, set[str]] = {shard: set() for shard in shards & root.keys()}
    for tensor, shard in named.items():
        if shard in held:
            held[shard].add(tensor)
    for shard, tensors in sorted(held.items()):
        if root[shard].tensors.keys() != tensors:
            yield SHARDS.finding(f"The file does not hold the tensors that {INDEX} lists for it.", file=shard)
    said = index["metadata"].get("total_size") if isinstance(index.get("metadata"), dict) else None
    size = sum(tensor.size for header in root.values() for tensor in header.tensors.values())
    if said is not None and shards == there and not broken and said != size:
        yield SHARDS.finding(f"total_size is not the {size:,} bytes that the weights have.", file=INDEX)


def declared(config: Mapping[str, Any], headers: Mapping[str, Header]) -> Iterator[Finding]:
    """Whether the weights have the dtype that ``config`` says, and so many bytes as their numbers need in it.

    Quantized models, whose numbers are packed, and a config that names no dtype are not checked.
    """
    text = config.get("text_config")
    nested = text if isinstance(text, dict) else {}
    said = next(
        (found for key in ("dtype", "torch_dtype") for found in (config.get(key), nested.get(key)) if found), None
    )
    code = DTYPE_NAMES.get(said.removeprefix("torch.")) if isinstance(said, str) else None
    if code is None or config.get("quantization_config"):
        return
    counted: Counter[str] = Counter()
    size = 0
    for header in headers.values():
        for tensor in header.tensors.values():
            if tensor.dtype in _FLOATS:
                counted[tensor.dtype] += tensor.count
                size += tensor.size
    numbers = sum(counted.values())
    if not numbers:
        return
    most = max(counted, key=lambda name: counted[name])
    if most != code:
        yield DTYPE.finding(f"config.json names the dtype {said}, but most of the weights are {most}.", file=CONFIG)
    elif size > (wanted := numbers * DTYPE_BITS[code] // 8) * _TOLERANCE:
        message = f"{numbers:,} numbers in {said} need {wanted:,} bytes, but the weights have {size:,}."
        yield SIZE.finding(message, file=CONFIG)


def _architecture(files: Mapping[str, Path], root: Mapping[str, Header]) -> Iterator[Finding]:
    if not architecture.is_available():
        return
    starts = {}
    for path, header in root.items():
        begin = min((tensor.start for tensor in header.tensors.values()), default=files[path].stat().st_size)
        with files[path].open("rb") as file:
            starts[path] = file.read(begin), files[path].stat().st_size
    index = files[INDEX].read_bytes() if INDEX in files else None
    found = architecture.fit_of(files[CONFIG].read_bytes(), starts, index)
    if isinstance(found, architecture.Fit) and found.sentence:
        yield ARCHITECTURE.finding(f"config.json does not fit the weights: {found.sentence}.", file=CONFIG)


def _json(local: Path | None) -> Any:
    if local is None or too_large(local.stat().st_size, INDEX_LIMITS):
        return None
    try:
        return load_json(local.read_bytes(), INDEX_LIMITS)
    except JsonError:
        return None
