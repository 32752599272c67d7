"""safetensors files inspected by their headers: are they complete, and do they hold what config.json names?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.checks.rules import ARCHITECTURE, DTYPE, SAFETENSORS, SHARDS
from hubkit.checks.screening import architecture
from hubkit.checks.source import Source
from hubkit.core.bounded_json import INDEX as INDEX_LIMITS
from hubkit.core.bounded_json import JsonError, JsonLimitError, load_json, too_large
from hubkit.core.errors import RefusedError
from hubkit.core.findings import Finding
from hubkit.models.tensors import DTYPE_NAMES, INDEX, Header, header_length, parse_header, shards_of

CONFIG = "config.json"
_CODES = {**{code: name for name, code in DTYPE_NAMES.items()}, "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


@dataclass(frozen=True)
class Weights:
    """Tensors, numbers in them, bytes, and the dtype of most of them (torch's name)."""

    tensors: int
    parameters: int
    bytes: int
    dtype: str | None


def inspect(source: Source, config: Mapping[str, Any], found: list[Finding]) -> Weights | None:
    """The weights at the root; None when there are none. What is wrong with them is added to ``found``."""
    files = source.files()
    names = sorted(name for name in files if name.endswith(".safetensors") and "/" not in name)
    names = [name for name in names if not name.startswith("adapter_")]
    headers: dict[str, Header] = {}
    for name in names:
        try:
            size = files[name].size
            length = header_length(source.read(name, 0, min(8, size)), size, name)
            headers[name] = parse_header(source.read(name, 8, length), size, name)
        except RefusedError as error:
            found.append(SAFETENSORS.finding(error.message, error.hint, file=name))
    if not names:
        return None
    found += _index(source, headers, names)
    return _figures(headers, config, found)


def find_misfits(source: Source) -> Iterator[Finding]:
    """Whether the root's tensors have the names and shapes that config.json promises, as transformers loads them."""
    if not architecture.is_available():
        yield _not_compared("torch and transformers are not installed")
        return
    files = source.files()
    starts = {}
    for name in files:
        if name.endswith(".safetensors") and "/" not in name and not name.startswith("adapter_"):
            size = files[name].size
            length = header_length(source.read(name, 0, 8), size, name)
            starts[name] = source.read(name, 0, 8 + length), size
    if not starts:
        return
    fit = architecture.fit_of(source.read(CONFIG), starts, source.read(INDEX) if INDEX in files else None)
    if isinstance(fit, str):
        yield _not_compared(fit)
    elif fit.sentence:
        yield ARCHITECTURE.finding(f"config.json does not fit the weights: {fit.sentence}.", file=CONFIG)


def _not_compared(reason: str) -> Finding:
    return ARCHITECTURE.finding(f"The tensors were not compared with config.json: {reason}.", level="note", file=CONFIG)


def _index(source: Source, headers: Mapping[str, Header], names: list[str]) -> Iterator[Finding]:
    """Whether the index and the shards name the same tensors."""
    if INDEX not in source.files():
        if any("-of-" in name for name in names):
            yield SHARDS.finding(
                f"The weights are in shards ({names[0]} ...), but {INDEX} is missing: no loader finds them.",
                "Upload the index, or save the model again.",
            )
        return
    try:
        if problem := too_large(source.files()[INDEX].size, INDEX_LIMITS):
            raise JsonLimitError(problem)
        named = shards_of(load_json(source.read(INDEX), INDEX_LIMITS))
    except (JsonError, RefusedError) as error:
        yield SHARDS.finding(f"{INDEX} cannot be read: {error}", file=INDEX)
        return
    for shard in sorted(set(named.values()) - set(names)):
        message = f"{INDEX} names {shard}, which does not exist."
        yield SHARDS.finding(message, "Upload the missing shard.", file=INDEX)
    there = {tensor: name for name, header in headers.items() for tensor in header.tensors}
    wrong = sorted(tensor for tensor, name in named.items() if name in headers and there.get(tensor) != name)
    if wrong:
        message = f"{INDEX} places {wrong[0]} ({len(wrong)} in all) in a shard that does not hold it."
        yield SHARDS.finding(message, file=INDEX)
    for shard in sorted(set(names) - set(named.values())):
        message = f"{shard} is not in {INDEX}: no loader reads it."
        yield SHARDS.finding(message, "Remove it, or fix the index.", level="warning", file=shard)


def _figures(headers: Mapping[str, Header], config: Mapping[str, Any], found: list[Finding]) -> Weights:
    counted: Counter[str] = Counter()
    size = tensors = 0
    for header in headers.values():
        for tensor in header.tensors.values():
            counted[tensor.dtype] += tensor.count
            size += tensor.size
            tensors += 1
    quantized = bool(config.get("quantization_config"))
    floats = {code: count for code, count in counted.items() if code in _CODES}
    most = max(floats, key=lambda code: floats[code], default=None)
    dtype = _CODES[most] if most else None
    declared = config.get("dtype") or config.get("torch_dtype")
    if isinstance(declared, str) and dtype and declared.removeprefix("torch.") != dtype and not quantized:
        found.append(
            DTYPE.finding(
                f"config.json says {declared}, but most weights are {dtype}.",
                "Loaders convert, or take twice the memory: write the dtype of the weights into config.json.",
                file=CONFIG,
            )
        )
    if len(floats) > 1 and not quantized:
        shares = ", ".join(f"{_CODES[code]} {count:,}" for code, count in sorted(floats.items()))
        found.append(DTYPE.finding(f"The weights have several dtypes: {shares}.", level="note"))
    return Weights(tensors, sum(counted.values()), size, dtype)
