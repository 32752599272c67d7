"""Merged weights are proved from the base and the adapter: every wrong merge is found, and no right one is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random
from typing import Any

import architectures
import pytest
from merges import (
    FAULTS,
    changed_byte,
    merged_by_peft,
    random_adapter,
)  # fmt: skip

from hubkit.core.errors import ConflictError
from hubkit.models.merging.merge import merge
from hubkit.models.merging.proof import prove

KINDS = ("llama-3-tied", "qwen3", "gemma-2", "phi-3", "pythia", "gpt-2", "mistral", "smollm")
SIZES = (1e-4, 1e-3, 3e-3, 2e-2, 0.3)
"""Of a change, in norms of what it changes."""
DTYPES = ("bfloat16", "float32", "float16")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a base once: (architecture, dtype) to its folder."""
    folder, made = tmp_path_factory.mktemp("bases"), {}

    def base(name: str, dtype: str) -> Path:
        if (name, dtype) not in made:
            made[name, dtype] = architectures.make(name, folder / f"{name}-{dtype}", dtype=dtype)
        return made[name, dtype]

    return base


def merging(dtype: str) -> Any:
    def merged(base: Path, adapter: Path, out: Path) -> Path:
        merge(base, adapter, out, dtype=dtype)
        return out

    return merged


def right_merges(bases: Any, folder: Path, number: int) -> None:
    """One random adapter: merged here and by PEFT, it is proved, from a sample and whole."""
    name, dtype = KINDS[number % len(KINDS)], DTYPES[number // len(KINDS) % len(DTYPES)]
    size, published = SIZES[number % len(SIZES)], DTYPES[number % len(DTYPES)]
    base = bases(name, dtype)
    lora: dict[str, Any] = {"r": (1, 4, 16)[number % 3], "use_rslora": number % 4 == 3}
    adapter = random_adapter(base, folder / "adapter", size, number, **lora)
    merge(base, adapter, folder / "merged", dtype=published)
    sampled = prove(base, adapter, folder / "merged", dtype=published, seed=number)
    whole = prove(base, adapter, folder / "merged", dtype=published, thorough=True)
    assert 0 < sampled.greatest <= whole.greatest <= 1 and whole.numbers == whole.parameters
    merged_by_peft(base, adapter, folder / "peft", dtype)
    assert prove(base, adapter, folder / "peft", dtype=dtype, thorough=True).changed == whole.changed


def planted(bases: Any, folder: Path, number: int) -> str:
    """One planted fault; what was said about it."""
    random = Random(number)
    fault, dtype = FAULTS[number % len(FAULTS)], random.choice(DTYPES)
    base = bases(random.choice(KINDS), dtype)
    adapter = random_adapter(base, folder / "adapter", random.choice(SIZES), number)
    wrong = fault(merging(dtype), base, adapter, folder / "wrong", random)
    with pytest.raises(ConflictError) as caught:
        prove(base, adapter, wrong, dtype=dtype, seed=number, thorough=fault is changed_byte)
    assert caught.value.hint and "not the adapter on its base: " in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("number", range(5))
def test_right_merges_are_proved(bases: Any, tmp_path: Path, number: int) -> None:
    right_merges(bases, tmp_path, number * 3 + 1)


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=[fault.__name__ for fault in FAULTS])
def test_wrong_merges_are_found(bases: Any, tmp_path: Path, number: int) -> None:
    planted(bases, tmp_path, number)


@pytest.mark.soak
def test_fifty_right_merges_and_a_hundred_wrong_ones(bases: Any, tmp_path: Path) -> None:
    for number in range(50):
        right_merges(bases, tmp_path / "right", number)
        shutil.rmtree(tmp_path / "right")
    for number in range(100):
        planted(bases, tmp_path / "wrong", number)
        shutil.rmtree(tmp_path / "wrong")
