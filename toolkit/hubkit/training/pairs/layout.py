"""A padded batch of pairs, rearranged: each prompt once, the answers behind it, all rows in one, and no padding.

TRL's batch has the chosen answers in its first half and the rejected ones in the second, each behind its prompt and
padded on the right. Of each pair the longest common start is kept once::

    [prompt chosen] [rejected]  [prompt chosen] [rejected] ...        positions 0 1 2 ... as in rows of their own

What a token may attend to is as before (:mod:`.attention`), so its log-probability is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubkit.training.data.tokens import IGNORED

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """``queries`` consecutive tokens from ``start`` on, which attend to ``shared`` tokens from ``origin`` on, and to
    themselves up to their own place."""

    start: int
    queries: int
    origin: int = 0
    shared: int = 0

    @property
    def keys(self) -> int:
        """How many tokens the last of the queries attends to."""
        return self.shared + self.queries


@dataclass(frozen=True)
class Layout:
    """The tokens of a batch in one row, and where the log-probabilities of the padded batch come from.

    ``source`` are places in the row whose hidden state predicts a label, ``target`` the places of these labels in the
    padded batch (flat, without its first column), ``labels`` the labels themselves.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: tuple[Segment, ...]
    source: Tensor
    target: Tensor
    labels: Tensor
    shape: tuple[int, int]

    @property
    def total(self) -> int:
        """How many tokens are computed."""
        return int(self.input_ids.shape[1])


def is_padded_right(mask: Tensor) -> bool:
    """Whether each row of the attention ``mask`` is ones, then zeros, with an even number of rows."""
    if mask.dim() != 2 or len(mask) % 2 or mask.shape[1] < 2:
        return False
    return bool((mask[:, 0] == 1).all() and (mask[:, 1:] <= mask[:, :-1]).all())


def labelled(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Where the padded ``labels`` without their first column are trained on (flat places), and these labels."""
    shifted = labels[:, 1:].reshape(-1)
    target = (shifted != IGNORED).nonzero().squeeze(1)
    return target, shifted[target]


def shared(input_ids: Tensor, mask: Tensor, labels: Tensor) -> Layout:
    """The layout of a padded batch whose second half has the rejected answers."""
    import torch

    pairs, width = len(input_ids) // 2, input_ids.shape[1]
    common = (input_ids[:pairs] == input_ids[pairs:]) & (mask[:pairs] == 1) & (mask[pairs:] == 1)
    starts = common.long().cumprod(1).sum(1).tolist()
    lengths = mask.sum(1).tolist()
    segments: list[Segment] = []
    places: list[Tensor] = []  # of each row of the padded batch: where its tokens are in the one row
    ids: list[Tensor] = []
    positions: list[Tensor] = []
    rejected_places: list[Tensor] = []
    place = 0
    for pair, start in enumerate(starts):
        chosen, rejected = lengths[pair], lengths[pairs + pair]
        whole = torch.arange(place, place + chosen)
        rest = torch.arange(place + chosen, place + chosen + rejected - start)
        ids += [input_ids[pair, :chosen], input_ids[pairs + pair, start:rejected]]
        positions += [torch.arange(chosen), torch.arange(start, rejected)]
        segments.append(Segment(place, chosen))
        if len(rest):
            segments.append(Segment(place + chosen, len(rest), place, start))
        places.append(_padded(whole, width))
        rejected_places.append(_padded(torch.cat([whole[:start], rest]), width))
        place += chosen + rejected - start
    device = input_ids.device
    target, wanted = labelled(labels)
    table = torch.stack([*places, *rejected_places])[:, :-1].reshape(-1).to(device)
    return Layout(
        torch.cat(ids)[None],
        torch.cat(positions)[None].to(device),
        tuple(segments),
        table[target],
        target,
        wanted,
        (len(input_ids), width - 1),
    )


def _padded(places: Tensor, width: int) -> Tensor:
    from torch.nn.functional import pad

    return pad(places, (0, width - len(places)))
