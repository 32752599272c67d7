"""The engine of the merge: what it writes equals plain arithmetic, in one pass, in bounded memory, and its errors."""

from __future__ import annotations

import json
import math
import threading
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.files import digests
from hubkit.models.merging import blocks, merge, overlap, shards
from hubkit.models.merging.adapter import fit, read_adapter
from hubkit.models.merging.merge import merge_all
from hubkit.models.tensors import DTYPE_NAMES, read_weights

FLOATS = ("float32", "float16", "bfloat16")


def torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def save(folder: Path, tensors: dict[str, Any], config: dict[str, Any], name: str = "model") -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(tensors, folder / f"{name}.safetensors", {"format": "pt"})
    (folder / ("config.json" if name == "model" else "adapter_config.json")).write_text(json.dumps(config))
    return folder


def make_base(folder: Path, dtype: str = "bfloat16", width: int = 24, rows: int = 40) -> Path:
    """Matrices to change, and what a file holds besides: vectors, a number, empty tensors, whole numbers."""
    import torch

    torch.manual_seed(0)
    kind = torch_dtype(dtype)
    tensors = {
        "layers.2.embed_tokens.weight": torch.randn(rows, width).to(kind),
        "layers.0.q_proj.weight": torch.randn(rows, width).to(kind),
        "layers.0.norm.weight": torch.randn(width).to(kind),
        "layers.0.scale": torch.randn(()).to(kind),
        "layers.0.nothing": torch.zeros(0, 5).to(kind),
        "layers.0.neither": torch.zeros(3, 0).to(kind),
        "layers.0.positions": torch.arange(13),
        "layers.0.mask": torch.tensor([True, False, True]),
        "layers.1.q_proj.weight": torch.randn(1, width).to(kind),
        "layers.1.down_proj.weight": torch.randn(width, rows).to(kind),
    }
    return save(folder, tensors, {"model_type": "llama", "tie_word_embeddings": False})


def make_adapter(folder: Path, base: Path, seed: int, targets: tuple[str, ...], rank: int = 3) -> Path:
    import torch

    torch.manual_seed(seed)
    tensors = {}
    for name, item in read(base).items():
        if name.rsplit(".", 2)[-2] in targets:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(rank, item.shape[1])
            tensors[f"{module}.lora_B.weight"] = torch.randn(item.shape[0], rank)
    return save(folder, tensors, {"peft_type": "LORA", "r": rank, "lora_alpha": 5}, "adapter_model")


def read(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: value for path in read_weights(folder) for name, value in load_file(path).items()}


def exact(base: Path, adapter: Path) -> dict[str, Any]:
    """What the merge is to hold, in float64."""
    from safetensors.torch import load_file

    parts, found = load_file(adapter / "adapter_model.safetensors"), read(base)
    for name, item in found.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in parts:
            a, b = (parts[f"{module}.lora_{part}.weight"].double() for part in "AB")
            found[name] = item.double() + 5 / 3 * (b @ a)
    return found


def assert_rounded_once(ours: dict[str, Any], wanted: dict[str, Any], dtype: str) -> None:
    import torch

    assert ours.keys() == wanted.keys()
    for name, value in ours.items():
        expected = wanted[name]
        if not expected.dtype.is_floating_point:
            assert torch.equal(value, expected), name
            continue
        assert value.dtype == torch_dtype(dtype), name
        if expected.dtype != torch.float64:
            assert torch.equal(value, expected.to(value.dtype)), name
            continue
        half = torch.finfo(value.dtype).eps / 2
        assert torch.allclose(value.double(), expected, rtol=half * 1.01 + 1e-6, atol=1e-5), name


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {dtype: make_base(folder / dtype, dtype) for dtype in FLOATS}


@pytest.fixture(scope="module")
def adapters(bases, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    targets = ("q_proj",), ("q_proj", "down_proj"), ("down_proj", "embed_tokens")
    return [make_adapter(folder / str(n), bases["float32"], n, names) for n, names in enumerate(targets)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    source=st.sampled_from(FLOATS),
    dtype=st.sampled_from(FLOATS),
    block=st.sampled_from([1, 7, 24, 100, 4096, blocks.BLOCK]),
    shard=st.sampled_from([900, 3000, 10**9]),
    chosen=st.lists(st.integers(0, 2), min_size=1, max_size=3),
    workers=st.integers(1, 4),
    memory=st.sampled_from([1, 5000, 10**9]),
)
def test_the_merge_is_plain_arithmetic(
    bases, adapters, tmp_path_factory, source, dtype, block, shard, chosen, workers, memory
):
    folder, base = tmp_path_factory.mktemp("merged"), bases[source]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", block)
        patch.setattr(merge, "cores", lambda: workers)
        patch.setattr(merge, "_MEMORY", memory)
        given = [(adapters[number], folder / str(place)) for place, number in enumerate(chosen)]
        reports = merge_all(base, given, dtype=dtype, max_shard_bytes=shard)
    for (adapter, out), report in zip(given, reports, strict=True):
        assert_rounded_once(read(out), exact(base, adapter), dtype)
        assert {name: digests(out / name) for name in report.files} == report.files
        assert {path.name for path in read_weights(out)} == report.files.keys()


def test_several_merges_read_the_base_once_and_equal_single_ones(bases, adapters, tmp_path, monkeypatch):
    base, bytes_read = bases["bfloat16"], []
    original = blocks.Reader.read

    def counted(self: Any, block: Any) -> Any:
        content = original(self, block)
        bytes_read.append(content.nbytes)
        return content

    monkeypatch.setattr(blocks.Reader, "read", counted)
    together = merge_all(base, [(adapter, tmp_path / f"t{n}") for n, adapter in enumerate(adapters)])
    tensors = [item for header in read_weights(base).values() for item in header.tensors.values()]
    assert sum(bytes_read) == sum(item.size for item in tensors)
    for number, adapter in enumerate(adapters):
        single = merge.merge(base, adapter, tmp_path / f"s{number}")
        assert together[number].files == single.files
        assert (together[number].targets, together[number].changed) == (single.targets, single.changed)


# --- changes that need a whole tensor, another tensor, or more rows


@dataclass(frozen=True)
class Normalized:
    """Every column has the length 1: no rows can be computed without all the others."""

    shape: tuple[int, ...]
    origin: str | None = None
    by_rows: bool = False
    expected: bool = True
    module: str = "layers.0.q_proj"
    sources: tuple[str, ...] = ()

    def prepare(self, adapter: Any, device: str = "cpu") -> Normalized:
        return self

    def apply(self, before: Any, start: int) -> Any:
        return before / before.norm(dim=0)


@dataclass(frozen=True)
class Numbered(Normalized):
    """Each row plus its number."""

    by_rows: bool = True

    def apply(self, before: Any, start: int) -> Any:
        import torch

        return before + torch.arange(start, start + len(before)).float()[:, None]


@pytest.mark.parametrize("block", [24, 100, blocks.BLOCK])
def test_changes_of_other_kinds(bases, adapters, tmp_path, monkeypatch, block):
    import torch

    (header,) = read_weights(bases["float32"]).values()
    plain = fit(read_adapter(adapters[1]), header.tensors, {"model_type": "llama"})
    changes = {
        "layers.0.q_proj.weight": Normalized((40, 24)),
        "layers.2.embed_tokens.weight": Numbered((45, 24)),
        "lm_head.weight": Numbered((45, 24), origin="layers.2.embed_tokens.weight"),
    }
    special = replace(plain, changes=changes)
    monkeypatch.setattr(merge, "read_adapter", lambda folder: special if folder == adapters[0] else plain)
    monkeypatch.setattr(merge, "fit", lambda adapter, tensors, config: adapter)
    monkeypatch.setattr(blocks, "BLOCK", block)
    base = bases["float32"]
    outs = [(adapters[1], tmp_path / "plain"), (adapters[0], tmp_path / "special")]
    reports = merge_all(base, outs, dtype="float32", max_shard_bytes=3000)
    before, special_made = read(base), read(tmp_path / "special")
    assert_rounded_once(read(tmp_path / "plain"), exact(base, adapters[1]), "float32")
    longer = torch.cat([before["layers.2.embed_tokens.weight"], torch.zeros(5, 24)]) + torch.arange(45).float()[:, None]
    assert torch.equal(special_made["layers.2.embed_tokens.weight"], longer)
    assert torch.equal(special_made["lm_head.weight"], longer)
    normal = before["layers.0.q_proj.weight"]
    assert torch.allclose(special_made["layers.0.q_proj.weight"], normal / normal.norm(dim=0))
    assert reports[1].tensors == reports[0].tensors + 1
    assert reports[1].changed == 3


# --- numbers that are none


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_number_that_is_none_is_found_by_its_bits(dtype):
    import torch

    kind, name = torch_dtype(dtype), DTYPE_NAMES[dtype]
    if dtype == "float32":
        bits = torch.arange(-(2**31), 2**31, 2**15 - 1).to(torch.int32)
    else:
        bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    numbers = bits.view(kind)
    fine = numbers[torch.isfinite(numbers)]
    assert bytes(blocks.finite(fine, "x", name)) == bytes(fine.view(torch.uint8).numpy().data)
    broken = numbers[~torch.isfinite(numbers)]
    assert len(broken) > 200
    one, two, infinity = fine[:3].clone(), fine[-3:].clone(), torch.tensor([math.inf, -math.inf]).to(kind)
    for number in (*broken[:: len(broken) // 200], *infinity):
        for around in (one, two):
            around[1] = number
            with pytest.raises(RefusedError, match=f"x holds a NaN or an infinite number in {dtype}"):
                blocks.finite(around, "x", name)


def test_minus_zero_alone_is_no_change(bases, tmp_path):
    import torch

    base = save(tmp_path / "base", {"layers.0.q_proj.weight": -torch.zeros(4, 4)}, {"model_type": "llama"})
    parts = {
        "base_model.model.layers.0.q_proj.lora_A.weight": torch.randn(2, 4),
        "base_model.model.layers.0.q_proj.lora_B.weight": torch.zeros(4, 2),
    }
    adapter = save(tmp_path / "adapter", parts, {"peft_type": "LORA", "r": 2, "lora_alpha": 2}, "adapter_model")
    with pytest.raises(RefusedError, match="changes nothing in q_proj"):
        merge.merge(base, adapter, tmp_path / "out")


# --- errors


class Broken(Exception):
    pass


def _raise_on_call(number: int, original: Any) -> Any:
    calls = []

    def called(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) >= number:
            raise Broken("here")
        return original(*args, **kwargs)

    return called


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("place", ["read", "compute", "hash", "hash_git", "store", "sync", "cut", "report", "index"])
def test_an_error_anywhere_ends_all_threads_and_leaves_nothing(bases, adapters, tmp_path, monkeypatch, place, number):
    owner, name = {
        "read": (blocks.Reader, "read"),
        "compute": (merge, "compute"),
        "cut": (merge, "cut"),
        "index": (merge, "write_index"),
    }.get(place, (shards.ShardWriter, place))
    report = None
    if place == "report":
        report = _raise_on_call(number, lambda figure, share: None)
    else:
        calls = 1 if place == "index" else number
        monkeypatch.setattr(owner, name, _raise_on_call(calls, getattr(owner, name)))
    before = threading.active_count()
    outs = [(adapter, tmp_path / str(place)) for place, adapter in enumerate(adapters[:2])]
    with pytest.raises(Broken, match="here"):
        merge_all(bases["float32"], outs, max_shard_bytes=1000, report=report)
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_ends_all_threads(bases, adapters, tmp_path):
    def interrupt(figure: str, share: float | None) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        merge.merge(bases["float32"], adapters[0], tmp_path / "out", report=interrupt)
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_in_the_second_of_two_leaves_neither(bases, adapters, tmp_path, monkeypatch):
    original = shards.ShardWriter._append

    def full(self: Any, block: Any) -> None:
        if ".two.partial" in str(self.path) and self.written > 500:
            raise OSError(28, "No space left on device")
        original(self, block)

    monkeypatch.setattr(shards.ShardWriter, "_append", full)
    with pytest.raises(HubkitError, match=r"The disk is full at .*model.safetensors"):
        merge_all(bases["float32"], [(adapters[0], tmp_path / "one"), (adapters[1], tmp_path / "two")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["written", "shorter"])
def test_a_base_that_changes_while_it_is_read_is_refused(adapters, tmp_path, kind):
    base = make_base(tmp_path / "base", "float32")
    path = base / "model.safetensors"

    def change(figure: str, share: float | None) -> None:
        with path.open("r+b") as file:
            if kind == "shorter":
                file.truncate(3000)
            else:
                file.seek(-8, 2)
                file.write(b"changed.")

    with pytest.raises(HubkitError, match=r"model.safetensors .*changed while it was read"):
        merge.merge(base, adapters[0], tmp_path / "out", report=change)
    assert list(tmp_path.iterdir()) == [base]


def test_what_two_adapters_share_is_refused_by_name(bases, adapters, tmp_path):
    """One adapter that does not fit is an error of both: neither appears."""
    wrong = make_adapter(tmp_path / "wrong", make_base(tmp_path / "other", width=8), 0, ("q_proj",))
    with pytest.raises(RefusedError, match="the base's tensor"):
        merge_all(bases["float32"], [(adapters[0], tmp_path / "one"), (wrong, tmp_path / "two")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "wrong"]


def test_what_a_killed_merge_left_is_in_nobodys_way(bases, adapters, tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model.safetensors").write_bytes(b"half")
    report = merge.merge(bases["float32"], adapters[0], tmp_path / "out")
    assert {name: digests(tmp_path / "out" / name) for name in report.files} == report.files
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# --- memory, device, threads


def test_memory_does_not_grow_with_the_model(tmp_path, monkeypatch):
    """What was read of 1.6 MB, or made of it, and is still held: never more than the blocks that may be under way."""
    base = make_base(tmp_path / "base", "float32", width=100, rows=2000)
    adapters = [make_adapter(tmp_path / str(seed), base, seed, ("q_proj", "down_proj")) for seed in range(2)]
    held, most, lock = 0, 0, threading.RLock()

    def hold(size: int) -> None:
        nonlocal held, most
        with lock:
            held += size
            most = max(most, held)

    def following(function: Any) -> Any:
        def called(*args: Any) -> Any:
            content = function(*args)
            for array in [content] if isinstance(content, numpy.ndarray) else [view.obj for view in content.values()]:
                hold(array.nbytes)
                weakref.finalize(array, hold, -array.nbytes)
            return content

        return called

    monkeypatch.setattr(blocks, "BLOCK", 1000)
    monkeypatch.setattr(merge, "_MEMORY", 200_000)
    monkeypatch.setattr(blocks.Reader, "read", following(blocks.Reader.read))
    monkeypatch.setattr(merge, "compute", following(merge.compute))
    merge_all(base, [(adapter, tmp_path / f"out{number}") for number, adapter in enumerate(adapters)])
    assert 8000 < most <= 200_000


def test_a_gpu_is_used_when_it_has_memory_to_spare(monkeypatch):
    import torch

    def refused() -> tuple[int, int]:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for free, device in ((lambda: (2**36, 2**37), "cuda"), (lambda: (2**30, 2**37), "cpu"), (refused, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", free)
        assert blocks.choose_device() == device


def test_results_keep_their_order_and_memory_its_bound():
    under_way, most, seen, lock = 0, 0, ([], []), threading.Lock()

    def compute(number: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 10
            most = max(most, under_way)
        return number

    def last(number: int) -> None:
        nonlocal under_way
        seen[1].append(number)
        with lock:
            under_way -= 10

    with overlap.Overlap[int](4, 50) as work:
        first = work.consumer(seen[0].append)
        second = work.consumer(last)
        for number in range(500):
            work.put(lambda number=number: compute(number), [first, second], 10)
    assert seen == (list(range(500)), list(range(500)))
    assert most <= 50


def test_an_item_larger_than_the_memory_goes_alone():
    done = []
    with overlap.Overlap[int](3, 10) as work:
        line = work.consumer(done.append)
        for number in range(20):
            work.put(lambda number=number: number, [line], 1000 if number % 3 else 1)
    assert done == list(range(20))
