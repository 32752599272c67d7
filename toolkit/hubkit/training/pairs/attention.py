"""Attention over a batch in one row (:mod:`.layout`): each answer sees its prompt and itself, and nothing else.

transformers looks the attention of a model up by name. Each implementation that a model may have gets a second name,
under which rows of the current layout are attended segment by segment, and everything else as before: a generation
in the middle of a training, or an evaluation with padded rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from hubkit.training.pairs.layout import Layout, Segment

PREFIX = "hubkit_pairs_"
OWN_FUNCTIONS = frozenset({"softcap", "s_aux", "position_bias"})
"""What some models want of their attention that only their own (eager) function can do."""


class UnsupportedError(Exception):
    """This attention cannot be computed over a batch in one row."""


@dataclass
class Current:
    """The layout of the rows that are computed now (None: padded rows), and what belongs to it.

    It stays until the next forward pass, since gradient checkpointing computes layers again during the backward pass,
    on a GPU in another thread. ``masks`` are made once for all layers.
    """

    layout: Layout | None = None
    varlen: bool = False
    masks: dict[tuple[int, int, Any], Tensor] = field(default_factory=dict)

    def begin(self, layout: Layout | None) -> None:
        """Compute ``layout`` from now on."""
        if layout is not self.layout:
            self.layout, self.masks = layout, {}


CURRENT = Current()


def registered(name: str) -> str:
    """The second name of the attention implementation ``name``; registered with transformers on first use."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    own = PREFIX + name
    if own in ALL_ATTENTION_FUNCTIONS.valid_keys():
        return own

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **given: Any
    ) -> tuple[Tensor, Any]:
        layout = CURRENT.layout
        if layout is None or query.shape[0] != 1 or query.shape[2] != layout.total:
            function = _own(module) if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
            with _named(module, name):
                found: tuple[Tensor, Any] = function(module, query, key, value, attention_mask, **given)
            return found
        if name == "eager":
            return _by_function(_own(module), module, query, key, value, layout, given), None
        if asked := sorted(word for word in OWN_FUNCTIONS if given.get(word) is not None):
            raise UnsupportedError(f"its attention needs {', '.join(asked)}")
        groups = query.shape[1] // key.shape[1]
        if CURRENT.varlen:
            return _varlen(query, key, value, layout, given.get("scaling"), groups > 1), None
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        return _by_segment(query, key, value, layout, given), None

    def mask(*args: Any, **given: Any) -> Any:
        if CURRENT.layout is not None:
            return None
        return ALL_MASK_ATTENTION_FUNCTIONS[name](*args, **given)

    AttentionInterface.register(own, attention)
    AttentionMaskInterface.register(own, mask)
    return own


@contextmanager
def _named(module: Any, name: str) -> Iterator[None]:
    """Let the config of ``module`` name its own attention meanwhile: flash attention reads there what to load."""
    config = getattr(module, "config", None)
    if config is None:
        yield
        return
    before, config._attn_implementation_internal = config._attn_implementation_internal, name
    try:
        yield
    finally:
        config._attn_implementation_internal = before


def _own(module: Any) -> Any:
    return sys.modules[type(module).__module__].eager_attention_forward


def _keys(tensor: Tensor, segment: Segment) -> Tensor:
    """The part of ``tensor`` (batch, heads, tokens, width) that the queries of ``segment`` attend to."""
    import torch

    own = tensor[:, :, segment.start : segment.start + segment.queries]
    if not segment.shared:
        return own
    return torch.cat([tensor[:, :, segment.origin : segment.origin + segment.shared], own], 2)


def _mask(segment: Segment, device: Any, dtype: Any) -> Tensor:
    """What the queries of ``segment`` may see: True, or 0 in an additive mask of ``dtype``."""
    import torch

    found = CURRENT.masks.get((segment.start, segment.queries, dtype))
    if found is None:
        found = torch.ones(segment.queries, segment.keys, dtype=torch.bool, device=device).tril(segment.shared)
        if dtype is not torch.bool:
            found = torch.zeros(found.shape, dtype=dtype, device=device).masked_fill(~found, torch.finfo(dtype).min)
        found = CURRENT.masks[(segment.start, segment.queries, dtype)] = found[None, None]
    return found


def _by_segment(query: Tensor, key: Tensor, value: Tensor, layout: Layout, given: dict[str, Any]) -> Tensor:
    """Torch's own attention for each segment. A plain causal one needs no mask and skips half of the work."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    parts = []
    for segment in layout.segments:
        mask = _mask(segment, query.device, torch.bool) if segment.shared else None
        part = scaled_dot_product_attention(
            query[:, :, segment.start : segment.start + segment.queries],
            _keys(key, segment),
            _keys(value, segment),
            attn_mask=mask,
            dropout_p=given.get("dropout", 0.0),
            scale=given.get("scaling"),
            is_causal=mask is None,
        )
        parts.append(part.transpose(1, 2))
    return torch.cat(parts, 1)


def _by_function(
    function: Any, module: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, given: dict[str, Any]
) -> Tensor:
    """The model's own (eager) attention for each segment, with an additive mask."""
    import torch

    parts = []
    for segment in layout.segments:
        part = query[:, :, segment.start : segment.start + segment.queries]
        mask = _mask(segment, query.device, query.dtype)
        parts.append(function(module, part, _keys(key, segment), _keys(value, segment), mask, **given)[0])
    return torch.cat(parts, 1)


def _varlen(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float | None, grouped: bool) -> Tensor:
    """All segments in one call of the flash attention that comes with PyTorch (GPU, half precision)."""
    import torch
    from torch.nn.attention.varlen import varlen_attn

    def ends(counts: list[int]) -> Tensor:
        return torch.tensor([0, *counts], device=query.device).cumsum(0).to(torch.int32)

    queries, keys = ([getattr(item, name) for item in layout.segments] for name in ("queries", "keys"))
    key, value = (torch.cat([_keys(item, segment) for segment in layout.segments], 2) for item in (key, value))
    found = varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        key[0].transpose(0, 1).contiguous(),
        value[0].transpose(0, 1).contiguous(),
        ends(queries),
        ends(keys),
        max(queries),
        max(keys),
        scale=scale,
        window_size=(-1, 0),  # causal, aligned to the last key
        enable_gqa=grouped,
    )
    part: Tensor = found[0] if isinstance(found, tuple) else found
    return part[None]
