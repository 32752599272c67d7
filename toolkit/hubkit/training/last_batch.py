"""The last batch of an epoch, divided among several processes as one process would compute it.

An epoch seldom ends with a whole batch. accelerate then fills the batch of each process with rows of the epoch's
beginning (``even_batches``), so these are trained once more, and several processes train another adapter than one does
at the same global batch size. Here the rows that are left are divided: none is trained twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from hubkit.training.data.tokens import IGNORED


def divided(rows: Sequence[int], processes: int) -> list[list[int]]:
    """``rows`` in as many parts as there are ``processes``, whose lengths differ by at most one.

    A process for which no row is left gets the first one, since it has to compute something: it must not count.
    """
    parts = [list(rows[start::processes]) for start in range(processes)]
    return [part or [rows[0]] for part in parts]


def shares(rows: int, processes: int) -> list[int]:
    """How many of ``rows`` each process has of :func:`divided`; 0: a row that does not count."""
    return [len(range(start, rows, processes)) for start in range(processes)]


@contextmanager
def gathering_rows(accelerator: Any, counts: Sequence[int]) -> Iterator[None]:
    """Have ``accelerator.gather`` take tensors with a number for each row, of which each process has its ``counts``.

    TRL gathers such numbers for its metrics, and torch gathers tensors of one size alone.
    """
    import torch

    plain, longest = accelerator.gather, max(counts)

    def gather(tensor: Any) -> Any:
        if tensor.dim() == 0:
            return plain(tensor)
        filled = tensor.new_zeros((longest, *tensor.shape[1:]))
        filled[: len(tensor)] = tensor
        parts = plain(filled).split(longest)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    accelerator.gather = gather
    try:
        yield
    finally:
        del accelerator.gather


class Divided:
    """Batches of row numbers, as many in each step as there are processes: those of the last step are divided.

    It takes the place of ``batches``, torch's BatchSampler that accelerate's BatchSamplerShard reads in each process.
    """

    batch_size = None
    """Not all batches have one size. accelerate then leaves them as they are."""
    drop_last = True
    """Nothing is left over for accelerate to fill."""

    def __init__(self, batches: Any, processes: int) -> None:
        self._batches, self._processes = batches, processes

    @property
    def sampler(self) -> Any:
        """The order of the rows; accelerate tells it the epoch."""
        return self._batches.sampler

    def __len__(self) -> int:
        return -(-len(self._batches) // self._processes) * self._processes

    def __iter__(self) -> Iterator[list[int]]:
        step: list[list[int]] = []
        for batch in self._batches:
            step.append(batch)
            if len(step) == self._processes and len(batch) == self._batches.batch_size:
                yield from step
                step = []
        if step:
            yield from divided([row for batch in step for row in batch], self._processes)


def divide_last_batch(loader: Any) -> int:
    """Have the processes of the prepared ``loader`` divide their last batch; the number of its rows, of all of them.

    0 where there is nothing to divide: every batch is whole, the last one is dropped, or there is one process.
    """
    from accelerate.data_loader import BatchSamplerShard

    shard = getattr(loader, "batch_sampler", None)
    if not isinstance(shard, BatchSamplerShard) or shard.split_batches or shard.drop_last or not shard.batch_size:
        return 0
    left: int = len(shard.batch_sampler.sampler) % (shard.batch_size * shard.num_processes)
    if shard.num_processes == 1 or left == 0:
        return 0
    shard.batch_sampler = Divided(shard.batch_sampler, shard.num_processes)
    shard.batch_size, shard.drop_last = Divided.batch_size, Divided.drop_last
    return left


def dividing(trainer: type[Any], loss: Literal["rows", "tokens"]) -> type[Any]:
    """The class ``trainer`` of TRL, whose processes divide the last batch of an epoch.

    ``loss``: whether it is a mean over the rows of a process, which is then weighted by how many these are; or over the
    tokens of all of the processes, which transformers counts.
    """

    class Dividing(trainer):  # type: ignore[misc]
        _left = 0

        def get_train_dataloader(self) -> Any:
            loader = super().get_train_dataloader()
            self._left = divide_last_batch(loader)
            return loader

        def _own_share(self) -> float:
            """The rows of this process in the last batch, as a multiple of the mean over the processes."""
            counts = shares(self._left, self.accelerator.num_processes)
            own: int = counts[self.accelerator.process_index]
            return own * len(counts) / self._left

        def _in_last_batch(self) -> bool:
            state = self.accelerator.gradient_state
            return bool(self._left and self.is_in_train and state.end_of_dataloader and state.sync_gradients)

        def get_batch_samples(self, batches: Iterator[Any], *given: Any, **named: Any) -> Any:
            if loss == "tokens" and self._left and not self._own_share():
                batches = self._without_labels(batches)
            return super().get_batch_samples(batches, *given, **named)

        def _without_labels(self, batches: Iterator[Any]) -> Iterator[Any]:
            """``batches``; the last one is a row of another process, and has no label."""
            for batch in batches:
                if self.accelerator.gradient_state.end_of_dataloader:
                    batch["labels"].fill_(IGNORED)
                yield batch

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **named: Any) -> Any:
            if loss == "tokens" or return_outputs or not model.training or not self._in_last_batch():
                return super().compute_loss(model, inputs, return_outputs=return_outputs, **named)
            with gathering_rows(self.accelerator, shares(self._left, self.accelerator.num_processes)):
                return super().compute_loss(model, inputs, **named) * self._own_share()

    Dividing.__name__ = trainer.__name__
    return Dividing
