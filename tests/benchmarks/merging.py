"""What merging costs, beside PEFT and beside a plain copy. Run by `make bench`; writes docs/bench-merging.md.

    python tests/benchmarks/merging.py [--rounds 3] [--no-large]

A synthetic Llama of 1.1 B parameters in bfloat16 (random, repeated numbers) and two adapters (r=16 on every linear
module). Each contender is a process of its own; they take turns, so that all meet the same load. The base is in the
page cache. Seconds are those of the work, once the libraries are imported; what hubkit and the copy write is on the
disk at the end (fsync), PEFT's is not. The memory of the largest merge is measured once more with 7.2 B parameters,
where the disk has room.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hubkit.models.merging.shards import Planned, ShardWriter, plan, write_index

ROOT = Path(__file__).parents[2]
GIB = 2**30
RANK = 16
PEFT_RATIO, COPY_RATIO, TWO_RATIO, LARGE_LIMIT = 0.35, 1.3, 1.5, 1.5 * GIB
"""The aims: hubkit to PEFT, hubkit to a copy with its sha256, two variants to one, resident bytes with 7.2 B."""
SMALL = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "kv": 256}
LARGE = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "kv": 1024}
VOCABULARY = 32000


# --- the model


def shapes(size: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """The tensors of the Llama of this ``size``, without the ones around the layers: of one layer."""
    wide, inner, narrow = size["hidden_size"], size["intermediate_size"], size["kv"]
    return {
        "input_layernorm": (wide,),
        "self_attn.q_proj": (wide, wide),
        "self_attn.k_proj": (narrow, wide),
        "self_attn.v_proj": (narrow, wide),
        "self_attn.o_proj": (wide, wide),
        "post_attention_layernorm": (wide,),
        "mlp.gate_proj": (inner, wide),
        "mlp.up_proj": (inner, wide),
        "mlp.down_proj": (wide, inner),
    }


def make_base(folder: Path, size: dict[str, int]) -> None:
    """Write the model: about a second per GiB."""
    import torch

    folder.mkdir(parents=True)
    wide = size["hidden_size"]
    layers = range(size["num_hidden_layers"])
    named = {f"model.layers.{n}.{name}": shape for n in layers for name, shape in shapes(size).items()}
    around = {"model.embed_tokens": (VOCABULARY, wide), "model.norm": (wide,), "lm_head": (VOCABULARY, wide)}
    planned: Planned = {
        f"{name}.weight": ("BF16", shape, 2 * math.prod(shape)) for name, shape in (around | named).items()
    }
    torch.manual_seed(0)
    numbers = (torch.randn(4 * 2**20) * 0.02).bfloat16()
    tile = memoryview(numbers.view(torch.uint8).numpy()).cast("B")
    written = plan(planned, 5_000_000_000 if size is LARGE else GIB)
    for name, tensors in written:
        with ShardWriter(folder / name, tensors) as writer:
            for _, _, length in tensors.values():
                for start in range(0, length, len(tile)):
                    writer.write(tile[: min(len(tile), length - start)])
    write_index(folder, written)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "num_attention_heads": wide // 64,
        "num_key_value_heads": size["kv"] // 64,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        **{name: value for name, value in size.items() if name != "kv"},
    }
    (folder / "config.json").write_text(json.dumps(config))


def make_adapter(folder: Path, size: dict[str, int], seed: int) -> None:
    """Write a LoRA adapter on every linear module."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(seed)
    linear = {name: shape for name, shape in shapes(size).items() if len(shape) == 2}
    tensors = {}
    for layer in range(size["num_hidden_layers"]):
        for name, (out, into) in linear.items():
            module = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(RANK, into) * 0.02
            tensors[f"{module}.lora_B.weight"] = torch.randn(out, RANK) * 0.02
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = sorted(name.split(".")[1] for name in linear)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))


# --- the contenders, each in a process of its own


def by_hubkit(folder: Path, out: Path, *adapters: str) -> Callable[[], None]:
    """The merge of ``adapters`` in one pass."""
    import torch  # noqa: F401  imported before the clock starts

    from hubkit.models.merging.merge import merge_all

    def work() -> None:
        merge_all(folder / "base", [(folder / name, out / name) for name in adapters])

    return work


def by_peft(folder: Path, out: Path) -> Callable[[], None]:
    """What PEFT's documentation says: load, merge_and_unload, save_pretrained."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def work() -> None:
        model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
        PeftModel.from_pretrained(model, folder / "one").merge_and_unload().save_pretrained(out)

    return work


def by_copy(folder: Path, out: Path) -> Callable[[], None]:
    """Read, take the sha256 (Python's, which uses the CPU's instructions for it), write, fsync: one pass."""
    buffer = memoryview(bytearray(8 * 2**20))

    def work() -> None:
        out.mkdir()
        for path in (folder / "base").glob("*.safetensors"):
            digest = hashlib.sha256()
            with path.open("rb", buffering=0) as source, (out / path.name).open("wb", buffering=0) as target:
                while length := source.readinto(buffer):
                    digest.update(buffer[:length])
                    target.write(buffer[:length])
                os.fsync(target.fileno())

    return work


def by_cp(folder: Path, out: Path) -> Callable[[], None]:
    """The two commands, `cp` and `sha256sum`: two passes."""

    def work() -> None:
        subprocess.run(["cp", "-r", folder / "base", out], check=True)
        subprocess.run(["sha256sum", *out.glob("*.safetensors")], check=True, stdout=subprocess.DEVNULL)
        os.sync()

    return work


CONTENDERS: dict[str, Callable[[Path, Path], Callable[[], None]]] = {
    "copy": by_copy,
    "cp": by_cp,
    "peft": by_peft,
    "one": lambda folder, out: by_hubkit(folder, out, "one"),
    "two": lambda folder, out: by_hubkit(folder, out, "one", "two"),
}
TITLES = {
    "copy": "copy with sha256 (one pass, fsync)",
    "cp": "`cp`, then `sha256sum`",
    "peft": "PEFT: load, merge_and_unload, save_pretrained",
    "one": "hubkit, one variant",
    "two": "hubkit, two variants",
}


def perform(name: str, folder: Path, out: Path) -> None:
    """What the measured process does; prints its figures."""
    work = CONTENDERS[name](folder, out)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime + children.ru_utime + children.ru_stime
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak}))


# --- the comparison


@dataclass
class Runs:
    """What each round of a contender took."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)

    def once(self, name: str, folder: Path) -> None:
        """Run the contender ``name`` once; what it wrote is removed."""
        os.sync()
        out = folder / "out"
        done = subprocess.run(
            [sys.executable, __file__, "--perform", name, folder, out],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        shutil.rmtree(out, ignore_errors=True)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
        figures = json.loads(done.stdout.splitlines()[-1])
        for key, value in figures.items():
            getattr(self, key).append(value)
        print(
            f"{name}: {figures['seconds']:.2f} s, CPU {figures['cpu']:.2f} s, {figures['peak'] / GIB:.2f} GiB"
            f" (load {os.getloadavg()[0]:.1f})",
            flush=True,
        )


def measure(folder: Path, rounds: int) -> dict[str, Runs]:
    """All contenders in turn, ``rounds`` times; one before them fills the page cache."""
    make_base(folder / "base", SMALL)
    for seed, name in enumerate(("one", "two")):
        make_adapter(folder / name, SMALL, seed)
    Runs().once("copy", folder)
    runs = {name: Runs() for name in CONTENDERS}
    for number in range(rounds):
        for name in list(runs) if number % 2 else reversed(list(runs)):
            runs[name].once(name, folder)
    return runs


def measure_large(folder: Path) -> Runs | None:
    """One merge of 7.2 B parameters; None when the disk has no room for it."""
    if shutil.disk_usage(folder).free < 36 * GIB:
        return None
    make_base(folder / "base", LARGE)
    make_adapter(folder / "one", LARGE, 0)
    runs = Runs()
    runs.once("one", folder)
    return runs


def middle(values: Sequence[float], unit: float = 1) -> str:
    """The median with least and most."""
    return f"{statistics.median(values) / unit:.2f} ({min(values) / unit:.2f}-{max(values) / unit:.2f})"


def ratio(runs: dict[str, Runs], one: str, other: str) -> float:
    """The median of the ratios of the rounds."""
    pairs = zip(runs[one].seconds, runs[other].seconds, strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def report(runs: dict[str, Runs], large: Runs | None, loads: tuple[float, float]) -> str:
    """The figures as Markdown."""
    rounds = len(runs["one"].seconds)
    lines = [
        "# What merging costs",
        "",
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}: 1.1 B parameters in bfloat16 (2.2 GB), LoRA r={RANK}"
        f" on every linear module, {rounds} times each in turn, on {os.cpu_count()} cores ({platform.machine()};"
        f" PEFT {version('peft')}, PyTorch {version('torch')}). The load of the machine was {loads[0]:.1f} at the"
        f" start and {loads[1]:.1f} at the end (one minute). Seconds of the work without imports, and of processor"
        " time; peak resident memory. Medians, with least and most. The base was in the page cache; what hubkit and the"
        " copy wrote was on the disk at the end, PEFT's was not.",
        "",
        "| | wall, s | processor, s | memory, GiB |",
        "|---|---:|---:|---:|",
    ]
    for name, item in runs.items():
        lines.append(f"| {TITLES[name]} | {middle(item.seconds)} | {middle(item.cpu)} | {middle(item.peak, GIB)} |")
    if large:
        lines.append(
            f"| hubkit, one variant of 7.2 B (14.5 GB), once | {large.seconds[0]:.1f} | {large.cpu[0]:.1f}"
            f" | {large.peak[0] / GIB:.2f} |"
        )
    lines += ["", "| aim | measured | |", "|---|---:|---|"]
    lines += [f"| {aim} | {figure} | {'met' if met else 'MISSED'} |" for aim, figure, met in aims(runs, large)]
    lines += [
        "",
        "Ratios are medians of the rounds' ratios. Each variant is multiplied, hashed twice (sha256 and git's SHA-1,"
        " which the manifest has) and written by itself: what two variants share is reading. On two cores, which one"
        " variant already keeps busy, the second costs nearly as much as the first; each digest is one thread's work,"
        " so with more cores the two run side by side.",
    ]
    return "\n".join(lines) + "\n"


def aims(runs: dict[str, Runs], large: Runs | None) -> list[tuple[str, str, bool]]:
    """Each aim, what was measured, and whether it is met."""
    peft, copy, two = (ratio(runs, "one", "peft"), ratio(runs, "one", "copy"), ratio(runs, "two", "one"))
    found: list[tuple[str, str, bool]] = [
        (f"one variant takes at most {PEFT_RATIO:g} of PEFT", f"{peft:.2f}", peft <= PEFT_RATIO),
        (f"and at most {COPY_RATIO:g} of a copy with sha256", f"{copy:.2f}", copy <= COPY_RATIO),
        (f"two variants take at most {TWO_RATIO:g} of one", f"{two:.2f}", two <= TWO_RATIO),
    ]
    if large:
        peak = large.peak[0]
        found.append(("7.2 B stay under 1.5 GiB of memory", f"{peak / GIB:.2f} GiB", peak < LARGE_LIMIT))
    return found


def main() -> None:
    """Measure, print and write docs/bench-merging.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-large", action="store_true", help="leave out the merge of 7.2 B parameters")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench-merging.md")
    parser.add_argument("--perform", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.perform:
        name, folder, out = chosen.perform
        perform(name, Path(folder), Path(out))
        return
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="hubkit-bench-") as name:
        runs = measure(Path(name), chosen.rounds)
    large: Any = None
    if not chosen.no_large:
        with tempfile.TemporaryDirectory(prefix="hubkit-bench-") as name:
            large = measure_large(Path(name))
    text = report(runs, large, (before, os.getloadavg()[0]))
    chosen.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
