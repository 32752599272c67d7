"""A merge is made again and compared bit by bit: what is right is equal, and no bit can be another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import architectures
import pytest
import torch
from merges import FAULTS, random_adapter, save_tensors, tensors_of

from hubkit.core.errors import RefusedError
from hubkit.models.merging import blocks, merge, overlap
from hubkit.models.merging.again import MergedAgain, merge_again
from hubkit.models.tensors import INDEX, SINGLE, read_weights


class Case:
    """A base, an adapter and the merge of both, in ``dtype``."""

    def __init__(self, folder: Path, kind: str, dtype: str, seed: int, shard: int = merge.SHARD_BYTES) -> None:
        self.folder, self.dtype = folder, dtype
        self.base = architectures.make(kind, folder / "base", dtype="bfloat16")
        self.adapter = random_adapter(self.base, folder / "adapter", 0.02, seed)
        self.merged = folder / "merged"
        merge.merge(self.base, self.adapter, self.merged, dtype=dtype, max_shard_bytes=shard)

    def again(self, merged: Path | None = None, **other: Any) -> MergedAgain:
        given = {"base": self.base, "adapter": self.adapter, "dtype": self.dtype, **other}
        found = merge_again(
            given["base"], given["adapter"], merged or self.merged, dtype=given["dtype"], scratch=self.folder / "peft"
        )
        assert not (self.folder / "peft").exists()
        return found


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("again"), "smollm", "bfloat16", 1)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("sharded"), "qwen3", "float32", 2, shard=20_000)


def flipped(case: Case, random: Random, number: int) -> Iterator[tuple[str, int]]:
    """Flip one bit of a file of the merged weights, give its name and place, and flip it back."""
    files = sorted(path for path in case.merged.iterdir() if path.name.startswith("model"))
    for count in range(number):
        path = random.choice(files)
        begins = count % 8 == 0  # the header of a file is small and would seldom be met
        place = random.randrange(min(4096, path.stat().st_size) if begins else path.stat().st_size)
        with path.open("r+b") as file:
            file.seek(place)
            before = file.read(1)
            for byte in (bytes([before[0] ^ 1 << random.randrange(8)]), before):
                file.seek(place)
                file.write(byte)
                file.flush()
                if byte != before:
                    yield path.name, place


def refused(case: Case) -> bool:
    try:
        return bool(case.again().differences)
    except RefusedError:
        return True


def one_bit_changes(cases: list[Case], number: int) -> None:
    for case in cases:
        assert not case.again().differences
        for name, place in flipped(case, Random(number), number // len(cases)):
            assert refused(case), f"a bit of byte {place:,} of {name} is another, and nobody saw it"
        assert not case.again().differences, "every bit is as it was"


def test_a_right_merge_is_equal(case: Case, sharded: Case) -> None:
    for one in (case, sharded):
        found = one.again()
        headers = read_weights(one.merged)
        assert not found.differences and found.way == "streamed" and found.changed > 0
        assert found.files == tuple(sorted(path.name for path in headers))
        assert found.bytes == sum(item.size for header in headers.values() for item in header.tensors.values())
    assert len(read_weights(sharded.merged)) > 1


def test_one_bit_changes_are_refused(case: Case, sharded: Case) -> None:
    one_bit_changes([case, sharded], 40)


@pytest.mark.soak
def test_a_thousand_one_bit_changes_are_refused(case: Case, sharded: Case) -> None:
    one_bit_changes([case, sharded], 1000)


def test_the_number_that_differs_is_told(case: Case, tmp_path: Path) -> None:
    tensors = tensors_of(case.merged)
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    changed = tensors[name].clone()
    changed[3, 5] += 0.5
    changed[7, 1] -= 0.25
    header = read_weights(case.merged)[case.merged / SINGLE].tensors[name]
    other = shutil.copytree(case.merged, tmp_path / "other")
    with (other / SINGLE).open("r+b") as file:
        file.seek(header.start)
        file.write(changed.view(torch.uint8).numpy().tobytes())
    (found,) = case.again(other).differences
    assert (found.name, found.kind, found.numbers) == (name, "numbers", 2)
    assert found.first is not None and found.first.index == (3, 5)
    assert found.first.published == float(changed[3, 5]) and found.first.merged == float(tensors[name][3, 5])
    assert found.largest == float((changed.double() - tensors[name].double()).abs().max())
    assert found.message.startswith(f"2 of {changed.numel():,} numbers differ, the first at [3, 5]: ")


def test_infinite_numbers_are_told(case: Case, tmp_path: Path) -> None:
    header = read_weights(case.merged)[case.merged / SINGLE].tensors
    name = next(name for name in header if name.endswith("o_proj.weight"))
    other = shutil.copytree(case.merged, tmp_path / "other")
    with (other / SINGLE).open("r+b") as file:
        file.seek(header[name].start)
        file.write(b"\x80\x7f")
    (found,) = case.again(other).differences
    assert found.first is not None and found.first.published is None and found.first.published_bits == "7f80"
    assert found.largest is None and "not a finite number published" in found.message
    json.dumps([found.first.index, found.largest], allow_nan=False)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.__name__ for fault in FAULTS])
def test_planted_faults_are_found(case: Case, tmp_path: Path, fault: Any) -> None:
    """Another base, another scaling, a target left out, layers swapped, merged twice, another dtype, one byte."""

    def merged(base: Path, adapter: Path, out: Path) -> Path:
        merge.merge(base, adapter, out, dtype=case.dtype)
        return out

    wrong = fault(merged, case.base, case.adapter, tmp_path / "wrong", Random(3))
    found = case.again(wrong)
    assert found.differences
    if fault.__name__ == "wrong_dtype":
        assert [item.kind for item in found.differences] == ["dtype"]
        assert "merged again in BF16" in found.differences[0].message


def test_wrong_base_adapter_scaling_and_dtype(case: Case, tmp_path: Path) -> None:
    other_base = architectures.make("smollm", tmp_path / "base", dtype="float32")
    moved = {name: value + 0.01 for name, value in tensors_of(other_base).items()}
    (other_base / SINGLE).unlink()
    assert case.again(base=save_tensors(moved, other_base)).differences
    assert case.again(adapter=random_adapter(case.base, tmp_path / "adapter", 0.02, 9)).differences
    scaled = shutil.copytree(case.adapter, tmp_path / "scaled")
    settings = json.loads((scaled / "adapter_config.json").read_text())
    (scaled / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": settings["lora_alpha"] * 1.001}))
    assert case.again(adapter=scaled).differences
    found = case.again(dtype="float16").differences
    assert {item.kind for item in found} == {"dtype"} and len(found) == len(tensors_of(case.merged))


def test_missing_and_extra_tensors_and_shapes(case: Case, tmp_path: Path) -> None:
    tensors = tensors_of(case.merged)
    name, *_, last = sorted(tensors)
    without = {key: value for key, value in tensors.items() if key != name}
    reshaped = {**without, "a.new": torch.zeros(2), last: tensors[last][:1].clone()}
    found = case.again(save_tensors(reshaped, tmp_path / "other")).differences
    assert {(item.name, item.kind) for item in found} == {(name, "missing"), ("a.new", "extra"), (last, "shape")}


def test_the_header_and_the_index_are_compared(case: Case, sharded: Case, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    other = shutil.copytree(case.merged, tmp_path / "metadata")
    save_file(tensors_of(case.merged), other / SINGLE, metadata={"format": "pt", "note": "x"})
    assert [(item.name, item.kind) for item in case.again(other).differences] == [(SINGLE, "header")]
    other = shutil.copytree(sharded.merged, tmp_path / "index")
    index = json.loads((other / INDEX).read_text())
    index["metadata"]["total_size"] += 1
    (other / INDEX).write_text(json.dumps(index))
    assert [(item.name, item.kind) for item in sharded.again(other).differences] == [(INDEX, "index")]


def test_the_same_bits_whatever_the_threads(case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Workers, torch's own threads, and the memory that blocks may take: none changes a bit."""
    threads = torch.get_num_threads()
    try:
        for workers, own, memory in ((1, 1, 1), (2, 3, 2**20), (7, 8, 2**30)):
            monkeypatch.setattr(merge, "cores", lambda workers=workers: workers)
            monkeypatch.setattr(merge, "_MEMORY", memory)
            torch.set_num_threads(own)
            assert not case.again().differences
    finally:
        torch.set_num_threads(threads)
    assert overlap.cores() >= 1 and blocks.BLOCK == 1024 * 1024, "the blocks' size is part of the result"


def test_what_peft_must_merge(tmp_path: Path) -> None:
    """An adapter whose merge is PEFT's own is merged again by PEFT."""
    base = architectures.make("gpt-2", tmp_path / "base", dtype="float32")
    adapter = random_adapter(base, tmp_path / "adapter", 0.02, 4, target_modules=["c_attn"], fan_in_fan_out=True)
    report = merge.merge(base, adapter, tmp_path / "merged", dtype="float32")
    found = merge_again(base, adapter, tmp_path / "merged", dtype="float32", scratch=tmp_path / "peft")
    assert not found.differences and found.way == report.way
