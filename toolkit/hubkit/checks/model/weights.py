"""safetensors files inspected by their headers: are they complete, and do they hold what config.json names?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.checks.model.family import weights_of_transformers
from hubkit.checks.model.quantization import quantization_of
from hubkit.checks.rules import ARCHITECTURE, DTYPE, SAFETENSORS, SHARDS
from hubkit.checks.screening import architecture
from hubkit.checks.source import Source
from hubkit.core.bounded_json import INDEX as INDEX_LIMITS
from hubkit.core.bounded_json import JsonError, JsonLimitError, load_json, too_large
from hubkit.core.errors import RefusedError
from hubkit.core.findings import Finding
from hubkit.models.tensors import DTYPE_NAMES, INDEX, SINGLE, Header, header_length, parse_header, shards_of

CONFIG = "config.json"
_SHARD = re.compile(r"model-\d{5,}-of-\d{5,}\.safetensors")
_CODES = {**{code: name for name, code in DTYPE_NAMES.items()}, "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


@dataclass(frozen=True)
class Weights:
    """Tensors, numbers in them, bytes, and the dtype of most of them (torch's name)."""

    tensors: int
    parameters: int
    bytes: int
    dtype: str | None


def inspect(
    source: Source, config: Mapping[str, Any], found: list[Finding], pointers: Collection[str] = ()
) -> Weights | None:
    """The weights at the root; None when there are none. What is wrong with them is added to ``found``.

    Where there are files that transformers loads, they are the weights, and others, such as Mistral's consolidated
    ones, are only read for damage. ``pointers`` are files of which only a git-lfs pointer is there.
    """
    files = source.files()
    names = sorted(name for name in files if name.endswith(".safetensors") and "/" not in name)
    names = [name for name in names if not name.startswith("adapter_")]
    headers: dict[str, Header] = {}
    for name in names:
        if name in pointers:
            continue
        try:
            size = files[name].size
            length = header_length(source.read(name, 0, min(8, size)), size, name)
            headers[name] = parse_header(source.read(name, 8, length), size, name)
        except RefusedError as error:
            found.append(SAFETENSORS.finding(error.message, error.hint, file=name))
    if not names:
        return None
    loaded = weights_of_transformers(names)
    found += _index(source, headers, loaded, names)
    counted = {name: header for name, header in headers.items() if name in (_one_variant(loaded) or names)}
    return _figures(counted, config, quantization_of(config, files), found)


def _one_variant(names: list[str]) -> list[str]:
    """Those of ``names`` that are loaded together: no variants (model.fp16.safetensors) where there are others."""
    return [name for name in names if "." not in name.removesuffix(".safetensors")] or names


def find_misfits(source: Source, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the root's tensors have the names and shapes that config.json promises, as transformers loads them."""
    files = source.files()
    names = _one_variant(weights_of_transformers(files))
    if not names:
        return
    if quantized := quantization_of(config, files):
        yield _not_compared(f"the weights are packed by a quantizer ({quantized})")
        return
    if not architecture.is_available():
        yield _not_compared("torch and transformers are not installed")
        return
    starts = {}
    for name in names:
        size = files[name].size
        length = header_length(source.read(name, 0, 8), size, name)
        starts[name] = source.read(name, 0, 8 + length), size
    fit = architecture.fit_of(source.read(CONFIG), starts, source.read(INDEX) if INDEX in files else None)
    if isinstance(fit, str):
        yield _not_compared(fit)
    elif fit.sentence:
        yield ARCHITECTURE.finding(
            f"config.json does not fit the weights: {fit.sentence}.",
            level="error" if fit.missing or fit.other else "warning",
            file=CONFIG,
        )


def _not_compared(reason: str) -> Finding:
    return ARCHITECTURE.finding(f"The tensors were not compared with config.json: {reason}.", level="note", file=CONFIG)


def _index(source: Source, headers: Mapping[str, Header], loaded: list[str], names: list[str]) -> Iterator[Finding]:
    """Whether the index and the shards name the same tensors. ``loaded`` are those of ``names`` for transformers."""
    if INDEX not in source.files():
        shards = [name for name in loaded if _SHARD.fullmatch(name)]
        if shards and SINGLE not in loaded:
            yield SHARDS.finding(
                f"The weights are in shards ({shards[0]} ...), but {INDEX} is missing: no loader finds them.",
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
    for shard in sorted(set(_strays(loaded, names)) - set(named.values())):
        message = f"{shard} is not in {INDEX}: no loader reads it."
        yield SHARDS.finding(message, "Remove it, or fix the index.", level="warning", file=shard)


def _strays(loaded: list[str], names: list[str]) -> list[str]:
    """Names that look as if transformers loaded them: shards without a variant, and others that begin with 'model'."""
    known = [name for name in loaded if _SHARD.fullmatch(name)]
    return known + [name for name in names if name not in loaded and name.startswith("model-")]


def _figures(
    headers: Mapping[str, Header], config: Mapping[str, Any], quantized: str | None, found: list[Finding]
) -> Weights:
    counted: Counter[str] = Counter()
    size = tensors = 0
    for header in headers.values():
        for tensor in header.tensors.values():
            counted[tensor.dtype] += tensor.count
            size += tensor.size
            tensors += 1
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
