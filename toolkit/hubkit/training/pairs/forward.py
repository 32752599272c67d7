"""One forward pass of TRL's, rearranged: what its loss needs comes out as if the padded batch had been computed.

TRL gives a model ``forward(..., labels=, fused_lm_head=True)``, which returns a log-probability for each label. Here
this call alone is wrapped. What else calls the model (generation, a probe, saving) finds it as it was.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hubkit.training.pairs.attention import CURRENT, PREFIX, registered
from hubkit.training.pairs.layout import Layout, is_padded_right, labelled, shared

if TYPE_CHECKING:
    from torch import Tensor

Way = Literal["varlen", "shared", "head", "plain"]
"""From the fastest on: shared prompts without padding by flash attention, the same by torch's own attention for each
row, padded rows whose answers alone pass the output layer, and TRL's own."""

_PLAIN_KEYS = frozenset({"input_ids", "attention_mask", "use_cache"})
_FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


@dataclass
class Tokens:
    """Tokens of the training's batches: those of the rows, those of the padded rows, and those that were computed."""

    real: int = 0
    padded: int = 0
    computed: int = 0


@dataclass
class Rearranged:
    """The wrapped forward passes of ``models`` (the one that is trained, and its reference where that is another)."""

    models: list[Any]
    way: Way = "plain"
    tokens: Tokens = field(default_factory=Tokens)
    _gathered: Tensor | None = None
    _last: tuple[Any, Layout] | None = None

    def __post_init__(self) -> None:
        for model in self.models:
            self._wrap(model)

    def take(self, way: Way) -> None:
        """Go ``way`` from now on."""
        self.way = way
        CURRENT.begin(None)
        CURRENT.varlen = way == "varlen"
        for model in self.models:
            _name_attention(model, in_one_row=way in {"varlen", "shared"})

    @contextmanager
    def going(self, way: Way) -> Iterator[None]:
        """Go ``way`` meanwhile."""
        before = self.way
        self.take(way)
        try:
            yield
        finally:
            self.take(before)

    def _wrap(self, model: Any) -> None:
        inner = model.forward  # of TRL, bound

        def forward(this: Any, *args: Any, **given: Any) -> Any:
            CURRENT.begin(None)
            if self.way == "plain" or args or not _is_batch_of_pairs(given):
                self._count(given, computed=None)
                return inner(*args, **given)
            return self._one_row(inner, given) if self.way != "head" else self._head(inner, given)

        forward.__signature__ = _signature(model)  # type: ignore[attr-defined]
        model.forward = types.MethodType(forward, model)
        model.base_model.register_forward_hook(self._gather)

    def _gather(self, module: Any, args: Any, output: Any) -> Any:
        """Keep the hidden states that predict a label: the output layer is as wide as the vocabulary."""
        if self._gathered is not None:
            states = output.last_hidden_state
            output.last_hidden_state = states.reshape(1, -1, states.shape[-1])[:, self._gathered.to(states.device)]
        return output

    def _one_row(self, inner: Any, given: dict[str, Any]) -> Any:
        batch = given["input_ids"]
        if self._last is None or self._last[0] is not batch:  # the reference is asked for the same batch
            self._last = (batch, shared(batch, given["attention_mask"], given["labels"]))
        layout = self._last[1]
        self._count(given, layout.total)
        CURRENT.begin(layout)
        rest = {key: value for key, value in given.items() if key not in {"attention_mask", "labels"}}
        rest |= {"input_ids": layout.input_ids, "position_ids": layout.position_ids}
        return self._spread(inner, rest, layout.source, layout.target, layout.labels, layout.shape)

    def _head(self, inner: Any, given: dict[str, Any]) -> Any:
        labels = given["labels"]
        self._count(given, labels.numel())
        target, wanted = labelled(labels)
        width = labels.shape[1]
        source = target // (width - 1) * width + target % (width - 1)
        rest = {key: value for key, value in given.items() if key != "labels"}
        return self._spread(inner, rest, source, target, wanted, (len(labels), width - 1))

    def _spread(
        self, inner: Any, given: dict[str, Any], source: Tensor, target: Tensor, labels: Tensor, shape: tuple[int, int]
    ) -> Any:
        """What ``inner`` returns for the hidden states at ``source``, at their places in a padded batch."""
        self._gathered = source
        try:
            output = inner(**given, shift_labels=labels[None])
        finally:
            self._gathered = None
        for name in (*_FIELDS, "label_mask"):
            if (value := getattr(output, name, None)) is not None:
                flat = value.new_zeros(shape[0] * shape[1]).index_put((target,), value.reshape(-1))
                setattr(output, name, flat.view(shape))
        return output

    def _count(self, given: dict[str, Any], computed: int | None) -> None:
        import torch

        mask = given.get("attention_mask")
        if torch.is_grad_enabled() and given.get("fused_lm_head") and mask is not None:
            self.tokens.real += int(mask.sum())
            self.tokens.padded += mask.numel()
            self.tokens.computed += mask.numel() if computed is None else computed


def _is_batch_of_pairs(given: dict[str, Any]) -> bool:
    """Whether TRL asks for the log-probabilities of a padded batch, and for nothing else."""
    others = given.keys() - _PLAIN_KEYS - {"labels", "fused_lm_head"}
    if not given.get("fused_lm_head") or any(given[name] is not None for name in others):
        return False
    ids, mask, labels = (given.get(name) for name in ("input_ids", "attention_mask", "labels"))
    if ids is None or mask is None or labels is None or ids.shape != mask.shape or ids.shape != labels.shape:
        return False
    return is_padded_right(mask) and bool((labels[:, 1:] != -100).any())


def _signature(model: Any) -> Any:
    """``generate`` reads the arguments of ``forward`` from its signature."""
    import inspect

    return inspect.signature(type(model).forward)


def _name_attention(model: Any, *, in_one_row: bool) -> None:
    """Switch the configs of ``model`` to the second name of their attention, or back."""
    for module in model.modules():
        config = getattr(module, "config", None)
        name = getattr(config, "_attn_implementation", None)
        if config is None or not isinstance(name, str):
            continue
        plain = name.removeprefix(PREFIX)
        config._attn_implementation_internal = registered(plain) if in_one_row else plain
