"""The last batch of an epoch, divided among the processes: in which order, and how it counts."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hubkit.training.last_batch import Divided, divide_last_batch, divided

NUMBERS = st.integers(1, 9)


def loaders(rows: int, size: int, processes: int, **keys: Any) -> list[Any]:
    """What accelerate prepares in each of ``processes`` of a loader of ``rows`` rows in batches of ``size``."""
    from accelerate.data_loader import prepare_data_loader
    from torch.utils.data import DataLoader

    return [
        prepare_data_loader(
            DataLoader(list(range(rows)), batch_size=size, **keys), num_processes=processes, process_index=place
        )  # type: ignore[arg-type]
        for place in range(processes)
    ]


@settings(deadline=None)
@given(st.integers(1, 60), NUMBERS, NUMBERS)
def test_each_row_is_trained_once_in_the_steps_of_one_process(rows: int, size: int, processes: int) -> None:
    found = loaders(rows, size, processes)
    left = {divide_last_batch(loader) for loader in found}
    batches = [[list(map(int, batch)) for batch in loader] for loader in found]
    (one,) = loaders(rows, size * processes, 1)
    steps = list(zip(*batches, strict=True))
    assert len(steps) == len(found[0]) == len(one)
    assert left == {rows % (size * processes) if processes > 1 else 0}
    for step, together in zip(steps, one, strict=True):
        expected = list(map(int, together))
        if len(expected) >= processes:
            assert sorted(row for batch in step for row in batch) == sorted(expected)
            assert max(map(len, step)) - min(map(len, step)) <= 1
        else:
            assert [batch[0] for batch in step[: len(expected)]] == expected
            assert all(batch == expected[:1] for batch in step[len(expected) :])


def test_where_the_last_batch_is_dropped_it_is_not_divided() -> None:
    found = loaders(23, 2, 2, drop_last=True)
    assert [divide_last_batch(loader) for loader in found] == [0, 0]
    rows = [int(row) for loader in found for batch in loader for row in batch]
    assert sorted(rows) == list(range(20))


def test_accelerate_still_finds_the_sampler_to_tell_it_the_epoch() -> None:
    (loader, _) = loaders(23, 2, 2)
    before = loader.batch_sampler.batch_sampler.sampler
    divide_last_batch(loader)
    assert isinstance(loader.batch_sampler.batch_sampler, Divided)
    assert loader.batch_sampler.batch_sampler.sampler is before


def test_an_interrupted_epoch_goes_on_behind_what_was_trained() -> None:
    from accelerate.data_loader import skip_first_batches

    for loader in loaders(23, 2, 2):
        divide_last_batch(loader)
        every = [list(map(int, batch)) for batch in loader]
        assert [list(map(int, batch)) for batch in skip_first_batches(loader, 3)] == every[3:]


def test_a_process_without_a_row_computes_one_of_another() -> None:
    assert divided([7, 8], 4) == [[7], [8], [7], [7]]
