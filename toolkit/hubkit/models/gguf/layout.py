"""Which tensors a GGUF file has, in which order and type, and from which rows of the safetensors files each is made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hubkit.core.errors import RefusedError
from hubkit.models.gguf.families import Family
from hubkit.models.gguf.sizes import refuse_shape, shapes_of
from hubkit.models.tensors import Tensor, read_weights

Kind = Literal[
    "f16", "bf16", "q8_0",
    "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_0", "q4_1", "q4_k_s", "q4_k_m", "q5_0", "q5_1", "q5_k_s", "q5_k_m",
    "q6_k", "iq4_nl", "iq4_xs",
]  # fmt: skip
KINDS: tuple[Kind, ...] = ("f16", "bf16", "q8_0")
"""Those that hubkit writes by itself."""
FILE_TYPES: Mapping[Kind, int] = {
    "f16": 1, "bf16": 32, "q8_0": 7,
    "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_0": 2, "q4_1": 3, "q4_k_s": 14, "q4_k_m": 15, "q5_0": 8,
    "q5_1": 9, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30,
}  # fmt: skip
"""Every type with its number in ``general.file_type`` (``llama_ftype`` in llama.h)."""
QUANTIZED: tuple[Kind, ...] = tuple(kind for kind in FILE_TYPES if kind not in KINDS)
"""Those that llama.cpp's own quantizer writes; all of them without an importance matrix."""
Type = Literal["F32", "F16", "BF16", "Q8_0"]
FLOATS = frozenset({"F32", "F16", "BF16"})
_UNUSED = re.compile(r".*(\.rotary_emb\.inv_freq|\.attention\.(masked_)?bias)")
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_EXPERT = re.compile(
    r"model\.layers\.(\d+)\.(block_sparse_moe|mlp)\.experts\.(\d+)\.(w1|w2|w3|(?:gate|up|down)_proj)\.weight"
)
_STACKED = re.compile(r"model\.layers\.(\d+)\.(?:block_sparse_moe|mlp)\.experts\.(gate_up|down)_proj")
_PROJECTION = {"w1": "gate", "w2": "down", "w3": "up", "gate_proj": "gate", "down_proj": "down", "up_proj": "up"}
_QUANTIZED_ROW = 32
"""Numbers of a Q8_0 block; a row of another length cannot be cut into them."""


@dataclass(frozen=True)
class Rows:
    """Rows ``start`` to ``stop`` of ``tensor``, a tensor in the file ``path``; ``width`` numbers each."""

    path: Path
    tensor: Tensor
    start: int
    stop: int
    width: int


@dataclass(frozen=True)
class Planned:
    """One tensor of the file: made of ``rows``, one after another; or ``table``, numbers that are given.

    ``shape`` is in the order of safetensors. ``heads``: rows of Q or K, whose halves are interleaved within each head.
    ``shift`` is added to every number.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    rows: tuple[Rows, ...] = ()
    heads: int = 0
    shift: float = 0.0
    table: Any = None


def plan(
    folder: Path, family: Family, config: Mapping[str, Any], kind: Kind, tables: Mapping[str, Any], rows: int
) -> list[Planned]:
    """The tensors of the model in ``folder``, in the order of the file, which no sharding changes.

    ``rows`` are those of the embeddings. Raises RefusedError for a tensor that the architecture does not have, for one
    that is missing, and for one of another shape than ``config`` asks for.
    """
    import gguf

    number = {name: item for item, name in gguf.MODEL_ARCH_NAMES.items()}[family.name]
    names = gguf.get_tensor_name_map(number, config["num_hidden_layers"])
    found: dict[str, list[tuple[int, str, Rows]]] = {}
    for name, source in _tensors(folder):
        if _UNUSED.fullmatch(name) or (name == "lm_head.weight" and config.get("tie_word_embeddings")):
            continue
        for target, order, part in _parts(name, source, config):
            known = names.get_name(target, try_suffixes=(".weight", ".bias"))
            if known is None:
                raise RefusedError(
                    f"The tensor {name} has no place in a GGUF file of the architecture {family.name}.",
                    hint="Merge an adapter into its base first: `hubkit merge`.",
                )
            found.setdefault(known, []).append((order, name, part))
    shapes = shapes_of(family, config, rows)
    planned = []
    for name, items in found.items():
        planned.append(_planned(name, sorted(items, key=lambda item: item[0]), family, config, kind))
        refuse_shape(name, planned[-1].shape, items[0][1], shapes)
    _refuse_incomplete({item.name for item in planned}, config)
    planned += [Planned(name, table.shape, "F32", table=table) for name, table in tables.items()]
    return sorted(planned, key=_order)


def _tensors(folder: Path) -> Iterator[tuple[str, Rows]]:
    for path, header in read_weights(folder).items():
        for name, tensor in header.tensors.items():
            if tensor.dtype not in FLOATS:
                raise RefusedError(
                    f"{name} is stored as {tensor.dtype}; GGUF is written from BF16, F16 or F32.",
                    hint="Start from the unquantized weights, or convert them with `hubkit merge --dtype`.",
                )
            width = tensor.shape[-1] if len(tensor.shape) > 1 else 1
            yield name, Rows(path, tensor, 0, tensor.count // width if width else 0, width)


def _parts(name: str, rows: Rows, config: Mapping[str, Any]) -> Iterator[tuple[str, int, Rows]]:
    """(the tensor as the map of names knows it, its place in the stack, its rows) that ``name`` holds."""
    if expert := _EXPERT.fullmatch(name):
        layer, _, place, projection = expert.groups()
        yield f"model.layers.{layer}.mlp.experts.{_PROJECTION[projection]}_proj.weight", int(place), rows
    elif stack := _STACKED.fullmatch(name):
        layer, which = stack.groups()
        experts, each = rows.tensor.shape[0], rows.stop // rows.tensor.shape[0]
        halves = ("gate", "up") if which == "gate_up" else ("down",)
        part = each // len(halves)
        for place in range(experts):
            for half, projection in enumerate(halves):
                start = place * each + half * part
                piece = Rows(rows.path, rows.tensor, start, start + part, rows.width)
                yield f"model.layers.{layer}.mlp.experts.{projection}_proj.weight", place, piece
    else:
        yield name, 0, rows


def _planned(
    name: str, items: list[tuple[int, str, Rows]], family: Family, config: Mapping[str, Any], kind: Kind
) -> Planned:
    rows = tuple(part for _, _, part in items)
    first, source = rows[0], items[0][1]
    count, width = first.stop - first.start, first.width
    stacked = "_exps." in name
    if len({(part.stop - part.start, part.width) for part in rows}) > 1 or (len(rows) > 1 and not stacked):
        raise RefusedError(f"The tensors that make up {name} do not fit together: {source} and others.")
    if stacked and len(rows) != (expected := config.get("num_local_experts") or config.get("num_experts")):
        raise RefusedError(f"{name} has {len(rows)} experts, config.json says {expected}.")
    shape: tuple[int, ...] = (count,) if len(first.tensor.shape) == 1 else (count, width)
    if stacked:
        shape = (len(rows), *shape)
    heads = 0
    if family.rotated and ".attn_q." in name:
        heads = config["num_attention_heads"]
    elif family.rotated and ".attn_k." in name:
        heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    shift = 1.0 if family.norm_plus_one and name.endswith("norm.weight") else 0.0
    return Planned(name, shape, _type(name, shape, kind), rows, heads, shift)


def _type(name: str, shape: tuple[int, ...], kind: Kind) -> Type:
    """Vectors, norms and routers stay in 32 bits, as llama.cpp's own quantizer leaves them."""
    if len(shape) < 2 or name.endswith("_norm.weight") or "ffn_gate_inp" in name:
        return "F32"
    if kind == "q8_0":
        return "Q8_0" if shape[-1] % _QUANTIZED_ROW == 0 else "F16"
    return "F16" if kind == "f16" else "BF16"


def _order(item: Planned) -> tuple[int, int, str]:
    """Tables and embeddings, the blocks by their numbers, what follows them."""
    if block := _BLOCK.fullmatch(item.name):
        return 1, int(block[1]), block[2]
    return (2 if item.name.startswith("output") else 0), 0, item.name


def _refuse_incomplete(names: set[str], config: Mapping[str, Any]) -> None:
    blocks: dict[int, set[str]] = {number: set() for number in range(config["num_hidden_layers"])}
    for name in names:
        if block := _BLOCK.fullmatch(name):
            blocks.setdefault(int(block[1]), set()).add(block[2])
    every = set().union(*blocks.values())
    missing = [f"blk.{number}.{name}" for number, there in blocks.items() for name in sorted(every - there)]
    missing += [name for name in ("token_embd.weight", "output_norm.weight") if name not in names]
    if not config.get("tie_word_embeddings") and "output.weight" not in names:
        missing.append("output.weight")
    if missing or not every:
        raise RefusedError(
            f"The weights are incomplete: nothing makes {missing[0] if missing else 'a block'} of the GGUF file.",
            hint="Download or save the model again; `hubkit check` names what is missing.",
        )
